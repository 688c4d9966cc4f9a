"""Which system is best by one judge: a win matrix, Bradley-Terry strengths, and the same with length held constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from expertchat.audit.estimates import NOTHING, Draws, Estimate, count, number
from expertchat.audit.leanings import logistic
from expertchat.audit.sheet import Compared

Array = NDArray[Any]
MOST = 40  # systems
STEPS = 1000  # of a fit; most need a few dozen
WEAKEST = 1e-9


@dataclass(frozen=True)
class Place:
    """A system: its chance to win against the others (their mean) by Bradley-Terry strengths, raw, and with length held constant."""

    system: str
    wins: float
    n: int
    chance: Estimate
    like_length: Estimate


@dataclass(frozen=True)
class Ranking:
    """Systems, the best first, and how often each (row) won against each (column), a tie half to both."""

    places: list[Place]
    wins: Array

    def values(self) -> dict[str, Any]:
        places = [
            {"system": one.system, "wins": one.wins, "n": one.n, "chance": one.chance.values(), "like_length": one.like_length.values()}
            for one in self.places
        ]
        return {"systems": places, "wins": self.wins.tolist()}


def ranking(compared: Compared, draws: Draws) -> Ranking | None:
    """The ranking of all systems that were compared; None where there are not two, or too many.

    Strengths are evalica's; how they vary is told by the same model as a logistic regression, whose draws are cheap.
    """
    apart = numpy.asarray([one is not None and two is not None and one != two for one, two in compared.systems], dtype=bool)
    rows = compared.where(apart)
    names = sorted({str(name) for pair in rows.systems for name in pair})
    if not 2 <= len(names) <= MOST:
        return None
    place = {name: i for i, name in enumerate(names)}
    one_N, two_N = (numpy.asarray([place[str(pair[side])] for pair in rows.systems]) for side in (0, 1))
    k, m = len(names), len(rows)
    wins = numpy.zeros((k, k))
    numpy.add.at(wins, (one_N, two_N), (rows.sign + 1) / 2)
    numpy.add.at(wins, (two_N, one_N), (1 - rows.sign) / 2)
    chance = _against(strengths(wins))
    apart_N_K = numpy.zeros((m, k))
    apart_N_K[numpy.arange(m), one_N] = 1
    apart_N_K[numpy.arange(m), two_N] = -1
    _, chances_R = logistic(apart_N_K, rows.sign, rows.group, draws)
    like, likes_R = _like_length(rows, apart_N_K, draws)
    groups = count(rows.group)
    places = [
        Place(
            name, float(wins[i].sum()), int(wins[i].sum() + wins[:, i].sum()),
            _within(number(float(chance[i]), _against(chances_R)[:, i], m, groups, draws)),
            _within(number(float(like[i]), likes_R[:, i], m, groups, draws)) if like is not None else NOTHING,
        )
        for i, name in enumerate(names)
    ]  # fmt: skip
    order = sorted(range(k), key=lambda i: -(places[i].chance.value or 0.0))
    return Ranking([places[i] for i in order], wins[numpy.ix_(order, order)])


def strengths(wins_K_K: Array) -> Array:
    """Log-strengths by Bradley-Terry (1952; evalica's fit): who never wins has next to none."""
    import evalica

    one, two = numpy.nonzero(wins_K_K)
    won = [evalica.Winner.X] * len(one)
    found = evalica.bradley_terry(one.tolist(), two.tolist(), won, weights=wins_K_K[one, two].tolist(), limit=STEPS).scores
    return numpy.log(numpy.maximum(numpy.asarray(found.reindex(range(len(wins_K_K))), dtype=float), WEAKEST))


def _against(strength_K: Array) -> Array:
    """Mean chances to win, of log-strengths [..., K]."""
    chances = 1 / (1 + numpy.exp(-(strength_K[..., :, None] - strength_K[..., None, :])))
    k = strength_K.shape[-1]
    return (chances.sum(axis=-1) - 0.5) / (k - 1)


def _like_length(rows: Compared, apart_N_K: Array, draws: Draws) -> tuple[Array | None, Array]:
    """The same with length held constant: strengths beside a weight of tanh of the standardised difference in length."""
    spread, k = float(rows.longer.std()), apart_N_K.shape[1]
    if not spread:
        return None, numpy.zeros((0, k))
    columns = numpy.concatenate([apart_N_K, numpy.tanh(rows.longer / spread)[:, None]], axis=1)
    weights, weights_R = logistic(columns, rows.sign, rows.group, draws)
    return _against(weights[:k]), _against(weights_R[:, :k])


def _within(one: Estimate) -> Estimate:
    """A chance lies within 0..1."""
    low, high = (None if x is None else min(1.0, max(0.0, x)) for x in (one.low, one.high))
    return Estimate(one.value, low, high, one.n, one.groups)
