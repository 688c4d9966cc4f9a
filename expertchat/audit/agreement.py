"""How far a judge is right: agreement with the truth or with people, kappas, Spearman's rho, calibration."""

from __future__ import annotations

import math
from typing import Any

import numpy
from numpy.typing import NDArray

from expertchat.audit.estimates import NOTHING, Estimate, correlation, count, number, share
from expertchat.audit.sheet import Compared, Rated
from expertchat.evaluation.draws import Draws

Array = NDArray[Any]
POINTS = 10  # of a rating
BINS = 10  # of a calibration
CALIBRATED = 400  # draws of one


def raw(compared: Compared, draws: Draws) -> Estimate:
    """Of comparisons of which one text is truly better, the share that it wins, a tie half: whoever does not look at them comes to 0.5."""
    known = ~numpy.isnan(compared.truth) & (compared.truth != 0)
    apart = numpy.abs(compared.sign[known] - compared.truth[known])
    return share(1 - apart / 2, compared.group[known], draws, 0.5, score=True)


def kappa(compared: Compared, draws: Draws) -> Estimate:
    """Cohen's kappa (1960) of the three verdicts, a tie being one of them."""
    known = ~numpy.isnan(compared.truth)
    said, true = compared.sign[known].astype(int) + 1, compared.truth[known].astype(int) + 1
    return _kappa(said, true, compared.group[known], 3, draws, quadratic=False)


def quadratic(rated: Rated, draws: Draws) -> Estimate:
    """Cohen's kappa with quadratic weights (1968) of ratings against ratings, both rounded: only where what they are held against is on
    the same scale, 1..10."""
    known = ~numpy.isnan(rated.truth)
    said, true = numpy.rint(rated.value[known]), numpy.rint(rated.truth[known])
    if not len(said) or min(said.min(), true.min()) < 1 or max(said.max(), true.max()) > POINTS:
        return NOTHING
    return _kappa(said.astype(int) - 1, true.astype(int) - 1, rated.group[known], POINTS, draws, quadratic=True)


def _kappa(said_N: Array, true_N: Array, group_N: Array, classes: int, draws: Draws, quadratic: bool) -> Estimate:
    from sklearn.metrics import cohen_kappa_score

    if not len(said_N) or (len(numpy.unique(said_N)) == 1 and len(numpy.unique(true_N)) == 1):
        return NOTHING  # where both always say one thing, there is no chance to correct for
    labels = list(range(classes))
    value = float(cohen_kappa_score(said_N, true_N, labels=labels, weights="quadratic" if quadratic else None))
    tables_R = draws.tables(said_N * classes + true_N, group_N, classes * classes).reshape(-1, classes, classes)
    return correlation(value, kappas(tables_R, quadratic), len(said_N), count(group_N), draws, 0.0)


def kappas(tables_R_C_C: Array, quadratic: bool) -> Array:
    """Kappa of each table of counts [R, C, C]; NaN where chance alone would always agree. scikit-learn takes one at a time."""
    classes = tables_R_C_C.shape[-1]
    place = numpy.arange(classes)
    weights = (place[:, None] - place[None, :]) ** 2 if quadratic else 1 - numpy.eye(classes)
    total = tables_R_C_C.sum(axis=(1, 2))
    chance = numpy.einsum("ri,rj->rij", tables_R_C_C.sum(axis=2), tables_R_C_C.sum(axis=1))
    with numpy.errstate(invalid="ignore", divide="ignore"):
        return 1 - (weights * tables_R_C_C).sum(axis=(1, 2)) * total / (weights * chance).sum(axis=(1, 2))


# -- ranks ------------------------------------------------------------------------------------------------------------------


def rho(values_N: Array, truth_N: Array, group_N: Array, draws: Draws, none: float | None = 0.0) -> Estimate:
    """Spearman's rho (1904), ties at their middle rank; in each draw the ranks are those of the draw."""
    known = ~(numpy.isnan(values_N) | numpy.isnan(truth_N))
    values_N, truth_N, group_N = values_N[known], truth_N[known], group_N[known]
    if len(values_N) < 3 or len(numpy.unique(values_N)) < 2 or len(numpy.unique(truth_N)) < 2:
        return NOTHING
    value = float(_spearman(values_N, truth_N, numpy.ones((1, len(values_N))))[0])
    found_R = _spearman(values_N, truth_N, draws.weights_R_G[:, group_N])
    return correlation(value, found_R, len(values_N), count(group_N), draws, none)


