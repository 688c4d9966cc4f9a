"""What counts can carry: whether they differ from what chance gives, and the least difference that so many of them could have shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy

from expertchat.evaluation.draws import FLOOR, t_chance, t_quantile
from expertchat.evaluation.statistics import LEVEL, quantile, wilson

POWER = 0.8  # with which the least difference would have been found
LARGEST = 700.0  # logarithm of odds that can be written
STILL = 1e-6  # the last step of a fit that has come to its end


class Tested(NamedTuple):
    """A figure with its interval, the probability of one so far from `even` by chance, and the least distance that so many answers show;
    None where these do not vary, and so do not say it."""

    value: float
    low: float
    high: float
    p: float
    least: float | None


def share(hits: float, n: int, even: float) -> Tested:
    """A share of n independent answers against `even`, what chance gives: Wilson's interval, a two-sided score test.

    >>> found = share(0.534 * 900, 900, 0.5)  # .034 in standard errors of sqrt(.25 / 900) = .01667: 2.04
    >>> f"{found.low:.3f} {found.high:.3f} {found.p:.3f} {found.least:.3f}"  # least: (1.960 + 0.842) * .01667
    '0.501 0.566 0.041 0.047'
    """
    error = math.sqrt(even * (1 - even) / n)
    low, high = wilson(hits, n)
    return Tested(hits / n, low, high, two_sided((hits / n - even) / error), _reach() * error)


def difference(one: float, n: int, other: float, m: int) -> Tested:
    """The difference of two shares of different answers: Newcombe's interval (1998, method 10), a two-sided z test with pooled variance.

    >>> found = difference(0.534, 900, 0.51, 900)
    >>> f"{found.value:.3f} {found.low:.3f} {found.high:.3f} {found.p:.2f}"
    '0.024 -0.022 0.070 0.31'
    """
    (a_low, a_high), (b_low, b_high) = wilson(one * n, n), wilson(other * m, m)
    pooled = (one * n + other * m) / (n + m)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    low = one - other - math.hypot(one - a_low, b_high - other)
    high = one - other + math.hypot(a_high - one, other - b_low)
    return Tested(one - other, low, high, two_sided((one - other) / error) if error else 1.0, _reach() * error if error else None)


def evenness(counts: Sequence[int]) -> float:
    """The probability that counts are so uneven by chance (Pearson's chi-squared test).

    >>> f"{evenness([295, 327, 278]):.3f}"  # (5^2 + 27^2 + 22^2) / 300 = 4.127 with 2 degrees of freedom: exp(-4.127 / 2)
    '0.127'
    """
    mean = sum(counts) / len(counts)
    return chi_squared(sum((count - mean) ** 2 for count in counts) / mean, len(counts) - 1)


def chi_squared(value: float, freedom: int) -> float:
    """The probability of a chi-squared value or a higher one.

    >>> f"{chi_squared(3.841, 1):.3f} {chi_squared(7.815, 3):.3f} {chi_squared(9.488, 4):.3f}"
    '0.050 0.050 0.050'
    """
    half = value / 2
    k, tail = (2, math.exp(-half)) if freedom % 2 == 0 else (1, math.erfc(math.sqrt(half)))
    while k < freedom:
        tail += half ** (k / 2) * math.exp(-half) / math.gamma(k / 2 + 1)
        k += 2
    return tail


def two_sided(z: float) -> float:
    """The probability of a normal value so far from 0."""
    return math.erfc(abs(z) / math.sqrt(2))


def holm(chances: Sequence[float]) -> list[float]:
    """The probabilities as they count where several questions are asked of one study (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(chances)), key=lambda i: chances[i])
    found, highest = [0.0] * len(chances), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(chances) - rank) * chances[i]))
        found[i] = highest
    return found


def _reach() -> float:
    return quantile(LEVEL) + NormalDist().inv_cdf(POWER)


# -- who was chosen, and where it stood ---------------------------------------------------------------------------------------


class Effects(NamedTuple):
    """Odds of being chosen, of one against another: by what it is, with its place held equal, and by its place, with what it is held equal.

    Each as (odds, low, high, p).
    """

    systems: dict[tuple[str, str], tuple[float, float, float, float]]
    places: dict[tuple[int, int], tuple[float, float, float, float]]


Tables = Mapping[tuple[str, ...], Mapping[str, int]]
"""How often each text was chosen, by the order in which they were shown."""


