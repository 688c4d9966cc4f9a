"""Figures of replies that come in topics, with an interval that knows it: replies to one topic are alike, so few topics say little.

A figure is a formula over sums: a share is sum of wins over count, a ratio of means sum over sum, an accuracy right over claimed. Topics
are drawn whole, and what they vary by gives the interval (expertchat.evaluation.draws).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy

from expertchat.evaluation.draws import FEWEST, FLOOR, Array, Draws, needed, share_interval, t_chance, t_quantile
from expertchat.judging.shares import LEVEL

RESAMPLES = 2000
Scale = Literal["share", "ratio", "number"]
Formula = Callable[[Array], Array]
"""Sums over values [..., K] -> figures [...]; twice as many of the same values must give the same figure."""


class Found(NamedTuple):
    """A figure with its 95 % interval; None where there is none. `n` values of `topics` topics.

    `least`: the least distance from what no effect has (a share: 1/2, a ratio: 1, else: 0) that would be found with a probability of .8.
    `chance`: the probability of a figure so far from that, were there no effect.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    topics: int = 0
    least: float | None = None
    chance: float | None = None


NOTHING = Found()
EVEN: dict[Scale, float] = {"share": 0.5, "ratio": 1.0, "number": 0.0}


def quotient(sums: Array) -> Array:
    """The first sum over the second."""
    with numpy.errstate(invalid="ignore", divide="ignore"):
        found: Array = sums[..., 0] / sums[..., 1]
    return found


def estimate(
    values: Sequence[Sequence[float]] | Array,
    topics: Sequence[str],
    formula: Formula = quotient,
    scale: Scale = "number",
    *,
    seed: int,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Found:
    """The figure of values [N, K] and its interval. Of one topic each value is drawn by itself, and the figure is of this topic alone.

    The same seed gives the same interval. Raises ValueError where values and topics are not equally many.
    """
    values_N_K = numpy.asarray(values, dtype=float)
    if len(values_N_K) != len(topics):
        raise ValueError(f"{len(values_N_K)} values of {len(topics)} topics")
    n = len(topics)
    value = float(formula(values_N_K.sum(axis=0))) if n else math.nan
    if not math.isfinite(value):
        return NOTHING._replace(n=n, topics=len(set(topics)))
    names, group_N = numpy.unique(numpy.asarray(topics), return_inverse=True)
    found = Found(value, n=n, topics=len(names))
    groups = len(names) if len(names) >= FEWEST else n
    if groups < FEWEST:
        return found
    group_N = group_N if groups == len(names) else numpy.arange(n)
    sums_G_K = numpy.zeros((groups, values_N_K.shape[1]))
    numpy.add.at(sums_G_K, group_N, values_N_K)
    draws = Draws.of(groups, resamples, seed)
    error, alone = draws.error(formula(draws.weights_R_G @ sums_G_K), groups), _alone(values_N_K, formula)
    if scale == "share":
        return _share(found, error, alone, groups, level)
    error = max(error, math.sqrt(FLOOR * alone))
    return _number(found, error, groups, scale, level) if error > 1e-9 * max(1.0, abs(value)) else found


def _alone(values_N_K: Array, formula: Formula) -> float:
    """The variance of the figure were all values independent, by its slopes (the delta method)."""
    total_K = values_N_K.sum(axis=0)
    step_K = 1e-5 * numpy.maximum(numpy.abs(total_K), 1e-9)
    slope_K = (formula(total_K + numpy.diag(step_K)) - formula(total_K - numpy.diag(step_K))) / (2 * step_K)
    found = float(((values_N_K @ slope_K) ** 2).sum())
    return found if math.isfinite(found) else 0.0


def _share(found: Found, error: float, alone: float, groups: int, level: float) -> Found:
    value = found.value or 0.0
    drawn = share_interval(value, error, alone, found.n, groups, level)
    even = EVEN["share"]
    # What the answers would vary by at 1/2, were they as alike within topics as they are, and as often ties.
    spread = math.sqrt(0.25 * drawn.worse / found.n if alone else 0.25 / groups)
    return found._replace(
        low=drawn.low, high=drawn.high, least=needed(groups, level) * spread, chance=t_chance(groups, (value - even) / spread)
    )


def _number(found: Found, error: float, groups: int, scale: Scale, level: float) -> Found:
    value, far = found.value or 0.0, t_quantile(groups, (1 + level) / 2)
    if scale == "ratio":
        if value <= 0:
            return found
        inside = error / value  # of the logarithm
        low, high = value * math.exp(-far * inside), value * math.exp(far * inside)
        least = math.exp(needed(groups, level) * inside) - 1
        return found._replace(low=low, high=high, least=least, chance=t_chance(groups, math.log(value) / inside))
    reach = far * error
    least, chance = needed(groups, level) * error, t_chance(groups, value / error)
    return found._replace(low=value - reach, high=value + reach, least=least, chance=chance)


# -- the usual figures ----------------------------------------------------------------------------------------------------


def counted(values: Sequence[float]) -> Array:
    """Values each with a count of one, for their mean. [N, 2]"""
    return numpy.stack([numpy.asarray(values, dtype=float), numpy.ones(len(values))], axis=1)


def share_of(values: Sequence[float], topics: Sequence[str], *, seed: int, resamples: int = RESAMPLES) -> Found:
    """The mean of values within 0..1 (a tie is 0.5)."""
    return estimate(counted(values), topics, scale="share", seed=seed, resamples=resamples)


def mean_of(values: Sequence[float], topics: Sequence[str], *, seed: int, resamples: int = RESAMPLES) -> Found:
    """The mean of any values, of differences for one."""
    return estimate(counted(values), topics, seed=seed, resamples=resamples)


def gap_of(values: Sequence[float], topics: Sequence[str], *, seed: int, resamples: int = RESAMPLES) -> Found:
    """The mean of differences of outcomes, each within -1..1. Where all are alike nothing varies: then each topic counts as one answer, for
    the sign of the difference, or for none."""
    found = mean_of(values, topics, seed=seed, resamples=resamples)
    if found.value is None or found.low is not None:
        return found
    alike = share_of([1.0 if found.value else 0.5] * found.n, topics, seed=seed, resamples=resamples)
    if alike.low is None or alike.high is None or alike.least is None:
        return found
    size = abs(found.value) or 1.0
    low, high = sorted((found.value or 1.0) * (2 * bound - 1) for bound in (alike.low, alike.high))
    return found._replace(low=low, high=high, least=2 * size * alike.least, chance=alike.chance)


def ratio_of(over: Sequence[float], under: Sequence[float], topics: Sequence[str], *, seed: int, resamples: int = RESAMPLES) -> Found:
    """The mean of values over that of others that belong to them pairwise."""
    both_N_2 = numpy.stack([numpy.asarray(over, dtype=float), numpy.asarray(under, dtype=float)], axis=1)
    return estimate(both_N_2, topics, scale="ratio", seed=seed, resamples=resamples)
