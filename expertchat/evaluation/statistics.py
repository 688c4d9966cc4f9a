"""How sure a figure is: intervals for win rates, for ratios of means and for anything else that a list of values gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist, fmean, pstdev
from typing import NamedTuple

import numpy

LEVEL = 0.95
RESAMPLES = 2000


class Interval(NamedTuple):
    """Where a figure lies with the level's probability; None: no bound can be given."""

    low: float | None
    high: float | None


class Ratio(NamedTuple):
    """A ratio of two means with its interval; None where the lower mean is 0."""

    value: float | None
    low: float | None
    high: float | None


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


def ratio_of_means(policy: Sequence[float], base: Sequence[float], *, seed: int, level: float = LEVEL) -> Ratio:
    """mean(policy) / mean(base) of values that belong together pairwise, with a paired bootstrap interval.

    Raises ValueError where the two are not equally many, or none.
    """
    if len(policy) != len(base):
        raise ValueError(f"{len(policy)} values of the policy and {len(base)} of the base")

    def ratio(rows_N_2: numpy.ndarray) -> float:
        over, under = rows_N_2.mean(axis=0)
        return float(over / under) if under else math.inf if over else math.nan

    rows_N_2 = numpy.stack([numpy.asarray(policy, dtype=float), numpy.asarray(base, dtype=float)], axis=1)
    low, high = bootstrap(rows_N_2, ratio, seed=seed, level=level)
    value = ratio(rows_N_2)
    return Ratio(value, low, high) if math.isfinite(value) else Ratio(None, low, high)


def mean_by_cluster(
    values: Sequence[float], clusters: Sequence[str], *, seed: int, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval:
    """The interval of the mean of values that depend on each other within a cluster (histories of one topic): clusters are drawn whole.

    Draws from few clusters lie too near to each other, so the distances to the mean are stretched by sqrt(C / (C - 1)), as the sample
    variance is; below ten clusters the interval is rather too narrow all the same. No bound with fewer than two clusters, or no values.
    Raises ValueError where values and clusters are not equally many.
    """
    if len(values) != len(clusters):
        raise ValueError(f"{len(values)} values of {len(clusters)} clusters")
    sums: dict[str, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        row = sums.setdefault(cluster, [0.0, 0.0])
        row[0], row[1] = row[0] + value, row[1] + 1
    if len(sums) < 2:
        return Interval(None, None)

    def of_clusters(rows_C_2: numpy.ndarray) -> float:
        return float(rows_C_2[:, 0].sum() / rows_C_2[:, 1].sum())

    low, high = bootstrap(list(sums.values()), of_clusters, seed=seed, resamples=resamples, level=level)
    mean, stretch = fmean(values), math.sqrt(len(sums) / (len(sums) - 1))
    return Interval(*(None if bound is None else mean + stretch * (bound - mean) for bound in (low, high)))


def of_rate(value: float | None, found: Interval, groups: int) -> Interval:
    """The interval of a rate as draws have given it; of one that is 0 or 1 all draws are alike, so there it is Wilson's of as many answers
    as there are groups.

    >>> of_rate(1.0, Interval(1.0, 1.0), 8)  # 8 of 8
    Interval(low=0.6755924404101652, high=1.0)
    >>> of_rate(0.5, Interval(0.4, 0.6), 8)
    Interval(low=0.4, high=0.6)
    """
    return Interval(*wilson(value * groups, groups)) if value in (0.0, 1.0) and groups else found


def scaled_margin(margins: Sequence[float], rewards: Sequence[float]) -> float | None:
    """The mean margin in standard deviations of the rewards that it comes from, in the manner of Cohen's d.

    Free of the reward's scale, so a rating's margin and a cosine's can be compared. None where there are none, or all rewards are equal.
    """
    if not margins or len(rewards) < 2 or not all(map(math.isfinite, (*margins, *rewards))) or not (spread := pstdev(rewards)):
        return None
    return fmean(margins) / spread


def two_stages(clusters: Sequence[str], *, seed: int, resamples: int = RESAMPLES) -> numpy.ndarray:
    """How often each value [N] is drawn, [resamples, N], where clusters are drawn first and then as many values within each of them.

    With fewer than two clusters values are drawn alone. The same seed gives the same draws, so figures of the same values can be compared.
    A cluster of m values that is drawn c times draws c m of them: what c draws of m are together.
    """
    rng = numpy.random.default_rng(seed)
    places: dict[str, list[int]] = {}
    for i, cluster in enumerate(clusters):
        places.setdefault(cluster, []).append(i)
    several = len(places) > 1
    times_R_C = rng.multinomial(len(places), numpy.full(len(places), 1 / len(places)), size=resamples) if places else None
    weights_R_N = numpy.zeros((resamples, len(clusters)), dtype=numpy.float32)
    for c, own in enumerate(places.values()):
        count_R = len(own) * (times_R_C[:, c] if several and times_R_C is not None else numpy.ones(resamples, dtype=int))
        weights_R_N[:, own] = rng.multinomial(count_R, numpy.full(len(own), 1 / len(own)))
    return weights_R_N


def of_draws(weights_R_N: numpy.ndarray, values: Sequence[float | None], level: float = LEVEL) -> Interval:
    """Percentile interval of the mean of the values that are there, by draws of `two_stages`. No bound with fewer than two values."""
    known_N = numpy.array([value is not None and math.isfinite(value) for value in values], dtype=bool)
    if known_N.sum() < 2:
        return Interval(None, None)
    values_N = numpy.array([value for value, known in zip(values, known_N, strict=True) if known], dtype=float)
    drawn_R_N = weights_R_N[:, known_N]
    total_R = drawn_R_N.sum(axis=1)
    means_R = (drawn_R_N @ values_N)[total_R > 0] / total_R[total_R > 0]
    tail = NormalDist().cdf(-quantile(level))
    low, high = numpy.quantile(means_R, (tail, 1 - tail), method="inverted_cdf")
    return Interval(float(low), float(high))
