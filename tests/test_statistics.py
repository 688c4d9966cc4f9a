"""Intervals by hand and by law."""

from __future__ import annotations

import math

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertchat.evaluation.statistics import bootstrap, quantile, scaled_margin, wilson

# -- Wilson -------------------------------------------------------------------------------------------------------------


def test_wilson_by_hand() -> None:
    # 8 of 10, z = 1.96: scale 1 + 3.8416 / 10 = 1.38416; middle (.8 + 3.8416 / 20) / 1.38416 = .71674;
    # reach 1.96 / 1.38416 * sqrt(.16 / 10 + 3.8416 / 400) = 1.41602 * .16001 = .22658
    low, high = wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-3), pytest.approx(0.9433, abs=1e-3))
    # 281.5 wins of 400 is 70.4 %; a win rate of 65.0 % needs 260 of 400 for its interval to lie above 60 %
    assert wilson(260, 400)[0] == pytest.approx(0.6020, abs=1e-4) and wilson(258, 400)[0] < 0.6


def test_wilson_at_the_ends() -> None:
    # 0 of n: (0, z^2 / (n + z^2)) = 3.8415 / 13.8415
    assert wilson(0, 10) == (0.0, pytest.approx(0.27753, abs=1e-5))
    assert wilson(10, 10) == (pytest.approx(1 - 0.27753, abs=1e-5), 1.0)
    assert wilson(0, 0) == (0.0, 1.0)
    for wins, n in ((-1, 5), (5.5, 5), (math.nan, 5)):
        with pytest.raises(ValueError):
            wilson(wins, n)
    with pytest.raises(ValueError, match="level=1"):
        wilson(1, 2, level=1)


@given(st.integers(1, 2000), st.data())
def test_wilson_holds_the_rate_and_mirrors(n: int, data: st.DataObject) -> None:
    wins = data.draw(st.integers(0, 2 * n)) / 2  # ties count half
    low, high = wilson(wins, n)
    assert 0 <= low <= wins / n <= high <= 1
    mirrored = wilson(n - wins, n)
    assert (1 - mirrored[1], 1 - mirrored[0]) == (pytest.approx(low), pytest.approx(high))
    wider, narrower = wilson(wins, n, 0.99), wilson(4 * wins, 4 * n)
    assert wider[0] <= low and wider[1] >= high
    assert narrower[1] - narrower[0] < high - low


def test_wilson_covers_as_often_as_it_says() -> None:
    """400 games with 70 %: 95 of 100 intervals hold .7; every outcome weighs what its probability is."""
    n, p = 400, 0.7
    held = 0.0
    for wins in range(n + 1):
        low, high = wilson(wins, n)
        if low <= p <= high:
            held += math.comb(n, wins) * p**wins * (1 - p) ** (n - wins)
    assert held == pytest.approx(0.95, abs=0.01)


# -- bootstrap ----------------------------------------------------------------------------------------------------------


def test_bootstrap_is_the_normal_interval_where_that_holds() -> None:
    values = numpy.random.default_rng(5).normal(3.0, 2.0, 400)
    low, high = bootstrap(values, lambda v: float(v.mean()), seed=0, resamples=4000)
    reach = quantile(0.95) * values.std() / 20  # 20 = sqrt(400)
    assert low == pytest.approx(values.mean() - reach, abs=0.02)
    assert high == pytest.approx(values.mean() + reach, abs=0.02)


def test_bootstrap_repeats_itself_and_refuses_nothing() -> None:
    values = [1.0, 2.0, 4.0, 8.0]

    def mean(v: numpy.ndarray) -> float:
        return float(v.mean())

    first = bootstrap(values, mean, seed=1)
    assert first == bootstrap(values, mean, seed=1)
    assert first[0] < 3.75 < first[1]
    assert bootstrap([7.0], mean, seed=0) == (7.0, 7.0)
    assert bootstrap([1.0, 2.0], lambda v: math.nan, seed=0) == (None, None)
    with pytest.raises(ValueError, match="no values"):
        bootstrap([], mean, seed=0)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20), st.integers(0, 5))
def test_a_mean_lies_within_the_values(values: list[float], seed: int) -> None:
    low, high = bootstrap(values, lambda v: float(v.mean()), seed=seed, resamples=50)
    assert low is not None and high is not None
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


# -- margins -----------------------------------------------------------------------------------------------------------


def test_scaled_margin_knows_no_scale() -> None:
    rewards, margins = [1.0, 3.0, 2.0, 6.0], [2.0, 4.0]
    # mean margin 3; rewards: mean 3, squares 4 + 0 + 1 + 9 = 14, sd sqrt(3.5) = 1.8708
    assert scaled_margin(margins, rewards) == pytest.approx(3 / 1.8708287)
    assert scaled_margin([10 * m for m in margins], [10 * r - 7 for r in rewards]) == pytest.approx(3 / 1.8708287)
    assert scaled_margin([], rewards) is None and scaled_margin(margins, [2.0, 2.0]) is None and scaled_margin(margins, []) is None
