"""What figures of `expertchat world check` are made of: shares, rank correlations, orders, likeness."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, pstdev

from expertchat.judging.wim import cosine

NOTHING = float("nan")  # the rate of nothing: no number, and above or below no target


def ratio(part: float, whole: float) -> float:
    """The share of a whole; nan where there is none."""
    return part / whole if whole else NOTHING


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Rank correlation with mean ranks for ties; nan where one side does not vary."""
    ranks = [_ranks(x), _ranks(y)]
    means, spreads = [fmean(r) for r in ranks], [pstdev(r) for r in ranks]
    if not all(spreads):
        return NOTHING
    return fmean((a - means[0]) * (b - means[1]) for a, b in zip(*ranks, strict=True)) / (spreads[0] * spreads[1])


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=lambda i: values[i])
    out, i = [0.0] * len(values), 0
    while i < len(order):
        j = i
        while j < len(order) and values[order[j]] == values[order[i]]:
            j += 1
        for k in order[i:j]:
            out[k] = (i + j - 1) / 2
        i = j
    return out


def auc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """The share of (positive, negative) pairs in the right order, ties half (Mann-Whitney)."""
    ranks = _ranks([*positive, *negative])[: len(positive)]
    n = len(positive)
    return (sum(ranks) + n - n * (n + 1) / 2) / (n * len(negative))


def likeness(first: Sequence[float], second: Sequence[float]) -> float:
    """The cosine of two vectors of the embedded embedder, which gives a direction to every text."""
    found = cosine(first, second)
    assert found is not None
    return found
