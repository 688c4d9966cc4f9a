"""Counting in texts, by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertchat.choosing.ruled import rule_text
from expertchat.evaluation.manner import manner
from expertchat.text.measures import distinct_n, questions, repeated_sentences, words


def test_words() -> None:
    assert words("Bees don't sting: they DANCE (8 figures).") == ["bees", "don't", "sting", "they", "dance", "8", "figures"]
    assert words("") == words("  ...  ") == []
    assert words("It’s the bees’ пам’ять") == words("It's the bees' памʼять") == ["it's", "the", "bees", "пам'ять"]  # however it is typed
    assert repeated_sentences("It's wax.", ["It’s wax."]) == 1.0


def test_distinct_n_by_hand() -> None:
    # one two, two one, one two | one two: 4 pairs of words, of which "one two" and "two one" are different
    assert distinct_n(["One two one two", "one two!"], 2) == pytest.approx(2 / 4)
    assert distinct_n(["one two one two", "one two"], 1) == pytest.approx(2 / 6)
    assert distinct_n(["a b", "c d"], 2) == 1.0  # no pair "b c" over the end of a text
    assert distinct_n(["word", ""], 2) is None
    with pytest.raises(ValueError):
        distinct_n(["a"], 0)


def test_repeated_sentences_by_hand() -> None:
    earlier = ["Bees dance. Wax is made by glands!"]
    # of four sentences two repeat: one of the dialogue (other case and stop), one of the reply itself
    assert repeated_sentences("bees dance! Honey keeps. Honey keeps. A hive has one queen.", earlier) == pytest.approx(2 / 4)
    assert repeated_sentences("Honey keeps.", earlier) == 0.0
    assert repeated_sentences("", earlier) == repeated_sentences("...", earlier) == 0.0
    assert repeated_sentences("Bees dance. Bees dance.") == pytest.approx(1 / 2)


def test_a_lists_numbers_and_titles_are_no_sentences() -> None:
    """"1." ends no sentence that anybody has said: two lists repeat nothing by having numbers, and three names nothing by their titles."""
    assert repeated_sentences("1. Tides rise. 2. Winds blow.", ["1. Bees dance. **2.** Wax melts."]) == 0.0
    assert repeated_sentences("1. Tides rise. 2. Winds blow.", ["Winds blow."]) == pytest.approx(1 / 2)
    assert repeated_sentences("Mr. Ames came. Mr. Bell left, e.g. home. Mrs. Bell is at St. Paul's.") == 0.0
    assert questions("1. Why? 2. Does Dr. Ames know? a. How?") == 1.0
    assert questions("7.") == 0.0  # an answer that is a number
    assert rule_text("first_sentence", "1. Tides rise. 2. Winds blow.") == "Tides rise."
    assert rule_text("subject_line", "1. Tides rise.") == "Tides rise"
    assert rule_text("first_sentence", "Dr. Ames fishes. So do I.") == "Dr. Ames fishes."
    assert manner([], "1. Tides rise. 2. Why?").model_dump() == {"sentences": 2, "questions": 1, "agreements": 0, "again": 0}


@given(st.lists(st.text(alphabet="ab .!?", max_size=30), max_size=5), st.integers(1, 4))
def test_shares_are_shares(texts: list[str], n: int) -> None:
    share = distinct_n(texts, n)
    assert share is None or 0 < share <= 1
    assert distinct_n([*texts, *texts], n) == pytest.approx((share or 0) / 2) if share else True
    for i, text in enumerate(texts):
        assert 0 <= repeated_sentences(text, texts[:i]) <= 1
        assert repeated_sentences(text, [text]) in (0.0, 1.0)


def test_scripts_without_spaces_are_counted_by_characters() -> None:
    # 蜂 酿 蜜 蜂 酿 蜡: pairs 蜂酿 酿蜜 蜜蜂 蜂酿 酿蜡, 5 of which 4 are different; as words they would be one word and no pair.
    assert distinct_n(["蜂酿蜜蜂酿蜡"], 2) == pytest.approx(4 / 5)
    assert words("हिन्दी ผึ้ง") == ["हिन्दी", "ผึ้", "ง"]
