"""A plugin that runs tests written for the CPU on the GPU: python -m pytest -p tests.proofs.on_gpu tests/test_engine.py

Whatever is loaded "on the CPU" goes to the GPU, and the tokens that a test gives to a model follow it there.
"""

from __future__ import annotations

from typing import Any

import pytest


def pytest_configure(config: pytest.Config) -> None:
    import torch

    if not torch.cuda.is_available():
        raise pytest.UsageError("torch finds no GPU here")
    from expertchat.backends import embedding, hardware, weights

    chosen = hardware.choose_device

    def on_gpu(wanted: str) -> tuple[str, str | None]:
        return chosen("cuda" if wanted == "cpu" else wanted)

    weights.choose_device = embedding.choose_device = on_gpu  # type: ignore[attr-defined]
    load = weights.load_weights

    def loaded(*arguments: Any, **more: Any) -> Any:
        found = load(*arguments, **more)
        found.model.register_forward_pre_hook(_follow, with_kwargs=True)
        return found

    weights.load_weights = loaded
    from expertchat.backends import local

    local.load_weights = loaded


def _follow(module: Any, arguments: tuple[Any, ...], more: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    import torch

    device = next(module.parameters()).device

    def move(value: Any) -> Any:
        return value.to(device) if isinstance(value, torch.Tensor) else value

    return tuple(move(value) for value in arguments), {key: move(value) for key, value in more.items()}
