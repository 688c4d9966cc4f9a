"""Which system is best by one judge: a win matrix, Bradley-Terry strengths, and the same with length held constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from expertchat.audit.estimates import NOTHING, Estimate, count, number, share
from expertchat.audit.leanings import DECIDES, logistic
from expertchat.audit.sheet import Compared
from expertchat.evaluation.draws import Draws

Array = NDArray[Any]
MOST = 40  # systems
STEPS = 1000  # of a fit; most need a few dozen


@dataclass(frozen=True)
class Place:
    """A system: the share that it won, ties half; its chance to win against the others (their mean) by Bradley-Terry strengths, and with
    length held constant."""

    system: str
    n: int
    won: Estimate
    chance: Estimate
    like_length: Estimate


@dataclass(frozen=True)
class Ranking:
    """Systems, the best first, and how often each (row) won against each (column), a tie half to both."""

    places: list[Place]
    wins: Array

    def values(self) -> dict[str, Any]:
        places = [
            {"system": one.system, "n": one.n} | {name: getattr(one, name).values() for name in ("won", "chance", "like_length")}
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
    apart_N_K = numpy.zeros((m, k))
    apart_N_K[numpy.arange(m), one_N] = 1
    apart_N_K[numpy.arange(m), two_N] = -1
    weights, draws_R = logistic(apart_N_K, rows.sign, rows.group, draws)
    # Where some have only won, or only lost, against all others no strength is large enough: it has a value for the order, and no interval.
    tied = _strongly_connected(wins)
    chance, chances_R = _against(strengths(wins) if tied else weights), _against(draws_R if tied else weights[None])
    like, likes_R = _like_length(rows, apart_N_K, draws) if tied else (None, chances_R)
    groups = count(rows.group)
    places = [
        Place(
            name, int(wins[i].sum() + wins[:, i].sum()), _won(i, one_N, two_N, rows, draws),
            _within(number(float(chance[i]), chances_R[:, i], m, groups, draws)),
            _within(number(float(like[i]), likes_R[:, i], m, groups, draws)) if like is not None else NOTHING,
        )
        for i, name in enumerate(names)
    ]  # fmt: skip
    order = sorted(range(k), key=lambda i: -(places[i].chance.value or 0.0))
    return Ranking([places[i] for i in order], wins[numpy.ix_(order, order)])


def _won(system: int, one_N: Array, two_N: Array, rows: Compared, draws: Draws) -> Estimate:
    side = (one_N == system).astype(int) - (two_N == system)
    return share((rows.sign * side + 1)[side != 0] / 2, rows.group[side != 0], draws)


def _strongly_connected(wins_K_K: Array) -> bool:
    """Whether everybody has beaten everybody, if over others: only then have all strengths a largest likelihood (Ford 1957)."""
    from scipy.sparse.csgraph import connected_components

    return int(connected_components(wins_K_K > 0, directed=True, connection="strong")[0]) == 1


def strengths(wins_K_K: Array) -> Array:
    """Log-strengths by Bradley-Terry (1952; evalica's fit)."""
    import evalica

    one, two = numpy.nonzero(wins_K_K)
    won = [evalica.Winner.X] * len(one)
    found = evalica.bradley_terry(one.tolist(), two.tolist(), won, weights=wins_K_K[one, two].tolist(), limit=STEPS).scores
    return numpy.log(numpy.asarray(found.reindex(range(len(wins_K_K))), dtype=float))


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
    if abs(weights[k]) > DECIDES:
        return None, weights_R[:, :k]
    return _against(weights[:k]), _against(weights_R[:, :k])


def _within(one: Estimate) -> Estimate:
    """A chance lies within 0..1."""
    low, high = (None if x is None else min(1.0, max(0.0, x)) for x in (one.low, one.high))
    return Estimate(one.value, low, high, one.n, one.groups)
