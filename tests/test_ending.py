"""When a dialogue ends by itself: loops, courtesy without end and silence, in many languages; and what must not end it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertchat.events import AnyEvent
from expertchat.records import Turn
from expertchat.talk.ending import only_courtesy, repeats, silent, stuck
from expertchat.text.likeness import alike, blank, has_question_mark, overlap, units, weight, words
from tests.small_talk import EMPTY, OPENING, TALKS
from tests.test_conversation import by_turn, dialogue, hold


def spoken(topic: str, texts: list[str]) -> tuple[str, int]:
    """(why it ended, after how many turns) of a dialogue about bees in which these turns are spoken."""
    double, events = by_turn(*texts), list[AnyEvent]()
    one = dialogue(events, double, turns=len(texts))
    object.__setattr__(one, "topic", one.topic.model_copy(update={"text": topic}))
    transcript = hold(one, double)
    return transcript.stop_reason, len(transcript.turns)


def opened(topic: str, text: str) -> list[str]:
    return [*(one.format(topic=topic) for one in OPENING), *text.split("|")]


def test_there_are_thirty_of_each() -> None:
    assert len(EMPTY) >= 30 and len(TALKS) >= 30
    assert all(len(text.split("|")) == 10 for text in (*EMPTY.values(), *TALKS.values()))


@pytest.mark.parametrize("name", EMPTY)
def test_courtesy_without_end_is_ended(name: str) -> None:
    """Ten turns of it, after an opening of two turns and without one: today's end would be "turns", after 12 and 10."""
    for texts in (opened("bees", EMPTY[name]), EMPTY[name].split("|")):
        reason, turns = spoken("bees", texts)
        assert reason in ("loop", "blank") and 2 <= turns <= len(texts) - (2 if name != "Vietnamese" else 1), (name, reason, turns)


@pytest.mark.parametrize("topic", TALKS)
def test_short_answers_with_content_go_on(topic: str) -> None:
    for texts in (opened(topic, TALKS[topic]), TALKS[topic].split("|")):
        assert spoken(topic, texts) == ("turns", len(texts)), topic


def turns(*texts: str) -> list[Turn]:
    return [Turn(speaker="ab"[i % 2], text=text) for i, text in enumerate(texts)]  # type: ignore[arg-type]


def test_what_is_new_is_counted_in_groups_of_characters() -> None:
    # " thank ", " you ": the groups " th tha han ank nk_" and " yo you ou_", 8 in all. The last two turns of four bring nothing: 0 of 8.
    assert only_courtesy("bees", turns("Thank you.", "Thank you.", "Thank you.", "Thank you."))
    # Of "how bees dance in figures of eight" and "wax is made by glands" nearly all groups are new.
    assert not only_courtesy("bees", turns("Thank you.", "Thank you.", "The dance has figures of eight.", "Glands give wax."))
    assert not only_courtesy("bees", turns("Thank you.", "Thank you.", "Thank you."))  # three turns are too few
    assert not only_courtesy("bees", turns("Thank you.", "Thank you.", "Thank you.", "Thank you?"))  # one has_question_mark
    assert not only_courtesy("bees", turns("Thank you.", "Thank you.", "Thank you.", "40,000, thank you."))  # one has a number


def test_exclamations_are_courtesy_only_apart_from_the_topic() -> None:
    # Six in a row of 1, 1, 2, 2, 1 and 3 words: 10 / 6 = 1.7 on the mean, at most 3.
    cheers = ("Goodbye!", "Bye!", "See you!", "Take care!", "Farewell!", "Until next time!")
    assert only_courtesy("bees", turns(*cheers)) and not only_courtesy("bees", turns(*cheers[:5]))
    assert not only_courtesy("farewells", turns(*cheers[:4], "Farewells!", "Until next time!"))  # a word of the topic
    # "Krill" was asked about before, in 1 of the 1 longer words of "So, krill!".
    assert not only_courtesy("whales", turns("What do krill eat?", *cheers[:4], "So, krill!", "Bye!"))


def test_a_long_talk_of_statements_is_no_courtesy() -> None:
    """Twelve turns of some 50 words, each with something new, without a question or a number: groups of characters run out."""
    said = Path(__file__).with_name("long_talk.txt").read_text("utf-8").split("\n")[:-1]
    assert len(said) == 12 and not any(only_courtesy("sourdough bread", turns(*said[:i])) for i in range(1, 13))
    assert only_courtesy("sourdough bread", turns(*said[:4], *(said[3], said[2]) * 3))  # what only says again what was said


