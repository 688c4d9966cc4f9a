"""Figures of replies that come in topics: their intervals by hand, by law, and in a small simulation."""

from __future__ import annotations

import math

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertchat.evaluation import draws
from expertchat.evaluation.by_topic import NOTHING, estimate, gap_of, mean_of, ratio_of, share_of
from expertchat.evaluation.counts import holm
from expertchat.judging.shares import wilson
from tests.proofs.coverage import World, covered, main


def test_a_share_of_topics_by_hand() -> None:
    # Four topics with ten replies each, of which 4, 6, 8 and 6 win: 24 of 40 = .6. The topics' rates .4, .6, .8, .6 have a variance of
    # (.04 + 0 + .04 + 0) / 3 = .02667, so the mean has an error of sqrt(.02667 / 4) = .0816: that of .6 * .4 / .00667 = 36 answers
    # that depend on nothing. Student's t of three degrees of freedom is 3.182: Wilson's interval with 3.182 for 1.96 and 36 answers.
    won = [1.0] * 4 + [0.0] * 6 + [1.0] * 6 + [0.0] * 4 + [1.0] * 8 + [0.0] * 2 + [1.0] * 6 + [0.0] * 4
    topics = [name for name in "abcd" for _ in range(10)]
    found = share_of(won, topics, seed=0)
    assert (found.value, found.n, found.topics) == (pytest.approx(0.6), 40, 4)
    scale = 1 + 3.182**2 / 36
    middle, reach = (0.6 + 3.182**2 / 72) / scale, 3.182 / scale * math.sqrt(0.24 / 36 + 3.182**2 / (4 * 36**2))
    assert (found.low, found.high) == (pytest.approx(middle - reach, abs=0.01), pytest.approx(middle + reach, abs=0.01))
    # What is found with a probability of .8: 3.182 + .978 (t at .8) errors of a share of 1/2 among as dependent answers.
    assert found.least == pytest.approx((3.182 + 0.978) * 0.0816 * math.sqrt(0.25 / 0.24), abs=0.02)
    assert share_of(won, topics, seed=0) == found and share_of(won, topics, seed=1) != found


def test_topics_that_differ_carry_less_than_replies() -> None:
    won, topics = [1.0] * 50 + [0.0] * 50, ["a"] * 50 + ["b"] * 50
    wide, narrow = share_of(won, topics, seed=0), wilson(50, 100)
    assert wide.low is not None and wide.high is not None and wide.low < 0.05 and wide.high > 0.95 and narrow[0] > 0.4
    alone = share_of(won[::5], ["a"] * 20, seed=0)  # of one topic: its replies
    assert (alone.low, alone.high) == (pytest.approx(wilson(10, 20)[0], abs=0.04), pytest.approx(wilson(10, 20)[1], abs=0.04))


def test_means_and_ratios() -> None:
    topics = [str(i % 10) for i in range(100)]
    numbers = numpy.random.default_rng(3)
    base = [float(value) for value in numbers.poisson(2, 100) + 1]
    assert ratio_of([2 * value for value in base], base, topics, seed=0).value == 2.0  # every draw has it: nothing varies
    assert ratio_of([2 * value for value in base], base, topics, seed=0).low is None
    policy = [value + change for value, change in zip(base, numbers.normal(1, 1, 100), strict=True)]
    ratio, apart = ratio_of(policy, base, topics, seed=0), mean_of([p - b for p, b in zip(policy, base, strict=True)], topics, seed=0)
    assert ratio.low is not None and ratio.high is not None and ratio.value is not None and ratio.low < ratio.value < ratio.high
    assert ratio.low * ratio.high == pytest.approx(ratio.value**2)  # even on the scale of the logarithm
    assert apart.chance is not None and ratio.chance is not None and apart.chance < 0.01 and ratio.chance < 0.01
    assert ratio_of([1.0, 2.0], [0.0, 0.0], ["a", "b"], seed=0)[:3] == (None, None, None)
    assert estimate(numpy.zeros((0, 2)), [], seed=0) == NOTHING and mean_of([3.0], ["a"], seed=0)[:3] == (3.0, None, None)
    with pytest.raises(ValueError, match="1 values of 2 topics"):
        mean_of([1.0], ["a", "b"], seed=0)


def test_what_nothing_varies_in() -> None:
    every = share_of([1.0] * 60, [str(i % 6) for i in range(60)], seed=0)  # six topics count as six answers
    assert every.high == 1.0 and every.low == pytest.approx(6 / (6 + draws.t_quantile(6, 0.975) ** 2))
    ties = share_of([0.5] * 20, [str(i % 5) for i in range(20)], seed=0)
    assert ties.low is not None and ties.low < 0.5 < (ties.high or 0) and ties.chance == pytest.approx(1.0)


