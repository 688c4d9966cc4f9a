"""The models that measure: the one whose probabilities are asked for, and the embedder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from expertchat.backends.folders import embedder_problem, find_here
from expertchat.backends.loading import LaterEmbedder, embedder_path, load_backend, load_embedder
from expertchat.config import ConfigError, EmbedderConfig, ModelConfig, RewardModelConfig
from expertchat.experts.registry import family_class
from expertchat.text.sentences import shown_path

if TYPE_CHECKING:
    from expertchat.backends.local import LocalBackend
    from expertchat.backends.reward_model import RewardModel

EMBEDDED = "embedded:"
EXACT = "fp32: figures are to be exact; model.dtype=bf16 takes half the memory"


def load_model(config: ModelConfig, seed: int, threads: int | None = None, exact: bool = True) -> LocalBackend:
    """The backend of a model whose probabilities are asked for. Raises ConfigError.

    `exact`: dtype=auto is fp32 on a CPU, where bf16 is chosen for its speed elsewhere: its rounding moves single probabilities by percents.
    """
    if config.backend != "local":
        raise ConfigError("model.backend=scripted: its words come from a file, so they have no probabilities; name a model")
    import torch

    from expertchat.backends.hardware import choose_device, usable_cores

    exact = exact and config.dtype == "auto" and choose_device(config.device)[0] == "cpu"
    config = config.model_copy(update={"dtype": "fp32"}) if exact else config
    torch.set_num_threads(threads or (1 if config.path.startswith(EMBEDDED) else usable_cores()))
    backend: Any = load_backend(config, seed, family_class(config.family).family.stop)
    if exact:
        backend.info = replace(backend.info, notes=(*backend.info.notes, EXACT))
    return backend  # type: ignore[no-any-return]


def load_types(config: RewardModelConfig, threads: int | None = None) -> RewardModel:
    """The classifier that says of which type a text is. Raises ConfigError."""
    import torch

    from expertchat.backends.hardware import usable_cores
    from expertchat.backends.reward_model import OF_TYPE, RewardModel

    torch.set_num_threads(threads or usable_cores())
    return RewardModel.load(config.model_copy(update={"label": OF_TYPE}))


def find_embedder(config: EmbedderConfig, systems: Iterable[str | None]) -> tuple[LaterEmbedder | None, str]:
    """The embedder for texts by these systems, and which it is; or None and why.

    embedder.path=auto is the embedded one where all systems are embedded models, else all-mpnet-base-v2 where it is here: nothing is
    fetched for it. Raises ConfigError for one that is named and not to be had.
    """
    known = list(systems)
    own = bool(known) and all(system is not None and system.startswith(EMBEDDED) for system in known)
    paths = [EMBEDDED] if own else ["another"]
    if config.path == "auto":
        path, _ = embedder_path(config, paths)
        try:
            here = find_here(path, check=embedder_problem, models_dir=config.models_dir)
        except ConfigError as error:
            return None, error.problems[0]
        if here is None:
            return None, f"{path} is not here; name a folder, embedder.path=FOLDER, or take embedder=minilm"
    found = load_embedder(config, paths)
    return found, found.note or f"embedder: {shown_path(found.name)}"
