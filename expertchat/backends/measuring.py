"""What a model really takes: live and peak bytes of tensors on a CPU, where no allocator counts them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class TensorBytes(TorchDispatchMode):
    """Counts the storages that operations make while it is entered: `live` now, `peak` at most. What was there before is not counted."""

    def __init__(self, before: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, int] = {}
        self._before = {tensor.untyped_storage()._cdata for tensor in before}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for value in tree_iter(out):
            if isinstance(value, Tensor):
                self._add(value)
        return out

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known or key in self._before:
            return
        size = storage.nbytes()
        self._known[key] = size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.live -= self._known.pop(key, 0)


class Memory:
    """`peak`: bytes beyond those that were there at the beginning, over all GPUs of a model, or of tensors where it is on the CPU."""

    def __init__(self, model: Any) -> None:
        tensors = [*model.parameters(), *model.buffers()]
        self.peak = 0
        self._gpus = sorted({t.device.index or 0 for t in tensors if t.device.type == "cuda"})
        self._counted = None if self._gpus else TensorBytes(tensors)

    def __enter__(self) -> Memory:
        if self._counted is not None:
            self._counted.__enter__()
            return self
        for gpu in self._gpus:
            torch.cuda.synchronize(gpu)
            torch.cuda.reset_peak_memory_stats(gpu)
        self._before = {gpu: torch.cuda.memory_allocated(gpu) for gpu in self._gpus}
        return self

    def __exit__(self, *error: Any) -> None:
        if self._counted is not None:
            self._counted.__exit__(*error)
            self.peak = self._counted.peak
            return
        for gpu in self._gpus:
            torch.cuda.synchronize(gpu)
        self.peak = sum(torch.cuda.max_memory_allocated(gpu) - before for gpu, before in self._before.items())


def model_bytes(model: Any) -> int:
    """Bytes of a model's weights with their quantisation states."""
    from expertchat.backends.quantization import footprint

    return sum(size for kind, size in footprint(model).items() if kind != "buffers")
