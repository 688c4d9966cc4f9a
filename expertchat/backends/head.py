"""The output layer in fp32, whatever number type the model has: probabilities that are read must not come in steps.

A logit of bf16 near 20 comes in steps of 1/8, and one near 5 in steps of 1/32: options whose probabilities differ by a tenth look alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

ROWS = 8192  # words whose weights are there in fp32 at a time


@contextmanager
def exact_head(model: Any) -> Iterator[None]:
    """Within it, `model` computes its logits in fp32 from the last hidden state. What it does to them afterwards (caps, scales) stays.

    An output layer that is no plain linear layer (one with an adapter of its own, say) computes as it always does.
    """
    head: Any = model.get_output_embeddings()
    if not _plain(head) or head.weight.dtype == torch.float32:
        yield
        return
    before = vars(head).get("forward")  # a hook of accelerate's, where a model stands on several devices
    head.forward = lambda hidden: exact_logits(hidden, head.weight, head.bias)
    try:
        yield
    finally:
        if before is None:
            del head.forward
        else:
            head.forward = before


def _plain(head: Any) -> bool:
    return type(head) is nn.Linear


def exact_logits(hidden: Tensor, weight_V_D: Tensor, bias_V: Tensor | None = None) -> Tensor:
    """Logits [..., V] in fp32 of hidden states [..., D], computed where the weights are; ROWS of them are in fp32 at a time."""
    hidden = hidden.to(weight_V_D.device).float()
    parts = [linear(hidden, rows.float()) for rows in weight_V_D.split(ROWS)]
    logits = torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]
    return logits if bias_V is None else logits + bias_V.float()
