"""What a judge prefers whatever is better: a place, length, its own texts, the middle; and how steady it is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy
from numpy.typing import NDArray

from expertchat.audit.estimates import NOTHING, Estimate, count, leaning, number, share
from expertchat.audit.sheet import Compared, Rated, Sheet, Shown
from expertchat.evaluation.draws import Draws

Array = NDArray[Any]
DECIDES = 10.0  # log-odds beyond which a preference is one without exception: its size has no meaning, and no interval
RIDGE = 1e3  # inverse strength: next to none, but a preference without exception has a finite size


# -- place ------------------------------------------------------------------------------------------------------------------


def first(shown: Shown, draws: Draws) -> Estimate:
    """The share of answers that choose what stood first, a tie half.

    Where pairs are asked in both orders, those with both answers alone, each as one value (0.5 where one text wins both times): else the
    better text may have stood first, and there is no flag.
    """
    _, at_V, size_P = numpy.unique(shown.pair, return_inverse=True, return_counts=True)
    if not shown.balanced or not len(at_V):
        return share((shown.sign + 1) / 2, shown.group, draws)
    chosen_P, group_P = numpy.bincount(at_V, weights=(shown.sign + 1) / 2) / size_P, numpy.zeros(len(size_P), dtype=int)
    group_P[at_V] = shown.group
    return share(chosen_P[size_P == 2], group_P[size_P == 2], draws, 0.5)


def flips(sheet: Sheet, draws: Draws) -> Estimate:
    """The share of pairs whose two orders have different answers."""
    return share(*sheet.flips, draws)


def alike(shown: Shown, draws: Draws) -> tuple[Estimate, Estimate]:
    """Of two identical texts: the share of ties, and of choices of the first place (a tie half)."""
    sign, group = shown.sign[shown.alike], shown.group[shown.alike]
    return share((sign == 0).astype(float), group, draws), share((sign + 1) / 2, group, draws)


def apart(shown: Shown) -> Shown:
    """Without identical texts."""
    kept = ~shown.alike
    return replace(shown, sign=shown.sign[kept], group=shown.group[kept], alike=shown.alike[kept], pair=shown.pair[kept])


# -- length and own texts -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OfKind:
    """Texts of a kind against others: the share that they win, ties half; the share that is truly theirs; how often they win where they
    truly lost; and the leaning, which without a truth is the share minus 0.5."""

    won: Estimate
    truly: Estimate
    where_lost: Estimate
    leaning: Estimate


def of_kind(compared: Compared, kind: Array, draws: Draws) -> OfKind:
    """`kind`: 1 where the first text of a comparison is of the kind and the second is not, -1 the other way, 0 neither or both."""
    rows = compared.where(kind != 0)
    side = numpy.sign(kind[kind != 0])
    won, truth = rows.sign * side, rows.truth * side
    whole = share((won + 1) / 2, rows.group, draws)
    known = ~numpy.isnan(truth)
    if not known.any():
        shifted = share((won + 1) / 2, rows.group, draws, 0.5)
        return OfKind(whole, NOTHING, NOTHING, _minus_half(shifted))
    lost = truth == -1
    truly = share((truth[known] + 1) / 2, rows.group[known], draws)
    at_odds = share((won[lost] + 1) / 2, rows.group[lost], draws)
    return OfKind(whole, truly, at_odds, leaning(won[known], truth[known], rows.group[known], draws))


def _minus_half(one: Estimate) -> Estimate:
    low, high = (None if x is None else x - 0.5 for x in (one.low, one.high))
    return replace(one, value=None if one.value is None else one.value - 0.5, low=low, high=high)


def length_size(compared: Compared, draws: Draws) -> Estimate:
    """What length weighs: the coefficient, in log-odds, of tanh of the standardised difference in length (as AlpacaEval's length control,
    Dubois et al. 2024), the truth beside it where it is known. At 1 a much longer text has nearly e times the odds of one that is as long.
    """
    gap = compared.gap
    rows = compared.where(~numpy.isnan(gap)) if (~numpy.isnan(gap)).any() else compared
    spread = float(rows.longer.std()) if len(rows) else 0.0
    if not spread:
        return NOTHING
    columns = [numpy.tanh(rows.longer / spread)]
    if not numpy.isnan(rows.gap).any() and (scale := float(rows.gap.std())):
        columns.append(rows.gap / scale)
    weights, draws_R = logistic(numpy.stack(columns, axis=1), rows.sign, rows.group, draws)
    groups = count(rows.group)
    if abs(weights[0]) > DECIDES:
        return Estimate(math.copysign(DECIDES, float(weights[0])), None, None, len(rows), groups)
    return number(float(weights[0]), draws_R[:, 0], len(rows), groups, draws)


def logistic(columns_N_K: Array, sign_N: Array, group_N: Array, draws: Draws) -> tuple[Array, Array]:
    """Logistic regression without a constant (an item's first text is any text), a tie as half of each: weights [K], draws [R, K].

    A draw is one Newton step from the fit, not a fit of its own (the score bootstrap of Kline & Santos 2012): all cost one product.
    """
    from sklearn.linear_model import LogisticRegression

    share_of = (sign_N + 1) / 2
    # Each comparison as winner minus loser, and mirrored: the same to a regression without a constant, and both classes are there.
    ahead = numpy.concatenate([columns_N_K, -columns_N_K])
    weight = numpy.concatenate([share_of, 1 - share_of]) / 2
    wins = numpy.repeat([1, 0], len(ahead))
    model = LogisticRegression(C=RIDGE, fit_intercept=False, max_iter=1000)
    model.fit(numpy.concatenate([ahead, -ahead]), wins, sample_weight=numpy.concatenate([weight, weight]))
    weights_K = model.coef_[0]
    rate = 1 / (1 + numpy.exp(-columns_N_K @ weights_K))
    score_N_K = columns_N_K * (share_of - rate)[:, None]
    curve = (columns_N_K * (rate * (1 - rate))[:, None]).T @ columns_N_K + numpy.eye(columns_N_K.shape[1]) / RIDGE
    by_group = numpy.stack([numpy.bincount(group_N, weights=score, minlength=draws.groups) for score in score_N_K.T], axis=1)
    return weights_K, weights_K + (draws.weights_R_G - 1) @ by_group @ numpy.linalg.inv(curve)


# -- the middle, and steadiness -------------------------------------------------------------------------------------------------


def same(shown: Shown, compared: Compared, numbers: tuple[Array, Array], draws: Draws) -> Estimate:
    """How much of what it says is one and the same: the share of ties among answers on pairs; else of the most frequent point.

    A fault where it is more than one half, and more than the ties of the truth.
    """
    if len(shown.sign):
        truth = compared.truth[~numpy.isnan(compared.truth)]
        often = max(0.5, float((truth == 0).mean()) if len(truth) else 0.0)
        return _too_many(share((shown.sign == 0).astype(float), shown.group, draws, often))
    value_N, group_N = numbers
    if not len(value_N):
        return NOTHING
    values, counts = numpy.unique(value_N, return_counts=True)
    return _too_many(share((value_N == values[counts.argmax()]).astype(float), group_N, draws, 0.5))


def _too_many(found: Estimate) -> Estimate:
    """Less than one half is no fault."""
    return replace(found, flag="none") if found.flag == "bias" and (found.value or 0) < 0.5 else found


def ties(compared: Compared, draws: Draws) -> Estimate:
    """The share of comparisons that end in a tie, disagreeing orders among them."""
    return share((compared.sign == 0).astype(float), compared.group, draws)


def spread(rated: Rated, draws: Draws) -> Estimate:
    """The standard deviation of the ratings."""
    n = len(rated.value)
    if n < 2:
        return NOTHING
    square = (rated.value - rated.value.mean()) ** 2
    size_R = draws.sums(numpy.ones(n), rated.group)
    with numpy.errstate(invalid="ignore", divide="ignore"):
        mean_R = draws.sums(rated.value, rated.group) / size_R
        found_R = numpy.sqrt(numpy.maximum(0, draws.sums(square, rated.group) / size_R - (mean_R - rated.value.mean()) ** 2))
    return number(float(numpy.sqrt(square.mean())), found_R, n, count(rated.group), draws, 0.0)


def again(sheet: Sheet, draws: Draws) -> Estimate:
    """The share of repeats that say what was said the first time: one that throws coins between two says it half of the time."""
    same_N, group_N = sheet.again
    return share(same_N, group_N, draws, 0.5, score=True)
