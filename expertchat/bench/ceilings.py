"""What the machine itself allows: bytes that a copy moves, operations of a large product, and so the least time that passes need."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from expertchat.backends.layouts import experts_of
from expertchat.bench.subject import Subject

SIDE = {"cpu": 2048, "cuda": 8192}  # rows and columns of the product


class Ceilings(NamedTuple):
    """Bytes a second that a copy reads and writes, and operations a second (a multiplication and an addition are two) of a large product in
    the model's number type."""

    bytes_a_second: float
    operations_a_second: float


def ceilings(subject: Subject) -> Ceilings:
    """Measure them on the model's device: a second or so."""
    return Ceilings(copy_bandwidth(subject), product_speed(subject))


def least_seconds(subject: Subject, top: Ceilings, rows: int, new: int, context: float) -> float:
    """The least time of a pass over `new` tokens of each of `rows` rows that see `context` tokens: no weight and no kept key or value is
    read more than once, reading and computing go on side by side, and each is as fast as this machine ever was."""
    return max(
        step_bytes(subject, rows, context) / top.bytes_a_second,
        pass_operations(subject, rows, new, context) / top.operations_a_second,
    )


def least_of_dialogues(subject: Subject, top: Ceilings, rows: int, lengths: Sequence[int], steps: Sequence[int], tokens: int) -> float:
    """The least time of dialogues whose turns have prompts of `lengths` tokens, of which `steps` are new, and `tokens` tokens each."""
    return sum(
        least_seconds(subject, top, rows, new, length - new / 2)
        + (tokens - 1) * least_seconds(subject, top, rows, 1, length + tokens / 2)
        for length, new in zip(lengths, steps, strict=True)
    )


def pass_operations(subject: Subject, rows: int, new: int, context: float) -> float:
    """Operations of a pass: two for each weight that a token goes through, and four for each number of a head and each token that it sees.

    Only the last token of a row goes through the output layer."""
    model, config = subject.model, subject.model.config.get_text_config()
    head = model.get_output_embeddings().weight
    table = model.get_input_embeddings().weight
    experts, share = experts_of(config.model_type), 1.0
    if experts:
        share = getattr(config, experts.chosen) / getattr(config, experts.count)
    inner = {name: p.numel() for name, p in model.named_parameters() if p is not head and p is not table}
    inner_weights = sum(size * (share if ".experts." in name else 1.0) for name, size in inner.items())
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    seen = 4.0 * config.num_hidden_layers * config.num_attention_heads * dim * context
    return rows * (new * (2.0 * inner_weights + seen) + 2.0 * head.numel())


def step_bytes(subject: Subject, rows: int, context: float) -> float:
    """Bytes that one step reads: all weights but the embedding's table (a few rows of it), and the caches of `rows` x `context` tokens.

    Of a mixture, the experts that some row chose: each of E is left out by a row with 1 - k/E, by all with (1 - k/E)^rows.
    """
    model, config = subject.model, subject.model.config.get_text_config()
    table = model.get_input_embeddings().weight
    tied = model.get_output_embeddings().weight is table
    experts, chosen = experts_of(config.model_type), 1.0
    if experts:
        count, taken = getattr(config, experts.count), getattr(config, experts.chosen)
        chosen = 1 - (1 - taken / count) ** rows
    sizes = {name: p.numel() * p.element_size() for name, p in model.named_parameters() if p is not table or tied}
    weights = sum(size * (chosen if ".experts." in name else 1.0) for name, size in sizes.items())
    return weights + rows * context * subject.kv_bytes


def copy_bandwidth(subject: Subject, size: int | None = None, times: int = 10) -> float:
    """Bytes a second that a copy within the device's memory moves: `size` read and as many written, best of `times`."""
    import torch

    size = size or (2**30 if subject.device_type() == "cuda" else 2**26)
    source = torch.ones(size, dtype=torch.uint8, device=subject.model.device)
    target = torch.empty_like(source)
    return 2 * size / _best(subject, lambda: target.copy_(source), times)


def product_speed(subject: Subject, side: int | None = None, times: int = 5) -> float:
    """Operations a second of a square product in the model's number type on its device, best of `times`."""
    import torch

    side = side or SIDE.get(subject.device_type(), SIDE["cpu"])
    left = torch.randn(side, side, device=subject.model.device).to(subject.model.dtype)
    right = torch.randn(side, side, device=subject.model.device).to(subject.model.dtype)
    with torch.inference_mode():
        return 2 * side**3 / _best(subject, lambda: torch.nn.functional.linear(left, right), times)


def _best(subject: Subject, work: Callable[[], object], times: int) -> float:
    """The shortest time of doing some work on the model's device."""
    best = float("inf")
    for _ in range(times):
        subject.sync()
        began = time.perf_counter()
        work()
        subject.sync()
        best = min(best, time.perf_counter() - began)
    return best
