"""Which candidate of a prompt is chosen, and what choosing the best of N comes to over all subsets of those that were drawn."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from expertchat.choosing.config import ChooseConfig

LEAST = 1e-300  # a draw of 0 would have no logarithm
Outcome = Callable[[int, int], float | None]
"""1, 0.5 or 0 of one candidate against another, by their places; None where nobody knows."""


def keys_of(
    scores: Sequence[float | None], config: ChooseConfig, bar: float | None, draw: str, least: float = 0.0
) -> list[float | None]:
    """What stands for each candidate when the highest is taken; None: it cannot be chosen (no score, or below the `bar`).

    Scores count in steps of `least`, where what else is in a batch changes their last digits: else chance would choose among equals.

    highest: its score. threshold (rejection sampling, arXiv 2312.12457): candidates come one after the other, and the first one passes that
    is worth the bar. softmax: score / temperature plus Gumbel's noise, whose highest is one drawn with the chance exp(score / temperature)
    (Yellott 1977), for every N alike; the noise depends on `draw` and the place alone.
    """
    known = [_stepped(score, least) if score is not None and math.isfinite(score) else None for score in scores]
    bar = None if bar is None else _stepped(bar, least)
    match config.rule:
        case "highest":
            return known
        case "threshold":
            return [None if score is None or bar is None or score < bar else -float(i) for i, score in enumerate(known)]
        case "softmax":
            return [None if score is None else score / config.temperature + _gumbel(f"{draw} {i}") for i, score in enumerate(known)]


def _stepped(score: float, least: float) -> float:
    return round(score / least) * least if least else score


def _gumbel(draw: str) -> float:
    return -math.log(-math.log(max(random.Random(draw).random(), LEAST)))


def best(keys: Sequence[float | None]) -> int | None:
    """The place of the highest key, the first of equal ones; None where there is none.

    >>> best([0.5, None, 2.0, 2.0]), best([None])
    (2, None)
    """
    known = [(key, -i) for i, key in enumerate(keys) if key is not None]
    return -max(known)[1] if known else None


def sizes(n: int) -> list[int]:
    """1, 2, 4, ... up to n, and n.

    >>> sizes(16), sizes(6)
    ([1, 2, 4, 8, 16], [1, 2, 4, 6])
    """
    return [*(1 << k for k in range(n.bit_length()) if 1 << k < n), n]


def kl(size: int) -> float:
    """KL divergence, in nats, of the best of `size` to what draws one: log N - (N - 1) / N (arXiv 2009.01325); where scores tie it is less
    (arXiv 2401.01879)."""
    return math.log(size) - (size - 1) / size


# -- all subsets ----------------------------------------------------------------------------------------------------------


def ranked(keys: Sequence[float | None]) -> list[int]:
    """Those that can be chosen, the lowest first; of equals the earlier one stands above."""
    return sorted((i for i, key in enumerate(keys) if key is not None), key=lambda i: (keys[i], -i))


def chances(keys: Sequence[float | None], size: int) -> list[float]:
    """The chance of each candidate to be the choice among `size` of them, over all subsets; what lacks to 1 is that of no choice.

    One is chosen where all others of the subset stand below it or cannot be chosen: of n, with r such others, in C(r, size - 1) of the
    C(n, size) subsets. The mean over subsets is what the best of `size` comes to without bias, and varies less than the first `size`
    do (arXiv 2112.09332, appendix I).

    >>> chances([1.0, 3.0, 2.0], 2)  # subsets: (1, 3) (1, 2) (3, 2), whose highest are 3, 2, 3
    [0.0, 0.6666666666666666, 0.3333333333333333]
    """
    n, order = len(keys), ranked(keys)
    found, lacking, total = [0.0] * n, n - len(order), math.comb(n, size)
    for rank, i in enumerate(order):
        found[i] = math.comb(rank + lacking, size - 1) / total
    return found


def expected(chance: Sequence[float], values: Sequence[float | None]) -> float | None:
    """The mean of the values by chance, over those that are known and can happen; None where there is none."""
    known = [(p, value) for p, value in zip(chance, values, strict=True) if p > 0 and value is not None]
    return sum(p * value for p, value in known) / sum(p for p, _ in known) if known else None


def against_below(keys: Sequence[float | None], outcome: Outcome) -> list[float | None]:
    """What each candidate comes to, on the mean, against those that stand below it or cannot be chosen; None where there is no such one."""
    below = [i for i, key in enumerate(keys) if key is None]
    found: list[float | None] = [None] * len(keys)
    for i in ranked(keys):
        others = [value for j in below if (value := outcome(i, j)) is not None]
        found[i] = sum(others) / len(others) if others else None
        below.append(i)
    return found


def against_first(below: Sequence[float | None], size: int) -> list[float | None]:
    """What each candidate, where it is the choice among `size`, comes to against the first of them, over all subsets and orders: `below` is
    `against_below`.

    It is the first one itself in 1 of `size` cases, a tie; else that is one of those below it.
    """
    if size == 1:
        return [0.5] * len(below)
    return [None if value is None else 0.5 / size + (size - 1) / size * value for value in below]
