"""A model as a run has trained it: its base with a saved adapter on, or with trained weights worked in."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from expertchat.backends.adapters import Adapters
from expertchat.backends.learnt import WEIGHTS, Learnt
from expertchat.backends.local import LocalBackend
from expertchat.config import ConfigError
from expertchat.text.sentences import first_line

K = TypeVar("K", bound=Hashable)


def as_trained(backend: LocalBackend, learnt: Learnt) -> LocalBackend:
    """The model of `backend` as it was trained. Raises ConfigError where that is not of this model."""
    return voices(backend, {"": learnt})[""]


def voices(backend: LocalBackend, wanted: Mapping[K, Learnt | None]) -> dict[K, LocalBackend]:
    """One model that speaks in several ways: with the adapters of runs, and as it is (None). All of them share its weights.

    What can be no adapter (trained weights, an adapter on top of another) is worked into the model, and must stand alone.
    Raises ConfigError.
    """
    adapters, found = Adapters(backend.model), dict[K, LocalBackend]()
    for number, (key, learnt) in enumerate(wanted.items()):
        if learnt is None:
            continue
        if not learnt.shares:
            assert len(wanted) == 1, "these weights are no adapter on the base that others speak with"
            *before, last = learnt.layers
            for one in before if learnt.adapter else [*before, last]:
                _into(backend, one)
            if not learnt.adapter:
                found[key] = _called(backend, learnt)
                continue
        adapters.load(f"trained_{number}", learnt.folder)
        found[key] = _called(backend.voice(partial(adapters.use, f"trained_{number}")), learnt)
    plain = backend.voice(partial(adapters.use, None)) if adapters.names else backend
    return {key: found[key] if learnt is not None else plain for key, learnt in wanted.items()}


def merged(backend: LocalBackend, learnt: Learnt) -> LocalBackend:
    """The same backend with all that was trained worked into its weights, so that it can be trained further. Raises ConfigError."""
    for one in learnt.layers:
        _into(backend, one)
    return _called(backend, learnt)


def work_in(model: Any, learnt: Learnt, name: str) -> None:
    """Put one training's weights into a model's own, in its number type. Raises ConfigError; `name` is the model's."""
    if getattr(model, "quantization_method", None):
        raise ConfigError(
            f"{learnt.folder}: cannot be worked into {name}, which is quantised; merge it once (expertchat merge adapter={learnt.folder} "
            "out=FOLDER) and name that folder as the model, or load the model with quantization=none"
        )
    if not learnt.adapter:
        return _replace_weights(model, learnt, name)
    adapters = Adapters(model)
    adapters.load("trained", learnt.folder)
    into_base(adapters, learnt.folder)
    return None


def into_base(adapters: Adapters, folder: Path) -> Any:
    """The base with the adapter that is on worked into its weights, and no adapter any more. Raises ConfigError; `folder` held it."""
    try:
        return adapters.model.merge_and_unload(safe_merge=True)
    except ValueError as error:  # peft's word for weights that are no numbers any more
        raise ConfigError(f"adapter {folder}: {first_line(error)}; take another round's") from None


def _into(backend: LocalBackend, learnt: Learnt) -> None:
    work_in(backend.model, learnt, backend.info.name)
    backend.refresh()


def _replace_weights(model: Any, learnt: Learnt, name: str) -> None:
    try:
        tensors = load_file(learnt.folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{learnt.folder / WEIGHTS} cannot be read ({first_line(error)}); name another round") from None
    parameters = dict(model.named_parameters())
    odd = [key for key, tensor in tensors.items() if key not in parameters or parameters[key].shape != tensor.shape]
    if odd:
        raise ConfigError(f"{learnt.folder / WEIGHTS}: {odd[0]} has no place in {name}; the run's base is another model")
    with torch.no_grad():
        for key, tensor in tensors.items():
            parameters[key].copy_(tensor)


def _called(backend: LocalBackend, learnt: Learnt) -> LocalBackend:
    """It goes by the name of what it was trained with."""
    backend.info = replace(backend.info, name=f"{backend.info.name} + {learnt.shown}")
    return backend
