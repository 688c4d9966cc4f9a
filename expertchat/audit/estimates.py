"""How sure a figure of the card is, and what it shows: intervals of groups that are drawn whole, and the smallest effect.

The draws and how far they reach: expertchat.evaluation.draws. Here is what suits each figure: one more answer of each kind for differences
of shares (Agresti & Caffo 2000), Fisher's z for correlations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy

from expertchat.config import ConfigError
from expertchat.evaluation.draws import FEWEST, LEVEL, Array, Draws, least_share, needed, share_interval, t_quantile
from expertchat.judging.shares import score_interval

Flag = Literal["bias", "none", "above", "chance", "too_small"]
"""bias: the interval leaves no room for none. none: no effect larger than `smallest` found. above: better than chance; chance: not shown to
be, though an effect of `smallest` would have been. too_small: not even the largest effect that there can be would have been found."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval; None where it cannot be given. `n` values of `groups` groups; `smallest`: the least distance from what a
    faultless judge (of an agreement: a coin) has that would be found with a probability of .8."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    groups: int = 0
    smallest: float | None = None
    flag: Flag | None = None

    def values(self) -> dict[str, float | int | str | None]:
        return {name: getattr(self, name) for name in ("value", "low", "high", "n", "groups", "smallest", "flag")}


NOTHING = Estimate(None)


def needs_lab() -> None:
    """Raises ConfigError where a library of the audit is missing."""
    from importlib.util import find_spec

    missing = [package for module, package in (("sklearn", "scikit-learn"), ("evalica", "evalica")) if find_spec(module) is None]
    if missing:
        raise ConfigError(f"the audit needs {' and '.join(missing)}: pip install 'expertchat[lab]'")


def count(group_N: Array) -> int:
    return len(numpy.unique(group_N))


# -- shares ---------------------------------------------------------------------------------------------------------------


def share(values_N: Array, group_N: Array, draws: Draws, none: float | None = None, *, score: bool = False) -> Estimate:
    """The mean of values within 0..1 (a tie counts 0.5), with Wilson's interval. `none`: what a faultless judge has, or with `score` a
    coin: then it is flagged."""
    n = len(values_N)
    if not n:
        return NOTHING
    value, groups = float(values_N.mean()), count(group_N)
    if groups < FEWEST:
        return Estimate(value, None, None, n, groups, None, None if none is None else "too_small")
    with numpy.errstate(invalid="ignore", divide="ignore"):
        found_R = draws.sums(values_N, group_N) / draws.sums(numpy.ones(n), group_N)
    found = share_interval(value, draws.error(found_R, groups), float(values_N.var()) / n, n, groups)
    if none is None:
        return Estimate(value, found.low, found.high, n, groups)
    smallest = least_share(none, n, found.worse, groups)
    flag = _flag(found.low - none, found.high - none, smallest, max(none, 1 - none), score)
    return Estimate(value, found.low, found.high, n, groups, smallest, flag)


# -- leanings -------------------------------------------------------------------------------------------------------------


