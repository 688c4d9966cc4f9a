"""From a config to a loaded backend or embedder. torch and transformers are imported only where a model is loaded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from expertchat.backends.base import Backend, Embedder, Embedding, EmbedRequest
from expertchat.backends.folders import cached, embedder_problem, find_folder, resolve_path
from expertchat.backends.gguf import is_gguf
from expertchat.backends.learnt import Learnt, find_learnt
from expertchat.backends.packaged import install_line
from expertchat.backends.served.terms import Terms
from expertchat.config import NOT_SEATS, ConfigError, EmbedderConfig, EngineConfig, ModelConfig, RewardModelConfig
from expertchat.events import Loading
from expertchat.text.sentences import shown_path

if TYPE_CHECKING:
    from expertchat.backends.served.client import Client

__all__ = ["find_models", "load_backend", "load_embedder", "load_models", "resolve_path"]

DEFAULT_EMBEDDER = "sentence-transformers/all-mpnet-base-v2"
EMBEDDED_EMBEDDER = "embedded:embedder"
EITHER = "mpnet_or_minilm"
MINILM = "package:all_minilm_l6_v2/model.zip#sha256=0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592"
Tell = Callable[[Loading], None]


class Wanted(NamedTuple):
    """A model to load, and its family's stop tokens."""

    config: ModelConfig
    stop_tokens: tuple[str, ...] = ()
    device_map: dict[str, int | str] | None = None  # which part goes on which GPU; None follows the config's device


def find_models(wanted: Mapping[str, Wanted], tell: Tell = lambda event: None) -> dict[str, Path]:
    """The checked folder of each model that has one; what is not in the hub's cache is downloaded. Raises ConfigError with all problems."""
    folders: dict[str, Path] = {}
    problems: list[str] = []
    for key, (config, *_) in wanted.items():
        if config.backend in ("scripted", "server", "human"):
            continue
        try:
            from_hub, began = isinstance(resolve_path(config.path, config.models_dir), str), time.monotonic()
            if from_hub:
                tell(Loading(what=f"{shown_path(config.path)} from the hub"))
            folders[key] = find_folder(config.path, config.revision, models_dir=config.models_dir)
            if from_hub:
                tell(Loading(what=f"{shown_path(config.path)} from the hub", done=True, seconds=time.monotonic() - began))
        except ConfigError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise ConfigError(problems)
    return folders


def load_models(
    wanted: Mapping[str, Wanted],
    folders: Mapping[str, Path],
    seed: int,
    engine: EngineConfig,
    tell: Tell = lambda event: None,
    terms: Terms | None = None,
) -> dict[str, Backend]:
    """The backends, one after the other. Raises ConfigError.

    transformers cannot build two models at once; and to read the next one's files meanwhile only takes from the disk what the first one
    waits for (2 x 1 GiB that were not in the system's cache: 3.3 s instead of 3.1 s).
    """
    loaded: dict[str, Backend] = {}
    for key, (config, stop_tokens, device_map) in wanted.items():
        gib, began = gib_of(weight_files(folders[key])) if key in folders else 0.0, time.monotonic()
        what = shown_path(config.path) + (_first_use(folders[key]) if key in folders else "")
        tell(Loading(what=what, gib=gib))
        if config.backend in ("server", "llamacpp"):
            loaded[key] = connect(config, seed, terms or Terms())
        else:
            loaded[key] = load_backend(config, seed, stop_tokens, engine.max_batch, engine.cache_gib, device_map)
        tell(Loading(what=what, done=True, seconds=time.monotonic() - began, gib=gib))
    _share_budgets(loaded.values())
    return loaded


def connect(config: ModelConfig, seed: int, terms: Terms) -> Backend:
    """A model behind an address, or one that llama.cpp runs in this process. Raises ConfigError."""
    from expertchat.backends.served.backend import ServedBackend

    if config.backend == "llamacpp":
        from expertchat.backends.served.llamacpp import beside

        return beside(config, seed, terms)
    return ServedBackend.connect(config, seed, client_for(config, terms))


def client_for(config: ModelConfig | EmbedderConfig | RewardModelConfig, terms: Terms) -> Client:
    """Who asks the server of a config: one for all that is asked of the same addresses. Raises ConfigError."""
    from expertchat.backends.served.address import places_of
    from expertchat.backends.served.client import client_of

    return client_of(places_of(config.url), config.key_from, terms)


def _share_budgets(backends: Iterable[Backend]) -> None:
    """The engines of one device keep as much together as one of them would keep alone."""
    budgets: dict[str, Any] = {}
    for one in backends:
        if one.engine is not None:
            one.engine.share(budgets.setdefault(one.device, one.engine.budget))


def load_backend(
    config: ModelConfig,
    seed: int,
    stop_tokens: Sequence[str] = (),
    max_batch: int | None = None,
    cache_gib: float | None = None,
    device_map: dict[str, int | str] | None = None,
) -> Backend:
    """The backend of a model config, as it was trained; `stop_tokens` are the family's. What is None follows the free memory.

    Raises ConfigError.
    """
    if config.backend == "scripted":
        from expertchat.backends.scripted import ScriptedBackend

        if not config.script:
            raise ConfigError("model.script is not set, but backend=scripted needs it: name a JSONL file of replies")
        return ScriptedBackend.from_file(config.script, config.context_length or 4096)
    if config.backend == "human":
        from expertchat.backends.person import Person

        return Person()
    folder = find_folder(config.path, config.revision, models_dir=config.models_dir)
    from expertchat.backends.local import LocalBackend

    loaded = LocalBackend.load(
        folder,
        shown_path(config.path),
        seed,
        dtype=config.dtype,
        device=config.device,
        attention=config.attention,
        quantization=config.quantization,
        device_map=device_map,
        context_length=config.context_length,
        stop_tokens=stop_tokens,
        max_batch=max_batch,
        cache_gib=cache_gib,
        thinking=config.thinking,
    )
    if config.trained is None:
        return loaded
    from expertchat.backends.trained import as_trained

    return as_trained(loaded, trained_of(config))


