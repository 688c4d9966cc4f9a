"""The alternative annotator test, by hand."""

from __future__ import annotations

from math import atan, pi, sqrt

import pytest

from expertchat.labels.alternative import alternative_annotator, below, rejected

PEOPLE = {
    "ann": {1: "A", 2: "A", 3: "A", 4: "B"},
    "ben": {1: "A", 2: "A", 3: "B", 4: "B"},
    "cat": {1: "A", 2: "B", 3: "B", 4: "B"},
}
JUDGE = {1: "A", 2: "A", 3: "B", 4: "B", 5: "A"}


def t3(t: float) -> float:
    """P(T < t) of Student's t with 3 degrees of freedom: 1/2 + (x / (1 + x^2) + atan x) / pi, x = t / sqrt 3."""
    x = t / sqrt(3)
    return 0.5 + (x / (1 + x * x) + atan(x)) / pi


def test_choices_by_hand() -> None:
    """Without ann: on 3 the judge says B as both others, ann says A; elsewhere the two agree with the others equally often: advantage 4/4,
    ann 3/4. Differences 0, 0, -1, 0: mean -1/4, deviation 1/2, t = (-0.25 - 0.2) / (0.5 / 2) = -1.8. Without cat the same on item 2.
    ben says what the judge says: all differences are 0, below epsilon without a doubt. BY: 1 + 1/2 + 1/3 = 11/6, thresholds
    n/3 * 0.05 * 6/11: 0.009, 0.018, 0.027 against 0, 0.085, 0.085: one of three falls.
    """
    found = alternative_annotator(JUDGE, PEOPLE, least_items=4)
    assert [(one.name, one.items, one.advantage, one.person, one.won) for one in found.people] == [
        ("ann", 4, 1.0, 0.75, False), ("ben", 4, 1.0, 1.0, True), ("cat", 4, 1.0, 0.75, False),
    ]  # fmt: skip
    assert [one.p for one in found.people] == [pytest.approx(t3(-1.8)), 0.0, pytest.approx(t3(-1.8))]
    assert t3(-1.8) == pytest.approx(0.0848, abs=1e-4)
    assert found.winning_rate == pytest.approx(1 / 3) and found.passed is False and found.advantage == 1.0
    assert alternative_annotator(JUDGE, PEOPLE, q=0.5, least_items=4).passed is True  # thresholds 0.09, 0.18, 0.27: all fall


def test_ratings_by_hand() -> None:
    """Others 4 and 6: a judge's 5 lies at -sqrt((1 + 1) / 2) = -1, a person's 7 at -sqrt((9 + 1) / 2) = -2.24: the judge is ahead."""
    people = {"ann": {1: 7, 2: 5}, "ben": {1: 4, 2: 5}, "cat": {1: 6, 2: 5}}
    found = alternative_annotator({1: 5, 2: 9}, people, least_items=2)
    ann = found.people[0]
    assert (ann.advantage, ann.person) == (0.5, 0.5)  # on 2 the judge's 9 lies at -4, ann's 5 at 0
    assert ann.p == pytest.approx(below([-1, 1], 0.2)) and found.passed is False


def test_a_judge_that_is_nobody_fails_and_one_that_is_the_others_passes() -> None:
    people = {name: {n: "AB"[(n * k) % 7 < 3] for n in range(60)} for name, k in (("ann", 1), ("ben", 1), ("cat", 1))}
    people["ann"] = {n: ("AB"[n % 2] if n % 3 == 0 else one) for n, one in people["ann"].items()}
    assert alternative_annotator(people["ben"], people).passed is True
    assert alternative_annotator(dict.fromkeys(range(60), "C"), people).winning_rate == 0.0


def test_too_little_to_test_is_said_and_is_no_figure() -> None:
    assert alternative_annotator(JUDGE, {"ann": PEOPLE["ann"]}).problem == "the test leaves one person out and needs 2; there is 1"
    few = alternative_annotator(JUDGE, PEOPLE)
    assert few.winning_rate is None and few.passed is None
    assert few.problem == "nobody shares 30 items with the judge and another person; the most is 4"
    assert few.left == ["ann", "ben", "cat"]
    apart = alternative_annotator(JUDGE, {"ann": {1: "A"}, "ben": {2: "A"}}, least_items=1)
    assert apart.problem is not None and apart.problem.endswith("the most is 0")


def test_false_discoveries() -> None:
    """1 + 1/2 + 1/3 + 1/4 = 25/12. q = 0.1: thresholds 0.012, 0.024, 0.036, 0.048; q = 0.05 halves them."""
    assert rejected([0.01, 0.2, 0.02, 0.03], 0.1) == {0, 2, 3}
    assert rejected([0.01, 0.2, 0.02, 0.03], 0.05) == set()
    assert rejected([0.02, 0.021, 0.5, 0.6], 0.1) == {0, 1}  # 0.02 > 0.012, but 0.021 <= 0.024, and all before the last one fall
    assert rejected([], 0.1) == set()
