"""More than two experts learn: who is updated when, several judges of one candidate, what is planned, a whole run."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from expertchat.backends.base import ModelInfo
from expertchat.command.compose import load
from expertchat.config import ConfigError
from expertchat.events import CandidatesJudged
from expertchat.experts.registry import make_expert
from expertchat.plan.config import PlanConfig
from expertchat.plan.planner import plan_job
from expertchat.preferences.candidates import Bundle, Rollout
from expertchat.preferences.score import scored
from expertchat.records import Topic
from expertchat.talk.cast import Cast
from expertchat.talk.conversation import Dialogue
from expertchat.talk.scheduler import Scheduler
from expertchat.training.config import OnlineDpoConfig, learner_problems
from expertchat.training.learner import Learners
from expertchat.training.room import room_for
from tests.scripted import BagOfWords, Double
from tests.test_online_dpo import adapters, config_of, content, records, train

THIRD = "+model@experts.c=embedded_llama"


# -- who learns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("learner", "trained", "learners"),
    [("a", "a", "a"), ("c", "c", "c"), ("all", "abc", "abc"), ("one", "abc", "a")],
)
def test_who_is_trained(learner: str, trained: str, learners: str) -> None:
    config = config_of(THIRD, f"learner={learner}")
    assert (config.trained, config.learners) == (tuple(trained), tuple(learners))
    assert [one.seat for one in room_for(config)] == list(learners)


def test_of_two_all_is_what_both_is() -> None:
    assert config_of("learner=both").trained == config_of("learner=all").trained == ("a", "b")


@pytest.mark.parametrize(
    ("learner", "words"),
    [("both", "there are more than two experts"), ("d", "is no expert; name one of the experts (a, b, c), or all or one")],
)
def test_a_learner_that_is_not_there_is_refused(learner: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(THIRD, f"learner={learner}")
    assert any(f"learner={learner}: " in problem and words in problem for problem in caught.value.problems)


def test_they_learn_by_turns_a_round_each() -> None:
    made: Any = {"a": "A", "b": "B", "c": "C"}
    assert [Learners(made).of_round(n) for n in (1, 2, 3, 4)] == [("A", ("a",)), ("B", ("b",)), ("C", ("c",)), ("A", ("a",))]
    assert Learners(dict.fromkeys("abc", "A"), one=True).of_round(2) == ("A", ("a", "b", "c"))  # type: ignore[arg-type]


def test_what_cannot_be_trained_so() -> None:
    def problems(*overrides: str, scripted: tuple[str, ...] = (), loaded: str = "aba") -> list[str]:
        return learner_problems(config_of(THIRD, *overrides), scripted, dict(zip("abc", loaded, strict=True)))

    assert problems("learner=all") == []  # a and c share a model: an adapter each
    assert "needs an adapter for each seat" in problems("learner=all", "train=full")[0]
    assert "in all seats: give experts.a and experts.b and experts.c the same path" in problems("learner=one")[0]
    assert problems("learner=one", loaded="aaa") == []
    assert "experts.b: backend=scripted cannot be trained; use a model, or learner=a" in problems("learner=all", scripted=("b",))


# -- several judges -----------------------------------------------------------------------------------------------------


def talk(*overrides: str) -> tuple[Bundle, OnlineDpoConfig, list[Any]]:
    """A dialogue of three doubles in which a learns."""
    config = config_of(THIRD, "candidates.count=3", "conversation.turns=5", "pairs.min_margin=0.0", *overrides)
    double, events = Double(), list[Any]()
    experts = {seat: make_expert(seat, model, ModelInfo("double", 100_000)) for seat, model in config.experts.items()}
    cast = Cast(dict.fromkeys(experts, double), experts, seats=tuple(experts))
    topic = Topic(id="r0001/c0000", text="bees", source="list")
    dialogue = Dialogue(topic, "b", experts, config.conversation, events.append, cast.tokens, 5)
    found: list[Bundle] = []

    def flow() -> Any:
        found.append((yield from Rollout(dialogue, cast, config.rules, 1, ("a",), {"a": 2}).bundle()))

    assert Scheduler({**dict.fromkeys(("a", "b", "c"), double), "embedder": BagOfWords()}).run([flow()])
    return found[0], config, events


def test_each_partner_judges_each_candidate_and_the_reward_is_their_mean() -> None:
    bundle, config, events = talk()
    (one,) = bundle.sampled  # b, c, a, b, c
    assert one.candidates[0].turn == 2
    for candidate in one.candidates:
        mine = [reward for reward in one.rewards if reward.candidate == candidate.id]
        assert [reward.judge for reward in mine] == ["b", "c"]
        assert [reward.id for reward in mine] == [f"{candidate.id}/a-by-{judge}/reward" for judge in "bc"]
        assert len([w for w in one.wims if w.candidate == candidate.id]) == 2
        assert len([r for r in one.ratings if r.candidate == candidate.id]) == 2 * len(config.judging.categories)
        assert one.values("mean")[candidate.index] == fmean(reward.value for reward in mine if reward.value is not None)
    told = [event for event in events if isinstance(event, CandidatesJudged)]
    assert told[0].rewards == [*one.values("mean")]
    assert [score.reward for score in scored([bundle], config.rules, BagOfWords())] == told[0].rewards


def test_in_a_ring_the_next_one_judges() -> None:
    bundle, _, _ = talk("judging.partners=ring")
    assert {reward.judge for reward in bundle.sampled[0].rewards} == {"b"}


def test_a_judge_that_gave_no_number_does_not_count_and_none_is_none() -> None:
    bundle, config, _ = talk("reward.repeat_penalty=0")
    one = bundle.sampled[0]
    first, second = one.candidates[:2]
    lacking = {"value": None, "problem": "no number for depth"}
    silent = {f"{first.id}/a-by-c/reward", f"{second.id}/a-by-b/reward", f"{second.id}/a-by-c/reward"}
    rewards = [reward.model_copy(update=lacking) if reward.id in silent else reward for reward in one.rewards]
    changed = bundle.model_copy(update={"sampled": [one.model_copy(update={"rewards": rewards})]})
    found = {score.id: score for score in scored([changed], config.rules, None)}
    (by_b,) = [reward.value for reward in one.rewards if reward.id == f"{first.id}/a-by-b/reward"]
    assert (found[first.id].reward, found[first.id].problem) == (by_b, None)
    assert (found[second.id].value, found[second.id].problem) == (None, "no number for depth")


def test_the_whole_dialogue_is_judged_by_all_too_and_counts_by_their_mean() -> None:
    bundle, config, _ = talk("reward.dialogue_weight=0.5", "reward.repeat_penalty=0")
    assert [reward.judge for reward in bundle.whole] == ["b", "c"]
    lower = [reward.model_copy(update={"value": value - 0.2}) for reward in bundle.whole if (value := reward.value) is not None]
    other = bundle.model_copy(update={"id": "r0001/c0001", "whole": lower, "sampled": []})
    # The means over the judges are m and m - .2, those of the round m - .1: the first is .1 above, half of which counts.
    part = [score.dialogue for score in scored([bundle, other], config.rules, None) if score.dialogue]
    assert part == [pytest.approx(0.05)]


# -- the plan -----------------------------------------------------------------------------------------------------------


def test_a_plan_of_three() -> None:
    shapes = [f"experts.{seat}.path=random:llama:28M" for seat in "abc"]
    config = load("plan", ["+model@experts.c=llama3_8b", *shapes, "experts.c.dtype=fp32", "embedder=mpnet", "train.expert=c"])
    assert isinstance(config, PlanConfig)
    job = plan_job(config)
    assert job.training is not None and (job.training.owner, job.seats["c"]) == ("c", "c")
    with pytest.raises(ConfigError, match=r"train\.expert=d: is no expert; take none, or one of a, b"):
        load("plan", ["train.expert=d"])


# -- a whole run --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("three") / "run"
    code, _ = train(folder, THIRD, "learner=all", "rounds=3", "conversation.turns=4", "evaluation.every=0", "evaluation.final=2")
    assert code == 0
    return folder


@pytest.mark.slow  # both learn in test_online_dpo, and tests.proofs.kill_training --three does all of it
def test_three_experts_learn_a_round_each(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    assert set(summary["adapters"]) == set(summary["best"]) == set(summary["evaluations"]) == {"a", "b", "c"}
    rounds = [m for m in records(run, "metrics") if m["kind"] == "round"]
    assert [(m["round"], m["learner"], m["policy_version"]) for m in rounds] == [(1, "a", 1), (2, "b", 1), (3, "c", 1)]
    assert {(c["round"], c["speaker"]) for c in records(run, "candidates")} == {(1, "a"), (2, "b"), (3, "c")}
    judged = {(r["subject"], r["judge"]) for r in records(run, "rewards")}
    assert judged == {(one, two) for one in "abc" for two in "abc" if one != two}
    assert len(content(run)) > 0  # no id twice
    names = {name.partition("/")[0] for name in adapters(run)}
    assert names == {"adapter_a", "adapter_b", "adapter_c"}
    card = (run / "adapter_c" / "README.md").read_text("utf-8")
    assert "three experts talk" in card and "every partner" in card and "(expert a)" in card and "(expert b)" in card
    assert {path.name for path in (run / "rounds/000003").iterdir()} >= {"adapter_c", "optimizer_c.pt", "DONE"}


@pytest.mark.slow
def test_a_merge_finds_the_expert_of_an_adapter(run: Path, tmp_path: Path) -> None:
    from expertchat.training.merge_config import MergeConfig
    from expertchat.training.source import find_source

    def base(seat: str) -> str:
        wanted = {"adapter": str(run / f"adapter_{seat}"), "out": str(tmp_path / "out"), "dtype": "auto", "device": "cpu"}
        return find_source(MergeConfig.model_validate(wanted)).base

    assert [base(seat) for seat in "abc"] == ["embedded:llama", "embedded:mixtral", "embedded:llama"]