def leaning(sign_N: Array, truth_N: Array, group_N: Array, draws: Draws) -> Estimate:
    """How far verdicts lean to texts of one kind, whatever the truth is: -0.5 .. 0.5, 0 for a judge that errs alike on both sides.

    `sign_N`: 1 where the text of that kind is chosen, -1 where the other one is, 0 a tie; `truth_N`: which one is better, alike. Half the
    chosen share where that kind is truly better and half where it is worse, minus 0.5: a judge that knows the truth has (1 + 0) / 2 - 0.5
    and one that throws coins (0.5 + 0.5) / 2 - 0.5, both 0, however often that kind is the better one.
    """
    known = truth_N != 0
    sign_N, truth_N, group_N = sign_N[known], truth_N[known], group_N[known]
    n, groups = len(sign_N), count(group_N)
    sides = [truth_N > 0, truth_N < 0]
    sizes = [int(side.sum()) for side in sides]
    if not all(sizes):
        return NOTHING
    chosen_N = (sign_N + 1) / 2
    value = sum(float(chosen_N[side].mean()) for side in sides) / 2 - 0.5
    if groups < FEWEST:
        return Estimate(value, None, None, n, groups, None, "too_small")
    # One more answer of each kind on both sides: all alike is no proof of always, and draws of what is all alike do not vary.
    found_R, rates, square = numpy.zeros(len(draws.weights_R_G)), [], 0.0
    for side, k in zip(sides, sizes, strict=True):
        part_N = chosen_N[side]
        with numpy.errstate(invalid="ignore", divide="ignore"):
            found_R += draws.sums(part_N, group_N[side]) / draws.sums(numpy.ones(k), group_N[side]) / 2
        rate = (float(part_N.sum()) + 1) / (k + 2)
        rates.append(rate)
        square += (float(((part_N - rate) ** 2).sum()) + (1 - rate) ** 2 + rate**2) / (k + 2) ** 2 / 4
    error = max(draws.error(found_R, groups), math.sqrt(square) / 2)
    reach = t_quantile(groups, (1 + LEVEL) / 2) * error
    middle = sum(rates) / 2 - 0.5
    low, high = max(-0.5, min(value, middle - reach)), min(0.5, max(value, middle + reach))
    coin = math.sqrt(sum(0.25 / k for k in sizes)) / 2  # the error of answers by a coin
    smallest = needed(groups) * max(coin, error)
    return Estimate(value, low, high, n, groups, smallest, _flag(low, high, smallest, 0.5, False))


# -- correlations, means, and whatever has draws ----------------------------------------------------------------------------


def correlation(value: float, found_R: Array, n: int, groups: int, draws: Draws, none: float | None = None) -> Estimate:
    """A figure within -1..1 (rho, kappa, alpha) with its draws; with `none` it is a score, flagged against that."""
    if not math.isfinite(value) or n < 2:
        return NOTHING
    if groups < FEWEST:
        return Estimate(value, None, None, n, groups, None, None if none is None else "too_small")
    error, t = draws.error(found_R, groups), t_quantile(groups, (1 + LEVEL) / 2)
    low: float | None
    high: float | None
    if abs(value) > 1 - 1e-9:  # as sure as a share of all, on the scale from -1
        low = 2 * score_interval(1.0, groups, t)[0] - 1
        low, high = (low, 1.0) if value > 0 else (-1.0, -low)
    elif error < 1e-12:
        low, high = None, None
    else:
        inside = max(1e-3, 1 - value * value)
        z, reach = math.atanh(value), t * error / inside
        low, high = math.tanh(z - reach), math.tanh(z + reach)
    if none is None or low is None or high is None:
        return Estimate(value, low, high, n, groups)
    smallest = needed(groups) * max(1 / math.sqrt(max(1, n - 1)), error)
    return Estimate(value, low, high, n, groups, smallest, _flag(low - none, high - none, smallest, 1 - none, True))


def number(value: float, found_R: Array, n: int, groups: int, draws: Draws, least: float | None = None) -> Estimate:
    """Any other figure with its draws: Student's interval. `least`: it cannot be lower."""
    if not math.isfinite(value):
        return NOTHING
    error = draws.error(found_R, groups)
    if groups < FEWEST or not error:
        return Estimate(value, None, None, n, groups)
    reach = t_quantile(groups, (1 + LEVEL) / 2) * error
    low = value - reach if least is None else max(least, value - reach)
    return Estimate(value, low, value + reach, n, groups)


def mean(values_N: Array, group_N: Array, draws: Draws) -> Estimate:
    """A mean that is no share."""
    n = len(values_N)
    if not n:
        return NOTHING
    with numpy.errstate(invalid="ignore", divide="ignore"):
        found_R = draws.sums(values_N, group_N) / draws.sums(numpy.ones(n), group_N)
    return number(float(values_N.mean()), found_R, n, count(group_N), draws)


# -- what it shows --------------------------------------------------------------------------------------------------------


def _flag(low: float, high: float, smallest: float, largest: float, score: bool) -> Flag:
    """What an interval of the distance from none shows."""
    if smallest > largest:
        return "too_small"
    if score:
        return "above" if low > 0 else "chance"
    return "bias" if low > 0 or high < 0 else "none"
