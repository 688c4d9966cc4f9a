"""TRL's fused output layer, as an update needs it: on the tokens of the replies alone, and in fp32.

Both are switches of TRL's own: where one is gone, the update is slower, or its log probabilities come in steps of the model's type.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator

from trl.trainer import dpo_trainer
from trl.trainer import utils as trl_utils

EVERYWHERE = "_use_triton"  # TRL scores the replies alone on GPUs; elsewhere it computes the logits of every prompt token too
IN_FP32 = "cast_lm_head_to_fp32"  # its default is the model's type: logits of bf16 near 20 come in steps of 1/8


@contextlib.contextmanager
def exact_replies() -> Iterator[None]:
    """Trainers that are built and run in here score replies alone, in fp32."""
    with contextlib.ExitStack() as stack:
        if hasattr(trl_utils, EVERYWHERE):
            stack.enter_context(_replaced(trl_utils, EVERYWHERE, lambda device: True))
        fuse = getattr(dpo_trainer, "add_fused_lm_head", None)
        if fuse is not None and IN_FP32 in inspect.signature(fuse).parameters:
            stack.enter_context(_replaced(dpo_trainer, "add_fused_lm_head", functools.partial(fuse, **{IN_FP32: True})))
        yield


@contextlib.contextmanager
def _replaced(module: object, name: str, value: object) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