def test_a_short_answer_may_come_again_but_not_to_the_same() -> None:
    assert not repeats(turns("Do they sleep?", "Yes.", "Do they dream?", "Yes."), 0.9)  # the question is another one
    assert repeats(turns("Why?", "Yes.", "Why?", "Yes."), 0.9)
    assert repeats(turns("Bees dance to show food.", "Why?", "Bees dance to show food!"), 0.9)  # five words are a statement
    assert repeats(turns("蜜蜂用舞蹈告诉同伴食物在哪里。", "为什么？", "蜜蜂用舞蹈告诉同伴食物在哪里！"), 0.9)
    assert not repeats(turns("蜜蜂用舞蹈告诉同伴食物在哪里。", "为什么？", "角度说明方向，长度说明距离。"), 0.9)
    assert not repeats(turns("", "Bees dance.", ""), 0.9)  # nothing is no repeat


def test_two_turns_that_only_shuffle_what_the_two_before_said_are_stuck() -> None:
    one, two = "I am glad to hear that Jamie has great ideas for the new house.", "I am happy to share and to help Jamie achieve the goal."
    # Every word of the last two stands in the first two: 0 of 16 and 0 of 11 are new, at most a tenth.
    shuffled = turns(one, two, f"{two} {one} {two}", f"{two} {two}")
    assert stuck(shuffled, 0.9) and not stuck(shuffled[:3], 0.9) and not repeats(shuffled, 0.9)
    # Two new words of 13 are more than a tenth; and short turns are never stuck.
    assert not stuck(turns(one, two, f"{two} {one}", f"{two} Sanding first!"), 0.9)
    assert not stuck(turns("Yes.", "No.", "Yes.", "No."), 0.9)


def test_silence_has_a_reason_of_its_own() -> None:
    assert silent(turns("Bees dance.", "", "...")) and not silent(turns("Bees dance.", "", "Wax.", ""))
    assert silent(turns("", "Bees dance.", "🙂", "Wax is made by glands.", "***"))  # three of a's, whatever b says
    assert not silent(turns("")) and not silent([])
    assert spoken("bees", ["Bees dance.", "", "😊", "Wax.", "Honey."]) == ("blank", 3)
    # One blank turn ends nothing.
    assert spoken("bees", ["Bees dance in eights.", "", "Wax is made by glands.", "Honey keeps for years."]) == ("turns", 4)


# -- likeness -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Don’t BE, well-known ﬁsh_2!", ["don't", "be", "well", "known", "fish", "2"]),
        ("蜜蜂 dance", ["蜜", "蜂", "dance"]),
        ("ミツバチが", ["ミ", "ツ", "バ", "チ", "が"]),
        ("हिन्दी में", ["हिन्दी", "में"]),  # vowel signs are no letters, and belong to the word
        ("می‌خواهم کتاب", ["میخواهم", "کتاب"]),  # a joiner is inside of a word
        ("ผึ้ง", ["ผึ้", "ง"]),  # marks stay with their letter
        ("꿀벌은 춤춘다", ["꿀벌은", "춤춘다"]),
        ("ＡＢＣ１２", ["abc12"]),
        ("👋🏽 — …", []),
    ],
)
def test_words_of_any_script(text: str, found: list[str]) -> None:
    assert words(text) == found


def test_words_weigh_less_without_spaces() -> None:
    assert weight(words("bees make honey")) == 3
    assert weight(words("蜜蜂酿蜜")) == 2  # four characters, about two words
    assert weight(words("กขคง")) == 1  # four of Thai make one


def test_overlap_of_pairs_of_characters() -> None:
    # 蜜蜂 蜂酿 酿蜜 and 蜜蜂 蜂酿 酿蜡: two of three pairs are shared, 2 * 2 / 6.
    assert units("蜜蜂酿蜜") == ("蜜蜂", "蜂酿", "酿蜜")
    assert overlap("蜜蜂酿蜜", "蜜蜂酿蜡") == pytest.approx(2 / 3)
    assert overlap("谢谢！", "再见！") == 0
    # " bee", "bee", "ee " and " bees": " be bee ees es_" and " be bee ee_" share 2 of 4 + 3.
    assert alike("bees", "bee") == pytest.approx(2 * 2 / 7)


@pytest.mark.parametrize("text", ["Why?", "为什么？", "لماذا؟", "Γιατί;", "¿Qué?"])
def test_questions_of_any_script(text: str) -> None:
    assert has_question_mark(text)


@pytest.mark.parametrize(("text", "said"), [("", True), (" …!?", True), ("😊👍🏽", True), ("π", False), ("7", False), ("蜜", False)])
def test_blank(text: str, said: bool) -> None:
    assert blank(text) is said


@given(st.text(), st.text())
def test_overlap_and_likeness_are_symmetric_shares(first: str, second: str) -> None:
    for share in (overlap, alike):
        assert 0 <= share(first, second) <= 1
        assert share(first, second) == share(second, first)
        assert share(first, first) == 1


@given(st.lists(st.text(max_size=20), max_size=8))
def test_any_turns_go_on_or_end(texts: list[str]) -> None:
    said = turns(*texts)
    found = (silent(said), only_courtesy("bees", said), stuck(said, 0.9), bool(said) and repeats(said, 0.9))
    assert all(isinstance(one, bool) for one in found)
