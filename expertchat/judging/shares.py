"""How sure a share of so many answers is."""

from __future__ import annotations

import math
from statistics import NormalDist

LEVEL = 0.95


def quantile(level: float) -> float:
    """How many standard errors a two-sided normal interval of this level reaches: 1.96 for 0.95."""
    if not 0 < level < 1:
        raise ValueError(f"level={level} is not between 0 and 1")
    return NormalDist().inv_cdf((1 + level) / 2)


def wilson(wins: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a win rate (Wilson 1927): within 0..1 and honest near its ends. A tie is half a win.

    Half wins vary less than a coin does, so with ties the interval is rather too wide than too narrow. No games say nothing: (0, 1).
    Raises ValueError where `wins` is not within 0..n.
    """
    if not 0 <= wins <= n:
        raise ValueError(f"{wins} wins of {n}")
    if n == 0:
        return 0.0, 1.0
    return score_interval(wins / n, n, quantile(level))


def score_interval(rate: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's interval of a rate of n independent answers (any number of them) that reaches z standard errors."""
    scale = 1 + z * z / n
    middle = (rate + z * z / (2 * n)) / scale
    reach = z / scale * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # At the ends the bound is the rate itself; the sum of floats may miss it by a hair.
    return (0.0 if rate == 0 else max(0.0, middle - reach)), (1.0 if rate == 1 else min(1.0, middle + reach))
