"""Choosing one of N: the three rules, all subsets against going through them one by one, draws in two stages."""

from __future__ import annotations

import doctest
import math
from collections import Counter
from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expertchat.choosing import choice, ruled
from expertchat.choosing.choice import against_below, against_first, best, chances, expected, keys_of, kl, sizes
from expertchat.choosing.config import ChooseConfig
from expertchat.choosing.ruled import key_phrases, rule_text

HIGHEST = ChooseConfig()
some_keys = st.lists(st.one_of(st.none(), st.integers(0, 3).map(float)), min_size=1, max_size=7)


def test_the_highest_is_chosen_and_what_has_no_score_never() -> None:
    keys = keys_of([2.0, None, math.nan, 5.0, 5.0], HIGHEST, None, "s")
    assert keys == [2.0, None, None, 5.0, 5.0]
    assert [best(keys[:n]) for n in (1, 2, 3, 4, 5)] == [0, 0, 0, 3, 3]  # of equals the first
    assert best(keys_of([None, math.inf], HIGHEST, None, "s")) is None


def test_rejection_sampling_takes_the_first_that_is_worth_it() -> None:
    rule = ChooseConfig(rule="threshold", threshold=4.0)
    keys = keys_of([3.0, 4.0, 9.0, None], rule, 4.0, "s")
    assert [best(keys[:n]) for n in (1, 2, 4)] == [None, 1, 1]
    assert keys_of([3.0, 4.0], rule, None, "s") == [None, None]  # the rule's text has no score: nothing can be held against it
    with pytest.raises(ValueError, match="rule=threshold needs threshold"):
        ChooseConfig(rule="threshold")
    with pytest.raises(ValueError, match="counts with rule=threshold alone"):
        ChooseConfig(threshold=1.0)


def test_softmax_draws_by_the_score() -> None:
    rule = ChooseConfig(rule="softmax", temperature=2.0)
    drawn = Counter(best(keys_of([0.0, 2.0, None, 4.0], rule, None, f"seed {i}")) for i in range(4000))
    total = 1 + math.e + math.e**2  # exp(0 / 2), exp(2 / 2), exp(4 / 2)
    for i, weight in ((0, 1.0), (1, math.e), (3, math.e**2)):
        assert drawn[i] / 4000 == pytest.approx(weight / total, abs=0.025)  # three standard errors of .5 at most: 3 * .5 / 63
    assert drawn[2] == 0
    assert keys_of([1.0, 2.0], rule, None, "a") == keys_of([1.0, 2.0, 3.0], rule, None, "a")[:2]  # more candidates change no earlier draw


@settings(max_examples=60, deadline=None)
@given(keys=some_keys, data=st.data())
def test_all_subsets_at_once_are_what_they_are_one_by_one(keys: list[float | None], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(keys)))
    values = data.draw(st.lists(st.integers(0, 2), min_size=len(keys), max_size=len(keys)))

    def outcome(i: int, j: int) -> float:
        return 0.5 if values[i] == values[j] else float(values[i] > values[j])

    found = Counter[int]()
    worth, won = list[float](), list[float]()
    subsets = list(combinations(range(len(keys)), size))
    for subset in subsets:
        if (place := best([keys[i] for i in subset])) is not None:
            chosen = subset[place]
            found[chosen] += 1
            worth.append(values[chosen])
            won.append(fmean(0.5 if i == chosen else outcome(chosen, i) for i in subset))  # any of them may be the first
    chance = chances(keys, size)
    assert chance == pytest.approx([found[i] / len(subsets) for i in range(len(keys))])
    assert expected(chance, [float(value) for value in values]) == (pytest.approx(fmean(worth)) if worth else None)
    assert expected(chance, against_first(against_below(keys, outcome), size)) == (pytest.approx(fmean(won)) if won else None)


def test_by_the_chooser_the_best_of_n_wins_all_but_half_a_case_against_the_first() -> None:
    keys: list[float | None] = [float(i) for i in range(8)]
    for size in (1, 2, 4, 8):
        won = expected(chances(keys, size), against_first(against_below(keys, lambda i, j: float(i > j)), size))
        assert won == pytest.approx(1 - 1 / (2 * size))  # it is the first itself in 1 of N cases, a tie, and wins all others


def test_sizes_and_their_distance() -> None:
    assert (sizes(1), sizes(2), sizes(12)) == ([1], [1, 2], [1, 2, 4, 8, 12])
    assert kl(1) == 0 and kl(2) == pytest.approx(math.log(2) - 0.5) and kl(16) == pytest.approx(1.8351, abs=1e-4)  # 2.7726 - .9375


def test_texts_by_a_rule() -> None:
    assert rule_text("first_sentence", "Tides rise twice a day. Why?") == "Tides rise twice a day."
    assert rule_text("first_sentence", " ") is None and rule_text("key_phrases", None) is None and key_phrases("to be or not") is None
    assert rule_text("longest", "whatever was said") is None  # which is known when the candidates are there


def test_the_examples_of_docstrings() -> None:
    for module in (choice, ruled):
        tried = doctest.testmod(module)
        assert tried.attempted and not tried.failed
