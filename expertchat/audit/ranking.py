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
DRAWS = 500  # each is a fit of its own
MOST = 40  # systems
STEPS = 1000  # of a fit; most need a few dozen


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
    """The ranking of all systems that were compared; None where there are not two, or too many."""
    apart = numpy.asarray([one is not None and two is not None and one != two for one, two in compared.systems], dtype=bool)
    rows = compared.where(apart)
    names = sorted({str(name) for pair in rows.systems for name in pair})
    if not 2 <= len(names) <= MOST:
        return None
    place = {name: i for i, name in enumerate(names)}
    one_N, two_N = (numpy.asarray([place[str(pair[side])] for pair in rows.systems]) for side in (0, 1))
    k = len(names)
    cell_N = (one_N * k + two_N) * 3 + rows.sign.astype(int) + 1
    wins = _wins(numpy.bincount(cell_N, minlength=k * k * 3)[None], k)[0]
    chance, chances_R = _chances(wins[None])[0], _chances(_wins(draws.tables(cell_N, rows.group, k * k * 3)[:DRAWS], k))
    like, likes_R = _like_length(rows, one_N, two_N, k, draws)
    groups = count(rows.group)
    places = [
        Place(
            name, float(wins[i].sum()), int(wins[i].sum() + wins[:, i].sum()),
            _within(number(float(chance[i]), chances_R[:, i], len(rows), groups, draws)),
            _within(number(float(like[i]), likes_R[:, i], len(rows), groups, draws)) if like is not None else NOTHING,
        )
        for i, name in enumerate(names)
    ]  # fmt: skip
    order = sorted(range(k), key=lambda i: -(places[i].chance.value or 0.0))
    return Ranking([places[i] for i in order], wins[numpy.ix_(order, order)])


def _wins(tables_R: Array, k: int) -> Array:
    """Tables of (first, second, sign) as win matrices [R, K, K]."""
    cells = tables_R.reshape(-1, k, k, 3)
    lost, tied, won = (cells[..., i] for i in range(3))
    return won + tied / 2 + (lost + tied / 2).transpose(0, 2, 1)


def _chances(wins_R_K_K: Array) -> Array:
    """Each system's chance against the others by its Bradley-Terry strength [R, K] (evalica's fit)."""
    import evalica

    k = wins_R_K_K.shape[-1]
    found = numpy.full(wins_R_K_K.shape[:2], numpy.nan)
    for r, wins in enumerate(wins_R_K_K):
        one, two = numpy.nonzero(wins)
        if len(one):
            won = [evalica.Winner.X] * len(one)
            result = evalica.bradley_terry(one.tolist(), two.tolist(), won, weights=wins[one, two].tolist(), limit=STEPS)
            strength = numpy.asarray(result.scores.reindex(range(k)), dtype=float)
            found[r] = _against(numpy.log(numpy.maximum(strength, 1e-12)))
    return found


def _against(strength_K: Array) -> Array:
    """Mean chances to win, of log-strengths [..., K]."""
    chances = 1 / (1 + numpy.exp(-(strength_K[..., :, None] - strength_K[..., None, :])))
    k = strength_K.shape[-1]
    return (chances.sum(axis=-1) - 0.5) / (k - 1)


def _like_length(rows: Compared, one_N: Array, two_N: Array, k: int, draws: Draws) -> tuple[Array | None, Array]:
    """The same with length held constant: strengths beside a weight of tanh of the standardised difference in length."""
    spread = float(rows.longer.std())
    if not spread:
        return None, numpy.zeros((0, k))
    columns = numpy.zeros((len(rows), k + 1))
    columns[numpy.arange(len(rows)), one_N] += 1
    columns[numpy.arange(len(rows)), two_N] -= 1
    columns[:, k] = numpy.tanh(rows.longer / spread)
    weights, weights_R = logistic(columns, rows.sign, rows.group, draws)
    return _against(weights[:k]), _against(weights_R[:, :k])


def _within(one: Estimate) -> Estimate:
    """A chance lies within 0..1."""
    low, high = (None if x is None else min(1.0, max(0.0, x)) for x in (one.low, one.high))
    return Estimate(one.value, low, high, one.n, one.groups)
