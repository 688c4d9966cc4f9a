"""One model that speaks in several ways: with an adapter, with another, with none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Voice:
    """A model whose every pass begins with `switch()`; all else is the model's own."""

    def __init__(self, model: Any, switch: Callable[[], None]) -> None:
        self.__dict__.update(_model=model, _switch=switch)

    def __call__(self, *args: Any, **more: Any) -> Any:
        self._switch()
        return self._model(*args, **more)

    def generate(self, *args: Any, **more: Any) -> Any:
        self._switch()
        return self._model.generate(*args, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._model, name, value)


def bare(model: Any) -> Any:
    """The model itself, whichever voice it speaks with."""
    return bare(model._model) if isinstance(model, Voice) else model


def switch(model: Any) -> None:
    """Let a model that has several voices speak with this one, for passes that do not go through it."""
    if isinstance(model, Voice):
        model._switch()
        switch(model._model)
