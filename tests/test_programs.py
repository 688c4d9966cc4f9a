"""Rewards that a program can check: their ranges, their directions, and what has nothing to be measured."""

from __future__ import annotations

import doctest
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertchat.text import measures, program
from expertchat.text.measures import PROGRAMS, length, questions
from expertchat.text.program import MIDDLE


def test_the_examples_hold() -> None:
    for module, examples in ((measures, 4), (program, 2)):
        found = doctest.testmod(module)
        assert (found.failed, found.attempted) == (0, examples)


@given(st.sampled_from(sorted(PROGRAMS)), st.text(max_size=200))
def test_a_reward_is_within_its_range_or_there_is_none(name: str, text: str) -> None:
    program = PROGRAMS[name]
    number = program.measure(text)
    assert (number is None) == (length(text) is None)  # no words: nothing to be measured, and no number in its place
    if number is not None:
        assert number >= 0 and -1 <= program.reward(number) <= 1


@given(st.sampled_from(sorted(PROGRAMS)), st.floats(0, 1), st.floats(0, 1))
def test_more_of_it_is_never_less_reward(name: str, one: float, two: float) -> None:
    low, high = sorted((one, two))
    assert PROGRAMS[name].reward(low) <= PROGRAMS[name].reward(high)


def test_a_word_more_is_more_reward() -> None:
    rewards = [PROGRAMS["length"].reward(count) for count in range(1, 500)]
    assert all(a < b for a, b in pairwise(rewards))
    assert PROGRAMS["length"].reward(MIDDLE) == 0 and PROGRAMS["length"].reward(3 * MIDDLE) == 0.5  # (120 - 40) / (120 + 40)


@given(st.integers(0, 6), st.integers(0, 6))
def test_the_share_of_questions(asked: int, stated: int) -> None:
    text = " ".join(["Is it so?"] * asked + ["It is so."] * stated)
    wanted = asked / (asked + stated) if asked + stated else None
    assert questions(text) == pytest.approx(wanted) if wanted is not None else questions(text) is None


@pytest.mark.parametrize(("text", "share"), [('She asked: "Why?"', 1.0), ("**Why?**", 1.0), ("Why?! No.", 0.5), ("What now", 0.0)])
def test_a_question_mark_at_the_end_makes_a_question(text: str, share: float) -> None:
    assert questions(text) == share