def trained_of(config: ModelConfig, seat: str = "model") -> Learnt:
    """What the model of a seat was trained with (config.trained). Raises ConfigError with its key."""
    key = seat if seat in NOT_SEATS or "." in seat else f"experts.{seat}"
    try:
        return find_learnt(str(config.trained))
    except ConfigError as error:
        raise ConfigError([f"{key}.trained={config.trained}: {problem}" for problem in error.problems]) from None


def _first_use(folder: Path) -> str:
    """What is to be said of a model that takes longer this time."""
    if not is_gguf(folder):
        return ""
    from expertchat.backends.unpacking import is_unpacked

    return "" if is_unpacked(folder) else ", unpacked once (a later start is fast)"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model's folder, those of its parts included; or the GGUF file."""
    if is_gguf(folder):
        return [folder]
    return sorted(file for file in folder.rglob("*.safetensors") if not file.name.startswith("consolidated"))


def gib_of(files: Sequence[Path]) -> float:
    return sum(file.stat().st_size for file in files) / 2**30


class LaterEmbedder(Embedder):
    """An embedder that is found at once and loaded when the first text comes: a run speaks its first word seconds earlier.

    Not in a thread beside the first turns: measured, the imports hold up the token loop for longer than they take by themselves.
    `announce(done, seconds)` is called before and after the loading; `say` hears what its folder claims and has not. `gib`: size of the
    weight files.
    """

    def __init__(
        self, folder: Path, name: str, config: EmbedderConfig, announce: Callable[[bool, float], None], note: str | None = None
    ) -> None:
        self.note = note  # why it is this one
        self.folder, self.name, self.config, self.announce = folder, name, config, announce
        self.gib = gib_of(weight_files(folder))
        self._embedder: Embedder | None = None

    @property
    def device(self) -> str:
        from expertchat.backends.hardware import choose_device

        return choose_device(self.config.device)[0]

    def embed(self, requests: Sequence[EmbedRequest]) -> list[Embedding]:
        """The vectors of the requests' texts. Raises ConfigError where the folder turns out to be broken."""
        if self._embedder is None:
            from expertchat.backends.embedding import SentenceEmbedder

            began = time.monotonic()
            self.announce(False, 0.0)
            config = self.config
            self._embedder = SentenceEmbedder.load(self.folder, self.name, config.device, config.batch_size, config.dtype)
            self.announce(True, time.monotonic() - began)
            for note in self._embedder.notes:
                self.say(note)
        return self._embedder.embed(requests)


def load_embedder(
    config: EmbedderConfig, model_paths: Sequence[str], announce: Callable[[bool, float], None] = lambda done, seconds: None
) -> LaterEmbedder:
    """The sentence embedder (see embedder_path). Raises ConfigError if it is not there; loads it at its first use."""
    path, note = embedder_path(config, model_paths)
    try:
        folder = find_folder(path, check=embedder_problem, models_dir=config.models_dir)
    except ConfigError as error:
        problems = [f"embedder: {problem} (embedder.path={config.path}){other_embedder(path)}" for problem in error.problems]
        raise ConfigError(problems) from None
    return LaterEmbedder(folder, shown_path(path), config, announce, note)


def other_embedder(path: str) -> str:
    """What may be taken instead of an embedder that is missed."""
    if path == MINILM or path.startswith("embedded:"):
        return ""
    return f". Or take embedder=minilm, out of its package ({install_line(MINILM)}); its scores are others"


def embedder_path(config: EmbedderConfig, model_paths: Sequence[str]) -> tuple[str, str | None]:
    """The path of the embedder, and a note where it was chosen by what is here.

    auto: the embedded one if all models are embedded or scripted, else all-mpnet-base-v2; mpnet_or_minilm: the latter where models_dir or
    the hub's cache has it, else all-MiniLM-L6-v2 out of its package.
    """
    if config.path == "auto":
        embedded = all(path.startswith(("embedded:", "scripted")) for path in model_paths)
        return (EMBEDDED_EMBEDDER if embedded else DEFAULT_EMBEDDER), None
    if config.path != EITHER:
        return config.path, None
    try:
        place: Path | str | None = resolve_path(DEFAULT_EMBEDDER, config.models_dir)
        place = place if isinstance(place, Path) else cached(DEFAULT_EMBEDDER)
    except ConfigError:
        place = None
    if place is not None and embedder_problem(Path(place)) is None:
        return DEFAULT_EMBEDDER, "embedder: all-mpnet-base-v2, which is here"
    why = "because all-mpnet-base-v2 is neither in models_dir (EXPERTCHAT_MODELS) nor in the hub's cache"
    return MINILM, f"embedder: all-MiniLM-L6-v2 out of its package, {why}; WIM scores by it are not comparable with mpnet's"
