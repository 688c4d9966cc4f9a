"""Evaluations among more than two experts: histories in turn order, several judges of one reply, and what their answers come to."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from expertchat.backends.base import GenerateRequest, ScoreRequest
from expertchat.config import ConfigError
from expertchat.evaluation.evaluator import check
from expertchat.evaluation.figures import win_figures
from expertchat.evaluation.histories import Plan, plans, reply_place
from expertchat.records import Topic
from tests.scripted import Double
from tests.staged import SMALL, TOPICS, Stage, config_of
from tests.test_evaluation import compared

THREE = ("+model@experts.c=embedded_llama", "evaluation.histories=3", "evaluation.final=3")
SEATS = ("a", "b", "c")


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "evaluations" / name).read_text().splitlines()]


# -- histories ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learner", SEATS)
def test_the_turn_after_a_history_is_the_learners(learner: str) -> None:
    topics = [Topic(id="x", text=text, source="list") for text in TOPICS]
    for plan in plans(learner, topics, 7, 21, SEATS):
        order = [SEATS[(SEATS.index(plan.opener) + i) % 3] for i in range(plan.turns + 1)]
        assert order[-1] == learner
    assert [Plan("x", topics[0], "b", turns, SEATS).opener for turns in (1, 2, 3, 4)] == ["a", "c", "b", "a"]


def test_where_a_dialogue_of_three_ended_early_the_reply_takes_the_learners_last_turn() -> None:
    # planned 7: the learner has the turns 1 and 4 before it
    assert [reply_place(turns, 7, 3) for turns in (7, 6, 5, 4, 3, 2, 1)] == [7, 4, 4, 1, 1, 1, 1]
    assert reply_place(2, 3, 3) is None  # nobody but the opener, who is the learner, and one more has spoken


def test_the_base_models_of_all_three_talk_in_turn(tmp_path: Path) -> None:
    stage = Stage(tmp_path, config_of(*THREE, "conversation.order=random"))
    assert stage.prepare()
    for held in stage.evaluator.held:
        speakers = [*(SEATS.index(turn.speaker) for turn in held.turns), SEATS.index("a")]
        assert all((after - before) % 3 == 1 for before, after in pairwise(speakers))


# -- several judges ------------------------------------------------------------------------------------------------------


def test_a_reply_is_worth_the_mean_of_its_judges_ratings(tmp_path: Path) -> None:
    def rate(request: GenerateRequest) -> str:
        _, history, *_, by, category = request.key.split("/")
        policy, judge = "/v0006/" in request.key, by.removeprefix("a-by-base_")
        if policy and category != "analysis":
            return {("h0000", "b"): " 9", ("h0000", "c"): " 6", ("h0001", "b"): " 1", ("h0001", "c"): " 9"}.get((history, judge), " none")
        return " 5"

    stage = Stage(tmp_path, config_of("evaluation=pointwise", *SMALL, *THREE, "judging.form=sampled"), judge=Double(rate))
    assert stage.prepare()
    found = stage.evaluate(3).figures
    kept = lines(tmp_path, "a-r0006.jsonl")
    # 9 and 6 beside 5 and 5; 1 and 9 beside 5 and 5: a tie; none
    assert [(line["rating_policy"], line["rating_base"], line["outcome"]) for line in kept] == [(7.5, 5, 1), (5, 5, 0.5), (None, 5, None)]
    assert (found["wins"], found["ties"], found["nulls"], found["rating_policy"]) == (1, 1, 1, 6.25)
    assert kept[2]["problem"].startswith("no number for")


def test_a_judge_that_rates_one_of_the_two_replies_does_not_count(tmp_path: Path) -> None:
    def rate(request: GenerateRequest) -> str:
        policy, b = "/v0006/" in request.key, "a-by-base_b/" in request.key
        return " 6" if policy and b else " 1" if policy else " 5" if b else " none"  # c gives the policy 1, and the base nothing

    stage = Stage(tmp_path, config_of("evaluation=pointwise", *SMALL, *THREE, "judging.form=sampled"), judge=Double(rate))
    assert stage.prepare() and stage.evaluate(3).figures["win_rate"] == 1.0
    assert {(line["rating_policy"], line["rating_base"]) for line in lines(tmp_path, "a-r0006.jsonl")} == {(6, 5)}


def test_a_judge_of_training_that_rates_one_of_the_two_replies_does_not_count(tmp_path: Path) -> None:
    def rate(request: GenerateRequest) -> str:
        policy, b = "/v0006/reward" in request.key, "a-by-b/" in request.key
        return " 6" if policy and b else " 1" if policy else " 5" if b else " none"

    asked = ("judging.form=sampled", "judging.z=0.0", "judging.wim.enabled=false", "evaluation.rewarded=2", "judging.judge=partner")
    stage = Stage(tmp_path, config_of(*THREE, *asked), judge=Double(rate))
    assert stage.prepare() and stage.evaluate(3, final=True).figures["n_reward"] == 2
    kept = [(line["reward_policy"], line["reward_base"]) for line in lines(tmp_path, "a-r0006-final.jsonl")]
    assert kept == [pytest.approx(((6 - 5.5) / 4.5, (5 - 5.5) / 4.5))] * 2 + [(None, None)]


REAL = [f"{plus}model@experts.{seat}=auto" for seat, plus in (("b", ""), ("c", "+"))]
PAIRWISE = ("evaluation=pairwise", *SMALL, *REAL, "experts.b.path=x", "experts.c.path=x", "evaluation.histories=3", "evaluation.final=3")


def test_several_judges_of_two_replies_give_the_mean_of_their_outcomes(tmp_path: Path) -> None:
    def score(request: ScoreRequest) -> Sequence[float]:
        _, history, _, by, first = request.key.split("/")
        policy, tie = ("B", "A"), ("A", "A")
        said = {"h0000": policy, "h0001": policy if by == "by-base_b" else tie, "h0002": tie}[history][first != "base-first"]
        return [math.log(0.8 if option.strip() == said else 0.1) for option in request.options]

    stage = Stage(tmp_path, config_of(*PAIRWISE), judge=Double(score=score))
    stage.backends |= {"base_b": Double(score=score), "base_c": Double(score=score)}
    assert stage.prepare()
    found = stage.evaluate(3).figures
    assert [line["outcome"] for line in lines(tmp_path, "a-r0006.jsonl")] == [1.0, 0.75, 0.5]
    assert (found["win_rate"], found["wins"], found["ties"], found["flips"]) == (0.75, 2, 1, 3)  # c flips once, both flip in the third
    kept = lines(tmp_path, "a-r0006.jsonl")[0]["verdicts"]
    assert [verdict["judge"] for verdict in kept] == ["base_b", "base_b", "base_c", "base_c"]


def test_what_part_of_the_judges_said_counts_as_a_part() -> None:
    found = win_figures([compared(said) for said in (1.0, 0.75, 0.25, 0.5, None)], 0)
    assert (found["n"], found["wins"], found["ties"], found["losses"], found["nulls"]) == (4, 2, 1, 1, 1)
    assert found["win_rate"] == 2.5 / 4


# -- configs -------------------------------------------------------------------------------------------------------------


def test_every_judge_must_be_able_to_compare() -> None:
    check(config_of(*PAIRWISE))
    with pytest.raises(ConfigError, match=r"\(family world\) have no `compare`"):
        check(config_of("evaluation=pairwise", *SMALL, *THREE, "model@experts.b=auto", "experts.b.path=x"))  # c is of the world
    check(config_of("evaluation=pairwise", *SMALL, *THREE, "model@experts.b=auto", "experts.b.path=x", "judging.partners=ring"))


def test_a_judge_that_learns_is_refused_where_one_of_several_does_not() -> None:
    check(config_of("evaluation=pointwise", *SMALL, *THREE, "evaluation.by=partner", "learner=c"))
    with pytest.raises(ConfigError, match=r"evaluation\.by=partner learns too \(learner=all\)"):
        check(config_of("evaluation=pointwise", *SMALL, *THREE, "evaluation.by=partner", "learner=all"))
