"""How sure a figure is: intervals of anything that a list of values gives; those of values that come in topics are by_topic's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist, fmean, pstdev
from typing import NamedTuple

import numpy

from expertchat.evaluation.by_topic import RESAMPLES, counted, estimate
from expertchat.judging.shares import LEVEL, quantile, score_interval, wilson

FEW = 3  # clusters that say something of others
__all__ = ["FEW", "LEVEL", "RESAMPLES", "Interval", "bootstrap", "mean_by_cluster", "quantile", "scaled_margin", "score_interval", "wilson"]


class Interval(NamedTuple):
    """Where a figure lies with the level's probability; None: no bound can be given."""

    low: float | None
    high: float | None


def bootstrap(
    values: Sequence[float] | Sequence[Sequence[float]] | numpy.ndarray,
    statistic: Callable[[numpy.ndarray], float],
    *,
    seed: int,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Percentile interval (Efron 1979) of `statistic` over values [n] or rows [n, k]: the same seed gives the same interval.

    Rows are drawn whole, so what belongs together stays together (a paired bootstrap). Draws for which the statistic is infinite
    count as such; a bound that is not finite is None. Raises ValueError where there are no values.
    """
    values_N = numpy.asarray(values, dtype=float)
    if not len(values_N):
        raise ValueError("no values to draw from")
    tail = NormalDist().cdf(-quantile(level))
    draws_R_N = numpy.random.default_rng(seed).integers(len(values_N), size=(resamples, len(values_N)))
    found_R = numpy.array([statistic(values_N[draw_N]) for draw_N in draws_R_N], dtype=float)
    found_R = numpy.sort(found_R[~numpy.isnan(found_R)])
    if not len(found_R):
        return Interval(None, None)
    # The values at the ranks themselves: between a number and infinity nothing can be interpolated.
    low, high = numpy.quantile(found_R, (tail, 1 - tail), method="inverted_cdf")
    return Interval(*(float(bound) if math.isfinite(bound) else None for bound in (low, high)))


def mean_by_cluster(
    values: Sequence[float], clusters: Sequence[str], *, seed: int, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval:
    """The interval of the mean of values that depend on each other within a cluster (histories of one topic): clusters are drawn whole
    (expertchat.evaluation.by_topic). No bound with fewer than three clusters, where it would say nothing, nor where nothing varies.

    Raises ValueError where values and clusters are not equally many.
    """
    if len(set(clusters)) < FEW and len(values) == len(clusters):
        return Interval(None, None)
    found = estimate(counted(values), clusters, seed=seed, resamples=resamples, level=level)
    return Interval(found.low, found.high)


def scaled_margin(margins: Sequence[float], rewards: Sequence[float]) -> float | None:
    """The mean margin in standard deviations of the rewards that it comes from, in the manner of Cohen's d.

    Free of the reward's scale, so a rating's margin and a cosine's can be compared. None where there are none, or all rewards are equal.
    """
    if not margins or len(rewards) < 2 or not all(map(math.isfinite, (*margins, *rewards))) or not (spread := pstdev(rewards)):
        return None
    return fmean(margins) / spread
