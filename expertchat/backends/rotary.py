"""Rotary positions that follow the longest row of a pass (LongRoPE: Phi-3 and 4 mini; dynamic NTK): here a token's position alone decides.

transformers takes other frequencies for all rows of a pass as soon as one of them is long. So a short row would say other words beside a
long one, and keys that were kept would be turned otherwise than those that are put behind them.
"""

from __future__ import annotations

from typing import Any

from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

LONG, DYNAMIC = "longrope", "dynamic"


def settle(model: Any, context_length: int | None) -> tuple[int | None, str | None]:
    """Take the frequencies of rows of `context_length` tokens for all rows. Returns the context length, and a note.

    Where none is set it is the length up to which the model has the frequencies that it was first trained with: no row is longer then, and
    each is as transformers has it. Other models stay as they are.
    """
    found = [(module, kind) for module in model.modules() if (kind := _kind(module)) is not None]
    if not found:
        return context_length, None
    usual = min(_usual(module, kind) for module, kind in found)
    length = context_length or usual
    for module, kind in found:
        frequencies, scaling = ROPE_INIT_FUNCTIONS[kind](module.config, module.inv_freq.device, seq_len=length)
        module.inv_freq.copy_(frequencies)
        module.attention_scaling = scaling
        module.follows, module.rope_type = kind, "default"  # which transformers leaves alone
    if length > usual:
        return length, (
            f"its rotary positions are those of {length} tokens in every row (context_length); at most {usual} takes those of shorter texts"
        )
    return length, (
        f"its rotary positions change where a row has more than {usual} tokens: its context is {length}; a greater context_length takes "
        "those of long texts for every row"
    )


def _kind(module: Any) -> str | None:
    """The kind of positions of a module that makes them, where they follow the longest row."""
    kind = getattr(module, "follows", getattr(module, "rope_type", None))
    return kind if isinstance(kind, str) and hasattr(module, "inv_freq") and (kind == LONG or DYNAMIC in kind) else None


def _usual(module: Any, kind: str) -> int:
    """The tokens of a row up to which its frequencies are those of the beginning."""
    return int(module.config.rope_parameters["original_max_position_embeddings"] if kind == LONG else module.original_max_seq_len)
