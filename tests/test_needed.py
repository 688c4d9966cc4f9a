"""What a run needs: said once, so that the loading and the memory plan cannot disagree; and what training takes in the plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from expertchat.command.compose import load
from expertchat.config import ConfigError
from expertchat.judging.roles import seats_of
from expertchat.plan.job import STATES, Job, Model, Training, units
from expertchat.plan.memory import Lora, layer_adapter, layer_weights
from expertchat.plan.placement import Load, Unit
from expertchat.plan.planner import check, parse_gpus, placed
from expertchat.training.room import PROMPT, beside, plan_one, room_for

REAL = ("+experiment=llama3_mixtral_4x16", "topics=embedded")
BIG = parse_gpus("1x400")  # one: placing is not what these tests are about


@pytest.mark.parametrize(
    ("overrides", "third"),
    [
        (["evaluation.by=third"], True),  # named by the evaluation alone
        (["judging.judge=third"], True),
        (["evaluation.by=third", "evaluation=reward", "reward=length"], False),  # no model judges there
        (["judging.judge=third", "evaluation=reward", "reward=length"], False),  # nor is anybody asked for rewards
        ([], False),
    ],
)
def test_a_third_model_is_loaded_and_planned_where_anybody_asks_it(overrides: list[str], third: bool) -> None:
    config: Any = load("online_dpo", [*REAL, "+model@third=qwen2_5_7b", *overrides])
    assert ("third" in seats_of(config)) == third
    plan = check(config, BIG, room_for(config))
    assert plan is not None and ("third" in plan.job.seats) == third


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        ([], True),
        (["judging.z=0.0", "judging.wim.enabled=false"], False),
        (["judging.z=0.0", "judging.wim.enabled=false", "reward.repeat_penalty=0.2"], True),  # compares sentences
        (["judging.z=0.0", "judging.wim.enabled=false", "topics=models"], True),
        (["reward=length"], False),
        (["reward=length", "reward.repeat_penalty=0.2"], True),
        (["reward.source=random", "reward.repeat_penalty=0.2"], False),
    ],
)
def test_the_embedder_is_loaded_and_planned_where_anything_is_embedded(overrides: list[str], wanted: bool) -> None:
    config: Any = load("online_dpo", [*REAL, *overrides])
    assert config.embeds == wanted
    plan = check(config, BIG, room_for(config))
    assert plan is not None and (plan.job.embedder is not None) == wanted


def test_room_for_each_learner_and_for_the_longest_row() -> None:
    config: Any = load("online_dpo", [*REAL, "learner=both", "decoding@experts.b.decoding=sampling", "train.max_tokens=null"])
    config = config.model_copy(update={"conversation": config.conversation.model_copy(update={"turns": 4})})
    longer = config.experts["b"].decoding.reply.model_copy(update={"max_new_tokens": 300})
    b = config.experts["b"].model_copy(update={"decoding": config.experts["b"].decoding.model_copy(update={"reply": longer})})
    config = config.model_copy(update={"experts": config.experts.having(b=b)})
    found = room_for(config)
    longest = 4 * 300 + PROMPT  # the partner's replies count too
    assert [(one.seat, one.tokens) for one in found] == [("a", longest), ("b", longest)]
    plan = check(config, BIG, found)
    assert plan is not None and {one.owner for one in plan.job.trainings} == {"a", "b"}
    with_one = check(config, BIG, found[:1])
    assert with_one is not None
    assert sum(u.adapter for load in plan.loads for u in load.units) > sum(u.adapter for load in with_one.loads for u in load.units)


def test_what_is_loaded_beside_a_model_that_learns_from_pairs_is_planned_with_it() -> None:
    """A partner and a judge of other models stand on GPUs too; a partner that is the same model is its base, and no second copy."""
    real = ["data.path=[x]", "model=llama3_8b", "topics=embedded"]
    judged = [*real, "evaluation.judge=pairwise", "evaluation.by=third", "+model@third=qwen2_5_7b"]
    config: Any = load("dpo", [*judged, "model@partner=mixtral_8x7b"])
    plan = plan_one(config, config.model, BIG)
    assert plan is not None and set(plan.job.seats) == {"model", "partner", "third"} and len(plan.job.models) == 3
    assert placed(config.partner, "partner", plan)[1] is not None
    alone: Any = load("dpo", [*real, "evaluation.judge=none", "model@partner=mixtral_8x7b"])
    small = plan_one(alone, alone.model, BIG)  # nobody talks
    assert small is not None and len(small.job.models) == 1
    same: Any = load("dpo", [*judged, "model@partner=llama3_8b"])
    assert list(beside(same)) == ["third"]
    with pytest.raises(ConfigError, match="does not fit"):
        plan_one(config, config.model, parse_gpus("1x24"))


def job_of(method: Any, owners: int = 1) -> tuple[Model, Job]:
    config: Any = load("online_dpo", [*REAL])
    plan = check(config, BIG)
    assert plan is not None
    model = replace(plan.job.models[0], quantization="none", dtype="bf16")
    training = Training(model.owner, Lora(4), 1, 128, True, 256, method)
    return model, Job((model,), None, 1, 512, training, others=(training,) * (owners - 1))


def test_full_training_has_a_copy_a_gradient_and_two_moments_of_every_weight() -> None:
    model, job = job_of("full")
    each = layer_weights(model.shape, "bf16", "none").total
    found = units(model, job)
    # bf16: 2 bytes of a copy and 3 * 4 of gradient and moments for the 2 bytes of the weight itself
    assert STATES == 12 and {u.adapter for u in found if ".layers." in u.module} == {each + each // 2 * 12}
    assert sum(u.adapter for u in found) == pytest.approx(7 * sum(u.weights for u in found), rel=1e-6)
    last = units(*job_of("last_layer"))
    assert [u.module for u in last if u.adapter] == [f"model.layers.{model.shape.layers - 1}"]


def test_two_adapters_of_one_model_both_stay() -> None:
    model, job = job_of("lora", owners=2)
    each = layer_adapter(model.shape, Lora(4)).total
    assert {u.adapter for u in units(model, job) if ".layers." in u.module} == {2 * each}


def test_two_trainings_take_turns() -> None:
    load_ = Load()
    for owner, saved in (("a", 10), ("a", 5), ("b", 12)):
        unit = Unit(owner, "", adapter=1, saved=saved)
        expected = load_.with_(unit)
        load_.add(unit)
        assert load_.need == expected
    assert load_.training == 3 + 15  # three adapters, and the pass of a, which keeps more than that of b
