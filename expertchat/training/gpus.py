"""An update on whatever GPU the model stands: what the libraries take for the first one."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch


@contextlib.contextmanager
def anywhere(base: Any) -> Iterator[None]:
    """accelerate refuses to train a quantised model whose map says that all of it stands on another GPU than the first: hide the map."""
    places = getattr(base, "hf_device_map", None)
    whole = places is not None and len(set(places.values())) == 1
    if whole:
        del base.hf_device_map
    try:
        yield
    finally:
        if whole:
            base.hf_device_map = places


def on_gpu(device: torch.device, forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward` with `device` as the current GPU: TRL's kernels run on that one, wherever their tensors are."""
    if device.type != "cuda":
        return forward

    @functools.wraps(forward)
    def there(*args: Any, **more: Any) -> Any:
        with torch.cuda.device(device):
            return forward(*args, **more)

    return there
