"""Runs that have trained something, made without training: a config, and an adapter with weights that do something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from expertchat.backends.adapters import Adapters
from expertchat.backends.folders import find_folder
from expertchat.backends.weights import load_weights
from expertchat.folder.embedded import noted

TARGETS = ("q_proj", "v_proj")


def adapter(place: Path, base: str = "embedded:llama", seed: int = 1, size: float = 0.3) -> Path:
    """A saved adapter of rank 2."""
    model = load_weights(find_folder(base), base, dtype="fp32", device="cpu").model
    adapters = Adapters(model)
    adapters.attach("x", TARGETS, r=2, alpha=4, path=base)
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapters.parameters("x").values():
        parameter.data = torch.randn(parameter.shape, generator=generator) * size
    adapters.save("x", place)
    return place


def run(place: Path, base: str = "embedded:llama", trained: str | None = None, seed: int = 1, **expert: Any) -> Path:
    """A run of online_dpo whose expert a has learned, with the checkpoint of its third round."""
    own = {"family": "world", "path": base, "trained": trained, "quantization": "none", **expert}
    experts = {"a": own, "b": {"path": "embedded:mixtral"}}
    place.mkdir(parents=True)
    (place / "config.yaml").write_text(yaml.safe_dump({"experts": experts, "learner": "a", "rounds": 3}))
    adapter(place / "adapter", base, seed)
    adapter(place / "rounds" / "000003" / "adapter", base, seed + 10)
    (place / "rounds" / "000003" / "DONE").write_text("{}")
    return place


def weights(place: Path, base: str = "embedded:llama") -> Path:
    """A run that has trained the last layer's own weights."""
    model = load_weights(find_folder(base), base, dtype="fp32", device="cpu").model
    last = {name: p.detach() + 0.05 for name, p in model.named_parameters() if f".layers.{model.config.num_hidden_layers - 1}." in name}
    (place / "adapter").mkdir(parents=True)
    save_file(last, place / "adapter" / "weights.safetensors")
    config = {"model": {"family": "world", "path": base}}
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    (place / "provenance.json").write_text(json.dumps(noted(config)))
    return place


def told(place: Path, **changes: Any) -> None:
    """Change what an adapter's folder says of itself."""
    file = place / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
