"""From a config to a loaded backend or embedder. torch and transformers are imported only where a model is loaded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from expertchat.backends.base import Backend, Embedder, Embedding, EmbedRequest
from expertchat.backends.folders import embedder_problem, find_folder, resolve_path
from expertchat.config import ConfigError, EmbedderConfig, ModelConfig

__all__ = ["load_backend", "load_embedder", "resolve_path"]

DEFAULT_EMBEDDER = "sentence-transformers/all-mpnet-base-v2"
EMBEDDED_EMBEDDER = "embedded:embedder"


def load_backend(config: ModelConfig, seed: int, stop_tokens: Sequence[str] = (), max_batch: int = 64) -> Backend:
    """The backend of a model config; `stop_tokens` are the family's. Raises ConfigError."""
    if config.backend == "scripted":
        from expertchat.backends.scripted import ScriptedBackend

        if not config.script:
            raise ConfigError("model.script is not set, but backend=scripted needs it: name a JSONL file of replies")
        return ScriptedBackend.from_file(config.script, config.context_length or 4096)
    folder = find_folder(config.path, config.revision)
    from expertchat.backends.local import LocalBackend

    return LocalBackend.load(
        folder,
        config.path,
        seed,
        dtype=config.dtype,
        device=config.device,
        attention=config.attention,
        context_length=config.context_length,
        stop_tokens=stop_tokens,
        max_batch=max_batch,
    )


class LaterEmbedder:
    """An embedder that is found at once and loaded when the first text comes: a run speaks its first word seconds earlier.

    `announce(done, seconds)` is called before and after the loading.
    """

    def __init__(self, folder: Path, name: str, config: EmbedderConfig, announce: Callable[[bool, float], None]) -> None:
        self.folder, self.name, self.config, self.announce = folder, name, config, announce
        self._embedder: Embedder | None = None

    def embed(self, requests: Sequence[EmbedRequest]) -> list[Embedding]:
        """The vectors of the requests' texts. Raises ConfigError where the folder turns out to be broken."""
        if self._embedder is None:
            from expertchat.backends.embedding import SentenceEmbedder

            began = time.monotonic()
            self.announce(False, 0.0)
            self._embedder = SentenceEmbedder.load(self.folder, self.name, self.config.device, self.config.batch_size)
            self.announce(True, time.monotonic() - began)
        return self._embedder.embed(requests)


def load_embedder(
    config: EmbedderConfig, model_paths: Sequence[str], announce: Callable[[bool, float], None] = lambda done, seconds: None
) -> Embedder:
    """The sentence embedder. path=auto: the embedded one if all models are embedded or scripted, else all-mpnet-base-v2.

    Raises ConfigError if it is not there; loads it at its first use.
    """
    path = config.path
    if path == "auto":
        embedded = all(p.startswith(("embedded:", "scripted")) for p in model_paths)
        path = EMBEDDED_EMBEDDER if embedded else DEFAULT_EMBEDDER
    try:
        folder = find_folder(path, check=embedder_problem)
    except ConfigError as error:
        raise ConfigError([f"embedder: {problem} (embedder.path={config.path})" for problem in error.problems]) from None
    return LaterEmbedder(folder, path, config, announce)
