"""What names a topic among the things that models propose, and what is proposed again."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertchat.backends.base import Embedding
from expertchat.config import ConfigError
from expertchat.events import AnyEvent, Note
from expertchat.experts.naming import PROBLEMS, named
from expertchat.talk.scheduler import Scheduler
from expertchat.talk.topics import Proposals
from expertchat.world.facts import load as load_world
from tests.scripted import BagOfWords, Double, config_of
from tests.test_conversation import experts
from tests.test_topics import propose, topics_config

STANDARD = config_of("experts.a.path=x", "model@experts.a=auto").experts["a"].prompts.topic.format(avoid="")

NAMES = {
    "The history of zero": "The history of zero",
    "Topic: honey bees": "honey bees",
    "**Topic:** Honey bees.": "Honey bees",
    "Topic 1: Honey bees": "Honey bees",
    "1. Black holes": "Black holes",
    "1) **Black holes**": "Black holes",
    "- black holes": "black holes",
    "# Black holes": "Black holes",
    '"Black holes"': "Black holes",
    "“Black holes.”": "Black holes",
    "*Medical Fiction*": "Medical Fiction",
    "Black holes\n\nThey are the densest things that we know of, and": "Black holes",
    "Sure! Here is a topic:\n\n**Black holes**": "Black holes",
    "Here's a topic: black holes": "black holes",
    "My favourite topic: **Admiration**": "Admiration",
    "How about black holes?": "black holes",
    "Let us talk about volcanoes.": "volcanoes",
    "Let's discuss the topic of sourdough bread.": "sourdough bread",
    'I would suggest "The lifecycle of stars", because it is known well.': "The lifecycle of stars",
    "What a good idea. I choose **black holes**!": "black holes",
    "Space: the final frontier": "Space: the final frontier",
    "World War I": "World War I",
    "US history": "US history",
    "War and peace": "War and peace",
    "Histoire du pain": "Histoire du pain",
    "Why bees dance": "Why bees dance",
    "C++ templates": "C++ templates",
    "Rock'n'roll, soul & jazz": "Rock'n'roll, soul & jazz",
    "salt, fire": "salt, fire",
    "Thema: Sauerteigbrot": "Sauerteigbrot",
    "Tema: los volcanes": "los volcanes",
    "话题：人工智能": "人工智能",
    "「ブラックホール」": "ブラックホール",
    "история нуля": "история нуля",
    "الثقوب السوداء": "الثقوب السوداء",
    "हिन्दी कविता": "हिन्दी कविता",
    "발효 빵의 역사": "발효 빵의 역사",
    "DNA": "DNA",
    "The 1969 Moon landing": "The 1969 Moon landing",
}
NONE = {
    "": "nothing",
    "...": "nothing",
    "42": "nothing",
    "Sure": "nothing",
    "None": "nothing",
    "This is a conversation. You choose to be told.": "sentence",
    "That's a good one.": "sentence",
    "That's a good one. What's your response?": "sentence",
    "Discuss the topic yourself": "sentence",
    "Discuss the topic yourself, hablallo ame": "sentence",
    "Sure! I can help with that": "sentence",
    "What is wax?": "sentence",
    "Great choice!": "sentence",
    "Bees are animals": "sentence",
    "fallsh breaks into deep cracks rises. I can discuss batteries or black holes": "sentence",
    "I do not know that topic.": "sentence",
    "人工智能是什么？": "sentence",
    "我们来谈谈人工智能吧": "sentence",
    "Research on the effects of climate change on coastal ecosystems.": "long",
    "人工智能在医疗卫生教育交通金融农业等各个领域的应用": "long",
    "Propose a topic": "prompt",
    "A discussion between two experts": "prompt",
    "Reevaluating a topic without quotation marks.": "prompt",
    "Experts: Jane Smith, Matt Redstone": "prompt",
    "one to six words": "prompt",
    "Sports, Travel, Classics": "list",
    "{topic}": "marks",
    "black holes | white holes": "marks",
    "https://x.org/a?b=1": "sentence",
    "Black holes (and": "marks",
}


@pytest.mark.parametrize("text", NAMES)
def test_names(text: str) -> None:
    assert named(text, STANDARD) == (NAMES[text], None)


@pytest.mark.parametrize("text", NONE)
def test_what_names_nothing(text: str) -> None:
    assert named(text, STANDARD) == (None, NONE[text]) and NONE[text] in PROBLEMS


def test_a_proposal_that_the_limit_cut_counts_by_its_first_line_alone() -> None:
    assert named("The lifecycle of a Pred", STANDARD, cut=True) == (None, "cut")
    assert named("Black holes\n\nThey are", STANDARD, cut=True) == ("Black holes", None)
    assert named("Here is a topic:", STANDARD, cut=True) == (None, "cut")


def test_the_topics_of_the_embedded_world_are_names() -> None:
    request = config_of().experts["a"].prompts.topic.format(avoid="")
    for topic in load_world().topics:
        assert named(topic, request) == (topic, None) == named(f" {topic}.", request)


@given(st.text(max_size=60), st.booleans())
def test_a_topic_is_one_line_that_names_itself(text: str, cut: bool) -> None:
    topic, problem = named(text, STANDARD, cut)
    assert (topic is None) != (problem is None) and (problem is None or problem in PROBLEMS)
    if topic is not None:
        assert topic == topic.strip() and "\n" not in topic and any(c.isalpha() for c in topic)
        assert named(topic, STANDARD) == (topic, None)  # what was taken off is off


# -- proposed again -----------------------------------------------------------------------------------------------------


def test_what_names_no_topic_is_proposed_again_and_the_reasons_are_counted() -> None:
    said = ["That's a good one.", "Propose a topic", "honey bees"]
    topics, events, double = propose(lambda r: said[int(r.key[-1])], 1, attempts=4)
    assert [t.text for t in topics] == ["honey bees"] and not events and len(double.asked()) == 3
    topics, events, _ = propose(lambda r: "honey bees" if r.key.startswith("c0000") else "What is it?", 2, attempts=3)
    (note,) = events
    assert isinstance(note, Note) and "after 3 attempts for c0001 ('honey bees')" in note.text
    assert note.text.endswith("(of the proposals 3 were sentences)")
    with pytest.raises(ConfigError, match=r"raise topics\.attempts, .* \(of the proposals 16 were sentences\)") as error:
        propose(lambda r: "What is it?", 4, attempts=4)
    assert len(error.value.problems) == 1


def test_what_looks_like_an_earlier_topic_is_one_whatever_its_embedding_says() -> None:
    # "black hole": 5 groups of " black " and 4 of " hole "; " holes " has 5 and shares 3 of them: 2 * (5 + 3) / (9 + 10) = 0.84.
    # As bags of words they share one of two: cosine 0.5, far below 0.9.
    texts = {"c0000/topic/0": "black holes", "c0001/topic/0": "black hole", "c0001/topic/1": "bees"}
    topics, events, _ = propose(lambda r: texts[r.key], 2)
    assert [t.text for t in topics] == ["black holes", "bees"] and not events


@pytest.mark.parametrize("vector", [(math.nan, 0.0), (math.inf, 0.0), (0.0, 0.0)])
def test_a_vector_that_points_nowhere_hides_no_duplicate(vector: tuple[float, float]) -> None:
    """Not-a-number in one topic's embedding made every later comparison false: any duplicate was then new."""

    class Broken(BagOfWords):
        def embed(self, requests):  # type: ignore[no-untyped-def]
            return [Embedding(vector) if r.text == "bees" else Embedding((1.0, 0.0)) for r in requests]

    events: list[AnyEvent] = []
    texts = iter(["bees", "otters", "wolves", "bees"])
    double = Double(lambda r: next(texts))
    proposals = Proposals(experts(), topics_config(attempts=1), 2, lambda topic: None, events.append)
    Scheduler({"a": double, "b": double, "embedder": Broken()}).run([proposals.flow()])
    assert [t.text for t in proposals.topics] == ["bees", "otters"] and not events
    again = Proposals(experts(), topics_config(attempts=1), 4, lambda topic: None, events.append)
    again.topics, again._rows, again._vectors = list(proposals.topics), proposals._rows, proposals._vectors
    assert again._similarity(Embedding((1.0, 0.0))) == pytest.approx(1.0) and again._similarity(Embedding(vector)) == -1.0
    assert again._likeness("Bees", []) == 1.0


def test_small_models_are_begun_the_proposal() -> None:
    config = config_of("experts.a.path=x", "model@experts.a=smollm2_135m")
    assert config.experts["a"].prompts.topic_prefix == "Topic:" and config_of().experts["a"].prompts.topic_prefix == ""
