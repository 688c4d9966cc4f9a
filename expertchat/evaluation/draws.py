"""Draws of whole groups (topics, dialogues), and how far an interval reaches that only a few groups carry.

Values of one group are alike, so groups are drawn whole (Field & Welsh 2007). The percentiles of such draws are too narrow: they vary by
(G - 1) / G of what samples of G groups do, know no tails of a small G, and do not vary at all where every answer is the same. So the draws
give the standard error alone, times sqrt(G / (G - 1)), and an interval reaches by Student's t of G - 1 degrees of freedom, on a scale that
suits the figure: Wilson's for shares, with the number of independent answers that the error amounts to (Franco et al. 2019).

The dialogues of a topic are not drawn a second time: what they vary by is in what the topics vary by, and both together would count it
twice (Davison & Hinkley 1997, section 3.8). Their own error is the floor instead. `python -m tests.proofs.coverage` shows all of these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy
from numpy.typing import NDArray

from expertchat.judging.shares import LEVEL, score_interval

POWER = 0.8  # with which the least effect would be found
FEWEST = 2  # groups that an interval needs
FLOOR = 0.25  # of the variance of independent answers: draws of few groups may be alike by chance
Array = NDArray[Any]


@dataclass(frozen=True)
class Draws:
    """Resamples of the groups 0..G-1: how often each is drawn. The same seed gives the same draws."""

    weights_R_G: Array

    @staticmethod
    @lru_cache(maxsize=2)  # all figures of one evaluation have the same draws; of 2,000 prompts they take 0.4 s and 32 MB
    def of(groups: int, resamples: int, seed: int) -> Draws:
        weights_R_G = numpy.random.default_rng(seed).multinomial(groups, numpy.full(groups, 1 / groups), size=resamples).astype(float)
        weights_R_G.flags.writeable = False
        return Draws(weights_R_G)

    @property
    def groups(self) -> int:
        return int(self.weights_R_G.shape[1])

    def sums(self, values_N: Array, group_N: Array) -> Array:
        """Sums over the values of each draw [R]."""
        return self.weights_R_G @ numpy.bincount(group_N, weights=values_N, minlength=self.groups)

    def tables(self, cell_N: Array, group_N: Array, cells: int) -> Array:
        """How many values of each draw lie in each cell [R, cells]."""
        counts_G_C = numpy.bincount(group_N * cells + cell_N, minlength=self.groups * cells).reshape(self.groups, cells)
        return self.weights_R_G @ counts_G_C

    def error(self, found_R: Array, groups: int) -> float:
        """The standard error that draws of a figure show."""
        found_R = found_R[numpy.isfinite(found_R)]
        if len(found_R) < 2 or groups < FEWEST:
            return 0.0
        return float(found_R.std(ddof=1)) * math.sqrt(groups / (groups - 1))


@lru_cache(maxsize=256)
def t_quantile(groups: int, p: float) -> float:
    """Student's t of G - 1 degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(groups - 1, p))


def t_chance(groups: int, t: float) -> float:
    """The probability of a value so far from 0, on both sides."""
    from scipy.special import stdtr

    return 2 * float(stdtr(groups - 1, -abs(t)))


def needed(groups: int, level: float = LEVEL) -> float:
    """How many standard errors off an effect must be for the interval to leave out none with a probability of POWER."""
    return t_quantile(groups, (1 + level) / 2) + t_quantile(groups, POWER)


@dataclass(frozen=True)
class Share:
    """The interval of a share of answers that come in groups. `worse`: how many times the variance of as many answers it has that are
    independent and all yes or no; less than once where many are ties, which count a half and vary less."""

    low: float
    high: float
    worse: float


def share_interval(value: float, error: float, alone: float, n: int, groups: int, level: float = LEVEL) -> Share:
    """Wilson's interval of a share of n answers whose draws of groups have this standard error; `alone`: the variance of the share were
    the answers independent.

    Where all answers are alike nothing varies: then each group counts as one answer.
    """
    square = max(error**2, FLOOR * alone)
    same = square < 1e-12 or value in (0.0, 1.0)
    low, high = score_interval(value, float(groups) if same else value * (1 - value) / square, t_quantile(groups, (1 + level) / 2))
    return Share(low, high, 1.0 if same or alone == 0 else max(square, alone) * n / (value * (1 - value)))


def least_share(even: float, n: int, worse: float, groups: int) -> float:
    """The least distance from `even` that n answers in groups show with a probability of POWER."""
    return needed(groups) * math.sqrt(max(even * (1 - even), 1 / (4 * n)) * worse / n)