def effects(tables: Tables, groups: Sequence[Tables] = (), steps: int = 50) -> Effects | None:
    """What counts of choices in several orders say of systems and of places: Luce's choice model, log odds = system + place, by maximum
    likelihood. None where that has no maximum (a text that was always or never chosen), or does not tell the two apart.

    `groups`: the same counts, group by group. Then whole groups vary (a sandwich estimate, Student's t), for choices of one group are
    alike; without them all choices are taken for independent of each other.
    """
    names, orders = sorted({name for order in tables for name in order}), list(tables)
    k = len(names)
    if len(orders) < 2 or any(len(order) != k for order in orders):
        return None
    design_O_K_P = numpy.stack([_design(order, names) for order in orders])
    counts_O_K = _counts(tables, orders)
    beta_P = step_P = numpy.zeros(2 * (k - 1))
    for _ in range(steps):
        chance_O_K = _chances(design_O_K_P @ beta_P)
        expected_O_K = counts_O_K.sum(axis=1, keepdims=True) * chance_O_K
        apart_O_K_P = design_O_K_P - (chance_O_K[..., None] * design_O_K_P).sum(axis=1, keepdims=True)
        information_P_P = numpy.einsum("ok,okp,okq->pq", expected_O_K, apart_O_K_P, apart_O_K_P)
        if numpy.linalg.matrix_rank(information_P_P) < len(beta_P):
            return None
        step_P = numpy.linalg.solve(information_P_P, numpy.einsum("okp,ok->p", design_O_K_P, counts_O_K - expected_O_K))
        beta_P = beta_P + step_P
    if numpy.abs(step_P).max() > STILL:  # it goes up without an end
        return None
    covariance_P_P = numpy.linalg.inv(information_P_P)
    slopes_G_P = numpy.array([
        numpy.einsum("okp,ok->p", design_O_K_P, own_O_K - own_O_K.sum(axis=1, keepdims=True) * chance_O_K)
        for own_O_K in (_counts(group, orders) for group in groups)
    ]).reshape(len(groups), len(beta_P))  # fmt: skip

    def against(one_P: numpy.ndarray) -> tuple[float, float, float, float]:
        value, square = float(one_P @ beta_P), float(one_P @ covariance_P_P @ one_P)
        if not groups:
            error = math.sqrt(square)
            return _odds(value, quantile(LEVEL) * error, two_sided(value / error))
        by_group = float(((slopes_G_P @ covariance_P_P @ one_P) ** 2).sum()) * len(groups) / (len(groups) - 1)
        error = math.sqrt(max(by_group, FLOOR * square))
        return _odds(value, t_quantile(len(groups), (1 + LEVEL) / 2) * error, t_chance(len(groups), value / error))

    unit = numpy.vstack([numpy.eye(k - 1), numpy.zeros((1, k - 1))])
    none = numpy.zeros(k - 1)
    pairs = [(i, j) for i in range(k) for j in range(i + 1, k)]
    return Effects(
        {(names[i], names[j]): against(numpy.concatenate([unit[i] - unit[j], none])) for i, j in pairs},
        {(i, j): against(numpy.concatenate([none, unit[i] - unit[j]])) for i, j in pairs},
    )


def _odds(value: float, reach: float, p: float) -> tuple[float, float, float, float]:
    """Odds with their bounds, from their logarithm."""
    return math.exp(value), math.exp(value - reach), math.exp(min(value + reach, LARGEST)), p


def _counts(tables: Tables, orders: Sequence[tuple[str, ...]]) -> numpy.ndarray:
    """How often what stood at each place was chosen, in each order. [O, K]"""
    return numpy.array([[tables.get(order, {}).get(name, 0) for name in order] for order in orders], dtype=float)


def _chances(log_odds_O_K: numpy.ndarray) -> numpy.ndarray:
    odds_O_K = numpy.exp(log_odds_O_K - log_odds_O_K.max(axis=1, keepdims=True))
    found: numpy.ndarray = odds_O_K / odds_O_K.sum(axis=1, keepdims=True)
    return found


def _design(order: Sequence[str], names: Sequence[str]) -> numpy.ndarray:
    """A row for each text as shown: which system it is and where it stands, the last of each left out. [k, 2 (k - 1)]"""
    k = len(names)
    design_K_P = numpy.zeros((k, 2 * (k - 1)))
    for place, name in enumerate(order):
        if (system := names.index(name)) < k - 1:
            design_K_P[place, system] = 1
        if place < k - 1:
            design_K_P[place, k - 1 + place] = 1
    return design_K_P