def _spearman(one_N: Array, two_N: Array, weights_R_N: Array) -> Array:
    """Rho of each row of weights: how often each value is there."""
    total = weights_R_N.sum(axis=1, keepdims=True)
    ranks = [_ranks(values_N, weights_R_N) for values_N in (one_N, two_N)]
    x, y = (rank - (weights_R_N * rank).sum(axis=1, keepdims=True) / total for rank in ranks)
    with numpy.errstate(invalid="ignore", divide="ignore"):
        return (weights_R_N * x * y).sum(axis=1) / numpy.sqrt((weights_R_N * x * x).sum(axis=1) * (weights_R_N * y * y).sum(axis=1))


def _ranks(values_N: Array, weights_R_N: Array) -> Array:
    """Middle ranks [R, N] of values that are there as often as the weights say."""
    _, place_N, sizes = numpy.unique(values_N, return_inverse=True, return_counts=True)
    ends = numpy.cumsum(sizes) - 1
    up_to_R_L = numpy.cumsum(weights_R_N[:, numpy.argsort(place_N, kind="stable")], axis=1)[:, ends]
    size_R_L = numpy.diff(up_to_R_L, axis=1, prepend=0)
    return (up_to_R_L - (size_R_L - 1) / 2)[:, place_N]


# -- calibration --------------------------------------------------------------------------------------------------------------


def calibration(rated: Rated, draws: Draws, same_scale: bool) -> Estimate:
    """The expected calibration error of ratings, in points: the mean distance, over bins of equal ratings, of the mean rating from the mean
    truth. A truth that has no scale of 1..10 is put on the judge's own: its k-th lowest value becomes the k-th lowest rating.

    By chance alone the distances of a perfect judge are not 0; the draws' mean excess is taken off (Kumar et al. 2019 do alike).
    """
    known = ~numpy.isnan(rated.truth)
    value_N, truth_N, group_N = rated.value[known], rated.truth[known], rated.group[known]
    n = len(value_N)
    if n < 2 * BINS:
        return NOTHING
    edges = numpy.unique(numpy.quantile(value_N, numpy.linspace(0, 1, BINS + 1)))
    bin_N = numpy.clip(numpy.searchsorted(edges, value_N, side="right") - 1, 0, max(0, len(edges) - 2))

    def errors(weights_R_N: Array) -> Array:
        true_R_N = numpy.broadcast_to(truth_N, weights_R_N.shape) if same_scale else _on_scale(truth_N, value_N, weights_R_N)
        sums_R_B = (weights_R_N * (value_N - true_R_N)) @ (bin_N[:, None] == numpy.unique(bin_N)).astype(float)
        return numpy.abs(sums_R_B).sum(axis=1) / weights_R_N.sum(axis=1)

    found, found_R = float(errors(numpy.ones((1, n)))[0]), errors(draws.weights_R_G[:CALIBRATED, group_N])
    excess = float(numpy.nanmean(found_R)) - found
    # What is taken off is itself not known well, so it counts as one more error.
    wider_R = found_R * math.hypot(1.0, excess / max(float(numpy.nanstd(found_R)), 1e-12))
    return number(max(0.0, found - excess), wider_R, n, count(group_N), draws, 0.0)


def _on_scale(truth_N: Array, value_N: Array, weights_R_N: Array) -> Array:
    """The truth's ranks as ratings, in each draw [R, N]: equal truths become the mean of the ratings that their ranks have."""
    _, place_N, sizes = numpy.unique(truth_N, return_inverse=True, return_counts=True)
    ends, order_N = numpy.cumsum(sizes) - 1, numpy.argsort(value_N)
    up_to_R_L = numpy.cumsum(weights_R_N[:, numpy.argsort(place_N, kind="stable")], axis=1)[:, ends]
    there_R_N = numpy.cumsum(weights_R_N[:, order_N], axis=1)
    sums_R_N = numpy.cumsum(weights_R_N[:, order_N] * value_N[order_N], axis=1)
    rows = zip(up_to_R_L, _from_0(there_R_N), _from_0(sums_R_N), strict=True)
    below_R_L = numpy.stack([numpy.interp(up, there, sums) for up, there, sums in rows])
    size_R_L = numpy.diff(up_to_R_L, axis=1, prepend=0)
    return (numpy.diff(below_R_L, axis=1, prepend=0) / numpy.maximum(size_R_L, 1))[:, place_N]


def _from_0(sums_R_N: Array) -> Array:
    return numpy.concatenate([numpy.zeros((len(sums_R_N), 1)), sums_R_N], axis=1)
