"""The bare forward pass: the model alone on as many tokens, nothing sampled, no text."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from expertchat.bench.subject import Subject

PROBE = 6  # steps after which it is known which attention is the faster


def fed(lengths: Sequence[int], tokens: int) -> list[int]:
    """New tokens of each turn's prompt for the one who speaks: what came since its last turn, whose last token was never fed.

    >>> fed([100, 160, 210], 48)  # the third turn: 210 - (100 + 47)
    [100, 160, 63]
    """
    return [max(1, length - (lengths[i - 2] + tokens - 1 if i > 1 else 0)) for i, length in enumerate(lengths)]


def bare_dialogues(subject: Subject, rows: int, steps: Sequence[int], tokens: int) -> None:
    """For each turn a pass over `steps[i]` new tokens and tokens - 1 passes over one, with one kept cache for each speaker."""
    caches = [new_cache(subject), new_cache(subject)]
    for turn, new in enumerate(steps):
        bare(subject, caches[turn % 2], rows, new, tokens)


def bare(subject: Subject, cache: Any, rows: int, new: int, tokens: int, copies: int = 1) -> None:
    """A pass over `new` tokens of each row, then tokens - 1 passes over one token of each; `copies`: the rows are multiplied in between."""
    import torch

    model = subject.model
    words = torch.randint(model.config.get_text_config().vocab_size, (rows * copies, max(1, new)), device=model.device)
    with torch.inference_mode():
        model(input_ids=words[:rows], past_key_values=cache, use_cache=True, logits_to_keep=1)
        if copies > 1:
            cache.batch_repeat_interleave(copies)
        for _ in range(tokens - 1):
            mask = None
            if subject.masked:  # the engine's attention is made for masks, and the faster for them
                mask = torch.zeros(rows * copies, 1, 1, cache.get_seq_length() + 1, dtype=model.dtype, device=model.device)
            model(input_ids=words[:, :1], attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1)


def new_cache(subject: Subject) -> Any:
    from transformers import DynamicCache

    return DynamicCache(config=subject.model.config)


def set_limit(subject: Subject, rows: int, context: int) -> str:
    """Give the model the attention that makes bare passes of so many rows the fastest: as loaded, or the engine's. Says which."""
    if rows not in subject.faster:
        seconds: dict[bool, float] = {}
        for masked in (False, True) * 2:
            subject.attend_bare(masked)
            cache = new_cache(subject)
            bare(subject, cache, 1, context, 2, copies=rows)
            subject.sync()
            began = time.perf_counter()
            bare(subject, cache, rows, 1, PROBE)
            subject.sync()
            seconds[masked] = min(seconds.get(masked, float("inf")), time.perf_counter() - began)
        subject.faster[rows] = seconds[True] < seconds[False]
    subject.attend_bare(subject.faster[rows])
    return str(subject.model.config._attn_implementation)
