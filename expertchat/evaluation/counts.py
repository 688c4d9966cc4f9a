"""What counts can carry: whether they differ from what chance gives, and the least difference that so many of them could have shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy

from expertchat.evaluation.statistics import LEVEL, quantile, wilson

POWER = 0.8  # with which the least difference would have been found


class Tested(NamedTuple):
    """A figure with its interval, the probability of one so far from `even` by chance, and the least distance that so many answers show."""

    value: float
    low: float
    high: float
    p: float
    least: float


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
    return Tested(one - other, low, high, two_sided((one - other) / error) if error else 1.0, _reach() * error)


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


def effects(tables: Mapping[tuple[str, ...], Mapping[str, int]], steps: int = 50) -> Effects | None:
    """What counts of choices in several orders say of systems and of places: Luce's choice model, log odds = system + place, by maximum
    likelihood. The tables (order as shown -> chosen) are taken for independent of each other. None where they cannot be told apart.
    """
    names = sorted({name for order in tables for name in order})
    k = len(names)
    rows = [(order, numpy.array([tables[order].get(name, 0) for name in order], dtype=float)) for order in tables]
    if len(rows) < 2 or any(len(order) != k or not counts.all() for order, counts in rows):
        return None
    designs = [_design(order, names) for order, _ in rows]
    beta_P = numpy.zeros(2 * (k - 1))
    for _ in range(steps):
        gradient_P, information_P_P = numpy.zeros_like(beta_P), numpy.zeros((len(beta_P), len(beta_P)))
        for design_K_P, (_, counts_K) in zip(designs, rows, strict=True):
            odds_K = numpy.exp(design_K_P @ beta_P)
            chance_K = odds_K / odds_K.sum()
            total = counts_K.sum()
            gradient_P += design_K_P.T @ (counts_K - total * chance_K)
            information_P_P += total * design_K_P.T @ (numpy.diag(chance_K) - numpy.outer(chance_K, chance_K)) @ design_K_P
        if numpy.linalg.matrix_rank(information_P_P) < len(beta_P):
            return None
        beta_P += numpy.linalg.solve(information_P_P, gradient_P)
    covariance_P_P = numpy.linalg.inv(information_P_P)

    def against(one: numpy.ndarray) -> tuple[float, float, float, float]:
        value, error = float(one @ beta_P), math.sqrt(float(one @ covariance_P_P @ one))
        reach = quantile(LEVEL) * error
        return math.exp(value), math.exp(value - reach), math.exp(value + reach), two_sided(value / error)

    unit = numpy.vstack([numpy.eye(k - 1), numpy.zeros((1, k - 1))])
    none = numpy.zeros(k - 1)
    pairs = [(i, j) for i in range(k) for j in range(i + 1, k)]
    return Effects(
        {(names[i], names[j]): against(numpy.concatenate([unit[i] - unit[j], none])) for i, j in pairs},
        {(i, j): against(numpy.concatenate([none, unit[i] - unit[j]])) for i, j in pairs},
    )


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
