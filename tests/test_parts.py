"""The three parts of topics: to train on, to choose by, held out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from expertchat.config import ConfigError
from expertchat.evaluation.parts import parts_of
from expertchat.records import Topic
from expertchat.text.agreement import agrees
from expertchat.training.held_out import part
from expertchat.world.facts import load
from tests.staged import config_of


def topics(*texts: str) -> list[Topic]:
    return [Topic(id=str(i), text=text, source="list") for i, text in enumerate(texts)]


def named(found: Sequence[Topic]) -> list[str]:
    return [topic.text for topic in found]


def test_a_list_is_parted_from_its_end() -> None:
    given = topics(*"abcdefg")
    parts = parts_of(given, held=3, choosing=2)
    assert (named(parts.train), named(parts.choose), named(parts.held_out)) == (["a", "b"], ["c", "d"], ["e", "f", "g"])
    same = parts_of(given, held=3, choosing=0)
    assert (named(same.train), same.choose, named(same.held_out)) == (list("abcd"), [], list("efg"))
    none = parts_of(given, held=0, choosing=2)
    assert named(none.train) == named(none.held_out) == list("abcdefg") and none.choose == []
    assert parts_of(given, held=7, choosing=0).train == [] and parts_of(given, held=5, choosing=3).train == []


def test_a_topic_that_comes_again_is_in_one_part() -> None:
    """Seven of five topics: of the five the last two are held out, one chooses; no copy of these is trained on, whatever its case."""
    parts = parts_of(topics("bees", "tides", "volcanoes", " TIDES", "jazz", "rice", "bees"), held=2, choosing=1)
    assert (named(parts.train), named(parts.choose)) == (["bees", "tides", " TIDES", "bees"], ["volcanoes"])
    assert named(parts.held_out) == ["jazz", "rice"]
    parts = parts_of(topics("rice", "bees", "tides", "Rice", "bees"), held=1, choosing=1)
    assert (named(parts.train), named(parts.choose), named(parts.held_out)) == (["rice", "Rice"], ["bees"], ["tides"])
    assert parts_of(topics("bees", "bees", "bees"), held=1, choosing=0).train == []


def test_the_embedded_world_has_parts_of_its_own() -> None:
    world = load()
    mixed = [one for two in zip(world.part("held_out"), world.part("train"), strict=False) for one in two] + [*world.part("choose")]
    parts = parts_of(topics(*mixed), held=3, choosing=0)
    assert set(named(parts.choose)) == set(world.part("choose")) and len(parts.held_out) == 3
    assert set(named(parts.held_out)) <= set(world.part("held_out")) and set(named(parts.train)) <= set(world.part("train"))
    every = parts_of(topics(*world.topics), held=100, choosing=0)
    assert sum(map(len, every)) == len(world.topics) and set(named(every.held_out)) == set(world.part("held_out"))
    alone = topics(*world.part("train")[:4])  # of one part alone: as any other list
    assert named(parts_of(alone, held=1, choosing=1).choose) == [alone[2].text]


def test_nothing_left_to_train_on_is_refused() -> None:
    config = config_of("evaluation.topics=2", "evaluation.choosing=1")
    with pytest.raises(ConfigError, match=r"evaluation.topics=2 of 3 topics are held out and evaluation.choosing=1 others choose"):
        part(topics("a", "b", "c"), config)
    assert named(part(topics("a", "b", "c", "d"), config).choose) == ["b"]


def test_agreement_in_a_sentence() -> None:
    agreeing = (
        "Yes, I agree with that.", "What a great question!", "Absolutely.", "That's right, the Moon pulls.", "Genau, so ist es.",
        "A very good point.", "Great point about tides.", "This is a really insightful question about bees.", "Thanks for that.",
        "Ich stimme dir voll zu.", "Da kann ich nur zustimmen.", "Dem pflichte ich bei.", "Ich kann dem nur beipflichten.",
        "Das ist eine sehr gute Frage.", "Guter Punkt!", "Ein wichtiger Gedanke.",
    )  # fmt: skip
    saying = (
        "Great whales sing.", "Right whales are slow.", "I disagree.", "Exactly two tides come a day.", "Gute Hefe braucht Zeit.",
        "Thanks to yeast the dough rises.", "Ich kann das Brot zu Hause backen.", "Ich kann bei Kälte schlafen.",
        "A good answer needs time.", "An important question is why tides rise.",
        "Eine wichtige Frage ist, warum Bienen tanzen.",
    )  # fmt: skip
    assert [one for one in agreeing if not agrees(one)] == [one for one in saying if agrees(one)] == []
