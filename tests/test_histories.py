"""Held-out histories: what is planned, where they end, what is kept of them, and the truth about a reply."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertchat.backends.base import GenerateRequest
from expertchat.config import ConfigError
from expertchat.evaluation import truth
from expertchat.evaluation.histories import Held, plans, reply_place
from expertchat.events import Note
from expertchat.records import Topic, Turn
from expertchat.world.facts import World
from tests.scripted import Double, babble
from tests.staged import TOPICS, Stage, config_of, topic_of

# -- truth --------------------------------------------------------------------------------------------------------------

TINY = World(
    "# tea\nleaf | all true tea comes from one plant | one plant gives all true tea | every true tea is made from one plant\n"
    "water | green tea wants cooler water | hot water spoils green tea | cooler water suits green tea\n"
    "# rain\ndrops | big drops are flat below | large drops have a flat base | drops that are big are flat below\n"
)


def test_tally_by_hand() -> None:
    turns = [Turn(speaker="b", text="I agree. All true tea comes from one plant. What about water?")]
    reply = (
        "Good question. Green tea wants cooler water. Hot water spoils green tea. One plant gives all true tea. "
        "Big drops are flat below. Tea is a mineral. What about leaf?"
    )
    # remark; new fact; the same again; said by the partner; of another topic; wrong; question: 5 claims
    found = truth.tally("tea", turns, reply, TINY)
    assert found == truth.Tally(distinct=1, repeats=2, wrong=2, claims=5)
    assert found.score == 1 - 2 - 2
    assert truth.tally("tea", [], "Thank you for that.", TINY) == truth.Tally(distinct=0, repeats=0, wrong=0, claims=0)


def test_a_topic_of_another_world_is_a_config_error() -> None:
    with pytest.raises(ConfigError) as error:
        truth.check_topics(["tea", "rein", "herons", "herons"], TINY)
    first, second = error.value.problems
    assert "'rein'; did you mean rain?" in first and "'herons'; use topics=embedded" in second


@given(st.lists(st.sampled_from([c for f in TINY.topics.values() for x in f for c in x.clauses] + ["it is not so"]), max_size=8))
def test_counts_add_up(clauses: list[str]) -> None:
    found = truth.tally("tea", [], " ".join(f"{clause}." for clause in clauses), TINY)
    assert found.distinct + found.repeats + found.wrong == found.claims == len(clauses)
    assert found.distinct <= 2


# -- histories ----------------------------------------------------------------------------------------------------------


def test_plans_are_balanced_from_the_first_on() -> None:
    topics = [Topic(id="x", text=text, source="list") for text in TOPICS]
    found = plans("a", topics, 4, 24)
    # the first of three topics begins with length 1, the next with 2 and 3; each pass over the topics is a turn longer, 4 + 1 is 1 again
    assert [p.turns for p in found[:12]] == [1, 2, 3, 2, 3, 4, 3, 4, 1, 4, 1, 2]
    # 24 = 3 topics of 4 lengths, each twice
    assert set(Counter((p.topic.text, p.turns) for p in found).values()) == {2}
    assert [p.id for p in found[:2]] == ["evaluation-a/h0000", "evaluation-a/h0001"] and found[1].topic.id == found[1].id
    # the turn after the history is the learner's: after an even number of turns that of who opened
    assert [(p.turns, p.opener) for p in found[:3]] == [(1, "b"), (2, "a"), (3, "b")]


def test_a_single_pass_over_the_topics_has_all_lengths() -> None:
    topics = [Topic(id="x", text=f"topic {i}", source="list") for i in range(20)]
    # 20 histories of 20 topics, 6 lengths: 20 = 3 x 6 + 2, so the two shortest come four times and the others three times
    assert Counter(p.turns for p in plans("a", topics, 6, 20)) == {1: 4, 2: 4, 3: 3, 4: 3, 5: 3, 6: 3}


@given(st.integers(1, 9), st.integers(0, 9))
def test_the_reply_is_the_learners_and_no_opening(planned: int, turns: int) -> None:
    place = reply_place(min(turns, planned), planned)
    if place is None:
        assert turns <= 1  # after a single turn, the learner's own, or none
    else:
        assert place % 2 == planned % 2 and 1 <= place <= min(turns, planned)


def test_histories_end_before_the_learners_turn(tmp_path: Path) -> None:
    stage = Stage(tmp_path, config_of())
    assert stage.prepare() and not stage.events  # nobody watches these dialogues
    held = stage.evaluator.held
    assert len(held) == 14  # 6 on the way and 8 for the end
    for one in held:
        assert one.reply is not None and one.reply.speaker == "a" and one.turns[-1].speaker == "b" and 1 <= len(one.turns) <= 4
        assert all(x.speaker != y.speaker for x, y in zip(one.turns, one.turns[1:], strict=False))
    assert stage.policy.asked() == stage.judge.asked() == []
    keys = stage.base.asked()
    assert sorted(k for k in keys if k.startswith("evaluation-a/h0009/")) == [  # 9 // 3 = 3: the fourth length
        *(f"evaluation-a/h0009/{part}" for part in ("base", "t00", "t01", "t02", "t03"))
    ]
    lines = (tmp_path / "evaluations" / "base-a.jsonl").read_text().splitlines()
    assert [Held.model_validate_json(line) for line in lines] == held
    assert stage.prepare() and stage.base.asked() == keys  # made once


def test_a_dialogue_that_ends_early_is_answered_before_its_end_with_new_noise(tmp_path: Path) -> None:
    def reply(request: GenerateRequest) -> str:
        nothing = request.key.endswith(("t01", "t02"))
        return f"I have nothing new to add on {topic_of(request)}." if nothing else babble(request)

    config = config_of("conversation.stop_when_nothing_new=true")
    stage = Stage(tmp_path, config, base=Double(reply))
    assert stage.prepare()
    # After turns 1 and 2 both have nothing new, so there are 3 turns at most. Planned 3 (b opens): all 3, as planned.
    # Planned 4 (a opens): 3 turns, of which 0 and 2 are a's; the reply goes after 2.
    by_plan = {plan.turns: len(held.turns) for plan, held in zip(stage.evaluator.plans, stage.evaluator.held, strict=True)}
    assert by_plan == {1: 1, 2: 2, 3: 3, 4: 2}
    cut = stage.evaluator.held[9]
    assert cut.reply is not None and "nothing new" not in cut.reply.text  # not the dialogue's own third turn


def test_histories_without_a_place_are_left_out_and_named(tmp_path: Path) -> None:
    # Room for 60 new words in a context of 120; after a turn of 60 words and a system text of 7 the next prompt has 67 and does not fit.
    def reply(request: GenerateRequest) -> str:
        return " ".join(["word"] * 60) if request.key.endswith("h0003/t00") else babble(request)

    config = config_of(*(f"experts.{s}.decoding.reply.max_new_tokens=60" for s in "ab"))
    stage = Stage(tmp_path, config, base=Double(reply), context=120)
    assert stage.prepare()
    assert stage.evaluator.held[3].problem == "the dialogue ended after 1 turns (context_full)"
    (note,) = stage.events
    assert isinstance(note, Note) and note.text.startswith("1 of 14 held-out histories are left out (evaluation-a/h0003: ")
    metrics = stage.evaluate(6)
    assert metrics.figures["n"] == 5  # of the first six, not one from those for the end
    assert stage.evaluate(8, final=True).figures["n"] == 8


def test_no_history_with_a_place_is_a_config_error(tmp_path: Path) -> None:
    config = config_of("evaluation.turns=1", "experts.a.decoding.reply.max_new_tokens=95", "experts.b.decoding.reply.max_new_tokens=10")
    stage = Stage(tmp_path, config, base=Double(lambda request: "word " * 10), context=100)
    with pytest.raises(ConfigError, match=r"no history has a place for a reply .*raise evaluation.turns or the context"):
        stage.prepare()


# -- resuming -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 1, 5, 13])
def test_a_broken_off_preparation_goes_on_where_it_was(tmp_path: Path, kept: int) -> None:
    whole = Stage(tmp_path / "whole", config_of())
    assert whole.prepare()
    path = tmp_path / "whole" / "evaluations" / "base-a.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    other = tmp_path / "other" / "evaluations" / "base-a.jsonl"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"".join(lines[:kept]) + lines[kept][:40])
    again = Stage(tmp_path / "other", config_of())
    again.rows = 64
    assert again.prepare()
    assert other.read_bytes() == path.read_bytes()
    assert {key.split("/")[1] for key in again.base.asked()} == {f"h{i:04d}" for i in range(kept, 14)}


def test_a_stopped_preparation_keeps_what_is_done(tmp_path: Path) -> None:
    stage = Stage(tmp_path, config_of())
    stage.rows = 1
    answer = stage.base.reply

    def reply(request: GenerateRequest) -> str:
        stage.stop |= request.key == "evaluation-a/h0005/base"
        return answer(request)

    stage.base.reply = reply
    assert not stage.prepare()
    kept = (tmp_path / "evaluations" / "base-a.jsonl").read_text().splitlines()
    assert 0 < len(kept) < 14
    stage.base.reply, stage.stop = answer, False
    assert stage.prepare() and len(stage.evaluator.held) == 14


def test_histories_of_another_evaluation_are_refused(tmp_path: Path) -> None:
    assert Stage(tmp_path, config_of()).prepare()
    with pytest.raises(ConfigError, match=r"base-a.jsonl, line 2 is of another evaluation .* on 'jazz', not .* on 'coffee'"):
        Stage(tmp_path, config_of(), topics=("tides", "coffee", "jazz")).prepare()
    path = tmp_path / "evaluations" / "base-a.jsonl"
    path.write_text('{"id": "evaluation-a/h0000"}\n')
    with pytest.raises(ConfigError, match="line 1 is no record of this version"):
        Stage(tmp_path, config_of()).prepare()
