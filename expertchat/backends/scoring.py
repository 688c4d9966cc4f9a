"""Arithmetic of option scoring: which rows to run, and what the probability of an option is when another one extends it."""

from __future__ import annotations

import math
from collections.abc import Sequence

Tokens = tuple[int, ...]


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Length of the longest prefix that all rows share."""
    length = 0
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        length += 1
    return length


def paths(options: Sequence[Tokens]) -> list[Tokens]:
    """The fewest token paths after the context whose passes give every option's probabilities.

    An option of n tokens needs the distributions along its first n - 1; a path that is part of a longer one needs no row of its own.

    >>> paths([(5, 1), (5, 2), (5, 1, 0)])
    [(5, 1)]
    """
    wanted = sorted({option[:-1] for option in options}, key=lambda path: (len(path), path), reverse=True)
    kept: list[Tokens] = []
    for path in wanted:
        if not any(longer[: len(path)] == path for longer in kept):
            kept.append(path)
    return kept


def exclude_extensions(options: Sequence[Tokens], logprobs: Sequence[float]) -> list[float]:
    """log(p(option) - sum of p(other) over the others that go on where the option ends): p("1") is without p("10").

    Only the nearest extensions count: theirs hold the longer ones already. -inf where nothing is left.
    """
    results = []
    for option, logprob in zip(options, logprobs, strict=True):
        longer = {o: p for o, p in zip(options, logprobs, strict=True) if len(o) > len(option) and o[: len(option)] == option}
        nearest = [p for o, p in longer.items() if not any(len(n) < len(o) and o[: len(n)] == n for n in longer)]
        rest = 1.0 - sum(math.exp(p - logprob) for p in nearest) if math.isfinite(logprob) else 0.0
        results.append(logprob + math.log(rest) if rest > 0 else -math.inf)
    return results
