"""A model as a run has trained it: its base with a saved adapter, or with the trained weights themselves."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from expertchat.backends.adapters import Adapters
from expertchat.backends.local import LocalBackend
from expertchat.config import ConfigError
from expertchat.text.sentences import first_line

ADAPTER, WEIGHTS = "adapter_config.json", "weights.safetensors"


def as_trained(backend: LocalBackend, folder: Path) -> LocalBackend:
    """The model of `backend` with what lies in a checkpoint's folder. Raises ConfigError where that is not of this model."""
    if (folder / ADAPTER).is_file():
        adapters = Adapters(backend.model)
        adapters.load("policy", folder)
        return backend.voice(partial(adapters.use, "policy"))
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{folder}: holds neither an adapter nor trained weights that can be read ({first_line(error)})") from None
    parameters = dict(backend.model.named_parameters())
    odd = [name for name, tensor in tensors.items() if name not in parameters or parameters[name].shape != tensor.shape]
    if odd:
        raise ConfigError(f"{folder / WEIGHTS}: {odd[0]} has no place in {backend.info.name}; the run's base is another model")
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)
    backend.refresh()
    return backend