def test_ties_vary_less() -> None:
    # 200 answers in 20 topics. Where eight of ten are ties, a share has a variance of .2 * .25 / 200: sqrt(.00025) = .0158, which with t of
    # 19 degrees of freedom is found at (2.093 + .861) * .0158 = .047; without ties at (2.093 + .861) * sqrt(.25 / 200) = .104.
    rng, topics = numpy.random.default_rng(0), [str(i % 20) for i in range(200)]
    won = rng.permuted(numpy.repeat([0.0, 1.0], 100))
    tied = share_of(numpy.where(numpy.arange(200) % 10 < 8, 0.5, won).tolist(), topics, seed=0)
    plain = share_of(won.tolist(), topics, seed=0)
    assert plain.least == pytest.approx(0.104, abs=0.02) and tied.least == pytest.approx(0.047, abs=0.015)
    # What the interval leaves out is no chance, and what it holds is.
    for wins in range(4, 30, 2):
        found = share_of([1.0] * wins + [0.0] * 4 + [0.5] * (196 - wins), topics, seed=0)
        assert found.low is not None and found.chance is not None
        assert (found.low > 0.5) >= (found.chance < 0.05)


def test_a_clean_sweep_is_shown() -> None:
    topics = [str(i % 8) for i in range(80)]
    every, even = gap_of([1.0] * 80, topics, seed=0), gap_of([0.0] * 80, topics, seed=0)
    # Each of eight topics counts as one answer: Wilson at 1 with t of 7 degrees of freedom, 8 / (8 + 2.365^2) = .589, twice that less 1.
    assert (every.value, every.high) == (1.0, 1.0) and every.low == pytest.approx(2 * 8 / (8 + 2.365**2) - 1, abs=1e-3)
    assert every.chance is not None and every.chance < 0.05 and even.low is not None and even.low < 0 and even.chance == pytest.approx(1.0)
    less = gap_of([-0.25] * 80, topics, seed=0)  # as sure, of a smaller difference the other way
    assert (less.low, less.high, less.chance) == (-0.25, pytest.approx(-0.25 * (every.low or 0)), every.chance)
    mixed = [1.0, 0.0, -1.0, 0.5] * 20
    assert gap_of(mixed, topics, seed=0) == mean_of(mixed, topics, seed=0)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from("abcdef")), min_size=1, max_size=40))
def test_a_share_lies_within_its_interval(rows: list[tuple[float, str]]) -> None:
    values, topics = [value for value, _ in rows], [topic for _, topic in rows]
    found = share_of(values, topics, seed=0, resamples=60)
    assert found.value == pytest.approx(sum(values) / len(values)) and found.n == len(values)
    if found.low is not None and found.high is not None:
        assert 0 <= found.low <= found.value + 1e-12 and found.value <= found.high + 1e-12 <= 1 + 1e-9
    mirrored = share_of([1 - value for value in values], topics, seed=0, resamples=60)
    assert mirrored.low == (None if found.high is None else pytest.approx(1 - found.high, abs=1e-6))


def test_more_of_the_same_topics_says_no_more() -> None:
    values, topics = [0.0, 1.0, 2.0, 3.0], ["a", "b", "c", "d"]
    one, ten = mean_of(values, topics, seed=1), mean_of(values * 10, topics * 10, seed=1)
    assert (one.low, one.high) == (pytest.approx(ten.low), pytest.approx(ten.high))


def test_several_questions_of_one_study() -> None:
    # of three: the least p thrice, the next one twice, the last once, none less than one before it
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])


def test_the_intervals_cover() -> None:
    """A small simulation; `python -m tests.proofs.coverage` is the whole one."""
    for figure in ("win rate", "arm - arm"):
        share, width = covered(World(20, 20, 0.05), figure, 60, seed=1)
        assert 0.88 <= share <= 1.0 and 0 < width < 0.25  # 60 sets of 95 %: a standard error of 2.8 points
    share, width = covered(World(6, 10, 0.2), "win rate", 40, seed=1)
    assert share >= 0.85 and width > 0.2


def test_the_simulation_is_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("tests.proofs.coverage.WORLDS", [World(6, 4, 0.0)])
    monkeypatch.setattr("tests.proofs.coverage.POWERS", [World(6, 4, 0.0, ties=0.4)])
    assert main(["8"]) == 0  # of eight sets all may hold the truth
    said = capsys.readouterr().out
    assert "| 6 x 4 | 0 |" in said and "topics, then dialogues" in said and "4 kinds" in said
    assert "| 6 x 4 | 0 | 40% |" in said
    monkeypatch.setattr("tests.proofs.coverage.FIGURES", {"none": lambda world, rng, seed: (NOTHING, 0.0)})
    assert main(["8"]) == 1 and "Beyond 93 to 97 %: none of 6 topics, alike 0: 0.0 %" in capsys.readouterr().out
