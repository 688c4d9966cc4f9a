"""Reading what a judge wrote: the table in docs/ratings.md is the test, and properties hold for every text."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from expertchat.backends.base import Completion
from expertchat.judging import wim
from expertchat.judging.answers import read_rating
from expertchat.judging.rating import parse_rating
from expertchat.judging.view import Judgement
from expertchat.records import Turn
from expertchat.text.thinking import split
from expertchat.text.wordings import Prompts
from tests.scripted import config_of

DOCS = Path(__file__).parents[1] / "docs" / "ratings.md"


def rows(first: str) -> list[list[str]]:
    """The cells of the table in the docs whose heading begins with `first`."""
    lines = DOCS.read_text(encoding="utf-8").split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    found = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("| ").split(" | ")])
    return found


def examples(cell: str) -> list[str]:
    """The JSON strings that stand in code spans: `"8"`, and ``"`8`"`` where they hold a back quote."""
    return [json.loads(text) for text in re.findall(r'"(?:[^"\\]|\\.)*"(?=`)', cell)]


TABLE = [(text, how, read) for _, cell, how, read in rows("Form") for text in examples(cell)]


@pytest.mark.parametrize(("text", "how", "read"), TABLE)
def test_the_table_of_the_docs(text: str, how: str, read: str) -> None:
    found = parse_rating(text, "depth", how, "a")
    said = str(found.value) if found.value is not None else f"null: {found.fault}"
    assert said == read, (text, found)
    assert (found.value is None) == (found.problem is not None) == (found.fault is not None)


def test_the_table_is_there() -> None:
    assert len(TABLE) > 170 and sum(read.isdigit() for *_, read in TABLE) > 60


def prompts() -> Prompts:
    return config_of().experts["a"].prompts


@pytest.mark.parametrize(("text", "said"), [(text, said) for cell, said in rows("Answer") for text in examples(cell)])
def test_the_empty_form_of_the_docs(text: str, said: str) -> None:
    assert wim.is_empty(text, prompts()) == (said == "yes")


def test_what_is_covered_may_stand_before_the_empty_form_where_it_was_asked_for() -> None:
    text = "The answers cover wax, honey. Nothing is missing."
    assert wim.is_empty(text, prompts(), "covers_then_missing") and not wim.is_empty(text, prompts())
    assert not wim.is_empty("Ice feedbacks are absent. Nothing is missing.", prompts(), "covers_then_missing")


# -- properties ---------------------------------------------------------------------------------------------------------

READ = [(text, int(read)) for text, how, read in TABLE if read.isdigit() and how == "stop"]
PLAIN = st.sampled_from([" {}", "{}/10", "{} out of 10", "{}.", "{} - clear", "Depth: {}", "{} because it is clear", "{} (good)"])
VALUE = st.integers(1, 10)
NAMES = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
WORDS = (
    "0 1 5 8 10 11 100 / - . , : ( ) [ ] [[ ]] ** ` + ~ % out of to or not I rate it Depth Rating eight facts because if ８ ² } {\"depth\":"
)
PIECES = st.lists(st.sampled_from(WORDS.split()) | st.sampled_from([" ", "\n"]), max_size=14).map("".join)


@given(st.text() | PIECES, st.sampled_from(["depth", None]), st.sampled_from(["stop", "length"]))
def test_a_value_is_one_to_ten_and_stands_in_the_text(text: str, category: str | None, finish: str) -> None:
    found = parse_rating(text, category, finish)
    assert (found.value is None) == (found.problem is not None) == (found.fault is not None)
    if found.value is not None:
        assert 1 <= found.value <= 10
        assert re.search(rf"(?<!\d){found.value}(?!\d)", split(text).said)


@given(PLAIN, VALUE)
def test_plain_answers_are_read(form: str, value: int) -> None:
    assume(not (value == 1 and form == "{}."))
    assert parse_rating(form.format(value), "depth").value == value


SECOND = [", {}", " or {}", ". Rating: {}", " - {}", ", no, {}", " ({})", "\n{}", ", then {}/10", ", Clarity: {}", ". {} fits better"]


@given(PLAIN, VALUE, VALUE, st.sampled_from(SECOND), st.booleans())
def test_a_second_value_gives_null(form: str, value: int, second: int, more: str, word: bool) -> None:
    assume(value != second)
    other = NAMES[second - 1] if word else str(second)
    assert parse_rating(form.format(value) + more.format(other), "depth").value is None


def test_brackets_that_were_opened_for_the_judge_are_not_opened_twice() -> None:
    """A server that cannot go on after a beginning is asked in words, and its model writes all of it."""
    judgement = Judgement("bees", (Turn(speaker="a", text="Bees fly."), Turn(speaker="b", text="So?")), "a")
    told = {"8]]": 8, "8]] for depth": 8, "8": 8, "[[8]]": 8, "Rating: [[7]]": 7, "**Depth**: [[8]]": 8, "eight]] [[2]]": None,
            "<think>\nok [[3]]\n</think>\n\n[[8]]": 8, "<think>\nok [[3]]\n</think>\n\n8]]": 8,
            "8]] The expert gives many details.": 8, "8]]**": 8, "8]]<br>": 8, "8]]<br>The expert gives many details.": 8, "8]] 🌊": 8,
            "8]] Two of the facts are new.": 8,
            "8]] errors": None, "8]] Errors": None, "8]] 👍": 8, "8]] Accuracy: [[7]]": None, "8]] The rating is 7.": None,
            "8]] Seven fits better.": None, "8]] If it had sources.": None,
            "8]] 🔟": None, "8]] ⭐⭐⭐": None, "8]] 🌊 7": None,
            "8]] Percent": None, "8]] % of it": None, "8]] Expert B.": None, "11]] The expert gives many details.": None,
            "8]]x": None, "8] The expert gives many details.": None, "8]] Wait, it has no sources.": None}  # fmt: skip
    for text, value in told.items():
        assert read_rating(judgement, "depth", Completion(text, 3, 0.0, "stop"), None, "[[").value == value, text


@pytest.mark.parametrize("form", ["for expert {}", "for Expert {}", "(for Expert {})", "(Expert {})", "- Expert {}", "/10 for Expert {}."])
def test_a_rating_for_another_expert_is_none(form: str) -> None:
    text = f"8{'' if form[0] == '/' else ' '}{form}"
    assert parse_rating(text.format("B"), "depth", "stop", "a").value is None
    assert parse_rating(text.format("A"), "depth", "stop", "a").value == 8
    assert parse_rating("8 - A good reply.", "depth", "stop", "b").value == 8  # an article


@given(st.sampled_from(READ), st.sampled_from(["**{}**", "__{}__", "`{}`", " {} ", "\n{}", "# {}", '"{}"', "<think>3 or 4</think>{}"]))
def test_wrapping_changes_no_value(read: tuple[str, int], wrap: str) -> None:
    text, value = read
    if wrap.strip(" \n").startswith("{}") or wrap.startswith("<"):
        assert parse_rating(wrap.format(text), "depth", subject="a").value == value
    else:
        assert parse_rating(wrap.format(text.strip()), "depth", subject="a").value in (value, None)  # markup within markup may be null
        assert parse_rating(wrap.format(f" {value}".strip()), "depth").value == value


@given(st.sampled_from(READ), st.data())
def test_a_cut_answer_has_the_value_of_the_whole_one_or_none(read: tuple[str, int], data: st.DataObject) -> None:
    text, value = read
    part = text[: data.draw(st.integers(0, len(text)))]
    assert parse_rating(part, "depth", "length", "a").value in (value, None)


@given(st.text(), st.text())
def test_closed_thoughts_are_left_out(before: str, after: str) -> None:
    assume(not re.search("think|thought|reasoning|analysis|final|response|[`◁<>|‹›]", before + after, re.IGNORECASE))
    found = split(f"<think>{before}</think>{after}")
    assert (found.said, found.open) == (after, False)
    assert split(f"<think>{before}{after}").open
