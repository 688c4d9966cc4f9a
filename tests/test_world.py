"""The embedded world: the facts file, the ground truth, the simulator, and the models that come with the package."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
import yaml

from expertchat.text.sentences import sentences
from expertchat.text.wordings import Prompts
from expertchat.world.facts import KNOWN, PARTS, Label, World, load, ratings
from expertchat.world.rates import auc, spearman
from expertchat.world.recipe import MODELS, source_hash
from expertchat.world.simulator import CATEGORIES, Simulator

PROMPTS = Prompts(**yaml.safe_load((Path(__file__).parents[1] / "conf/prompts/world.yaml").read_text("utf-8")))
TINY = World(
    "# tea\nleaf | all true tea comes from one plant | one plant gives all true tea | every true tea is made from one plant\n"
    "water | green tea wants cooler water | hot water spoils green tea | cooler water suits green tea\n"
    "# rain\ndrops | big drops are flat below | large drops have a flat base | drops that are big are flat below\n"
)


def test_every_fact_is_well_formed():
    world = load()
    clauses = [c for facts in world.topics.values() for f in facts for c in f.clauses]
    assert len(world.topics) >= 60
    assert all(len(facts) == 14 for facts in world.topics.values())
    assert len({c.lower() for c in clauses}) == len(clauses) == 60 * 14 * 3
    for clause in clauses:
        assert clause.isascii() and not re.search(r"[.?!;:,()\[\]\"|]", clause), clause
        assert 5 <= len(clause.split()) <= 12, clause
    for topic, facts in world.topics.items():
        aspects = [f.aspect.lower() for f in facts]
        assert not [(a, b) for a in aspects for b in aspects if a != b and a in b], topic
        assert len(set(aspects)) == 14 and topic.lower() not in aspects


def test_each_expert_knows_nine_and_both_together_all():
    for topic in load().topics:
        a, b = load().known("a", topic), load().known("b", topic)
        assert len(a) == len(b) == KNOWN == 9
        assert len(a & b) == 4 and len(a | b) == 14  # 9 + 9 - 14 = 4


def test_truth_of_a_dialogue():
    turns = [
        "Let us talk about tea. What about leaf?",  # remark, question
        "I agree. All true tea comes from one plant. Also, green tea wants cooler water.",  # remark, fact 0, fact 1
        "Remember that hot water spoils green tea. Big drops are flat below. Tea is a mineral.",  # fact 1 again, off topic, wrong
    ]
    truths = TINY.read(turns, "tea")
    assert [x.kind for x in truths[0].labels] == ["remark", "question"]
    assert truths[1].facts == [0, 1] and truths[1].claims == 2 and truths[1].repeats == 0
    assert [x.kind for x in truths[2].labels] == ["fact", "off topic", "wrong"]
    assert truths[2].facts == [] and truths[2].repeats == 1 and truths[2].claims == 3


def test_deserved_ratings_show_their_arithmetic():
    labels = [Label("remark"), Label("fact", 0), Label("fact", 1), Label("fact", 1, again=True), Label("wrong"), Label("question")]
    assert ratings(labels) == {
        "depth": 4,  # 2 new facts
        "accuracy": 8,  # 1 + round(9 * 3 / 4) = 1 + round(6.75)
        "relevance": 10,  # 1 + round(9 * 4 / 4)
        "clarity": 7,  # 10 - 3 * 1
        "engagement": 10,  # 3 + 5 (a question) + 2 (a remark)
        "humanness": 8,  # 3 + 3 (a remark) + 2 (a question)
    }
    assert ratings([])["accuracy"] == ratings([])["relevance"] == 5


def test_facts_file_errors_name_the_line():
    with pytest.raises(ValueError, match="line 2"):
        World("# tea\nleaf | only one clause\n")


def test_simulated_dialogues_are_true_and_do_not_repeat():
    simulator, rng = Simulator(load(), PROMPTS), random.Random(5)
    facts = 0
    for _ in range(100):
        d = simulator.dialogue(rng, turns=6)
        assert len(d.turns) == 7
        for turn, truth in zip(d.turns, d.truths, strict=True):
            assert truth.count("wrong") == truth.count("off topic") == truth.repeats == 0
            assert set(truth.facts) <= load().known(turn.speaker, d.topic)
            facts += len(truth.facts)
    assert 1.1 < facts / 600 < 1.9  # 1.8 facts a turn while the list lasts


def test_noisy_dialogues_hold_everything_a_judge_must_tell_apart():
    simulator, rng = Simulator(load(), PROMPTS), random.Random(6)
    labels = [x for _ in range(60) for t in simulator.dialogue(rng, turns=4, noise=1.0).truths for x in t.labels]
    assert {x.kind for x in labels} == {"fact", "wrong", "off topic", "question", "remark", "unsure"}
    assert any(x.again for x in labels)


def test_points_label_every_numbered_sentence():
    simulator, rng = Simulator(load(), PROMPTS), random.Random(7)
    for _ in range(50):
        judgement, truths = simulator.judged(rng)
        shown = re.findall(r"[\[(]\d+[\])]", judgement.render())
        labelled = re.findall(r"[\[(]\d+[\])]", simulator.points(judgement, truths, judgement.subject))
        assert shown == labelled and len(shown) == sum(len(sentences(t.text)) for t in judgement.shown())


def test_samples_are_the_requests_of_the_product():
    simulator, rng = Simulator(load(), PROMPTS), random.Random(8)
    for _ in range(100):
        messages = simulator.sample(rng, "b")
        assert messages[-1].role == "assistant" and messages[-1].content
        roles = [m.role for m in messages if m.role != "system"]
        assert roles == ["user" if i % 2 == 0 else "assistant" for i in range(len(roles))]
    assert set(simulator.deserved(*simulator.judged(rng))) == set(CATEGORIES)


def test_spearman_and_auc_by_hand():
    assert spearman([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    # ranks 0, 1.5, 1.5, 3 and 0, 1, 2, 3: covariance 4.5 / 4, variances 4.5 / 4 and 5 / 4 -> sqrt(4.5 / 5)
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx((4.5 / 5) ** 0.5)
    assert auc([0.9, 0.4], [0.5, 0.1]) == pytest.approx(3 / 4)  # of 4 pairs only (0.4, 0.5) is wrong
    assert auc([1.0], [1.0]) == pytest.approx(0.5)


def test_the_weights_fit_the_facts_and_the_wordings():
    """Facts or wordings that changed after the training need `expertchat world build`."""
    card = json.loads((MODELS / "card.json").read_text("utf-8"))
    assert card["sources"] == source_hash(PROMPTS)


def test_the_weights_are_small_and_safe():
    files = [p for p in MODELS.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 20_000_000
    assert not [p for p in files if p.suffix in (".bin", ".pt", ".pkl", ".py")]
    assert {p.parent.name for p in files if p.name == "model.safetensors"} == {"llama", "mixtral", "embedder"}


def test_topics_come_in_three_parts_that_share_none():
    world = load()
    parts = [world.part(part) for part in PARTS]
    assert [len(part) for part in parts] == [30, 10, 20]
    assert [topic for part in parts for topic in part] == list(world.topics)
    with pytest.raises(ValueError, match="choose: topics of another part: tea"):
        World("# tea\na | b | c | d\n", "# tea\na | b | c | d\n")
