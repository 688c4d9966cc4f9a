"""How long a training takes by the plan: weights that are read for every token, at the speed of one GPU."""

from __future__ import annotations

import pytest

from expertchat.command.compose import load
from expertchat.plan.job import Gpu
from expertchat.plan.memory import GIB, parameters, weights
from expertchat.plan.pace import seconds_of
from expertchat.plan.planner import check
from expertchat.training.room import room_for

WORDS = ["+experiment=llama3_mixtral_4x16", "rounds=10", "conversation.count=1", "conversation.turns=4", "evaluation.every=0",
         "evaluation.histories=1", "evaluation.final=1", "evaluation.by=partner_reference", "+control=numeric",
         "judging.analysis=false"]  # fmt: skip


def test_every_token_reads_all_weights() -> None:
    """Ten rounds of a dialogue of 4 turns, 256 tokens a turn, by the two models in turn; nothing is written to judge (form expected, no
    analysis, z = 0). Then two evaluations of a history of 4 turns and two replies of the Llama to it."""
    config = load("online_dpo", WORDS)
    plan = check(config, [Gpu(16 * GIB, "v100")] * 4, room_for(config))
    assert plan is not None
    shapes = {model.owner: model.shape for model in plan.job.models}
    # of 4 bits: read once, written out in half precision and read again, 4 bytes a weight
    llama, mixtral = ((weights(shapes[s], m.dtype, "nf4").total + 4 * parameters(shapes[s])) * 256 / 900e9 for s, m in
                      ((m.owner, m) for m in plan.job.models))  # fmt: skip
    rounds = 10 * 4 * (llama + mixtral) / 2
    evaluations = 2 * (config.evaluation.turns * (llama + mixtral) / 2 + 2 * llama)
    assert seconds_of(config, plan, "v100") == pytest.approx(rounds + evaluations, rel=1e-9)
    assert seconds_of(config, plan, "NVIDIA A100") == pytest.approx((rounds + evaluations) * 900 / 1555, rel=1e-9)
    assert seconds_of(config, plan, None) is None and seconds_of(config, plan, "abacus") is None


def test_final_replies_are_judged_though_the_rewards_are_drawn() -> None:
    """Two replies to each of three histories, with an analysis, in as many batches as fit; the rewards ask nobody."""
    words = ["+control=random_judge" if word == "+control=numeric" else word for word in WORDS if word != "judging.analysis=false"]
    none, three = (load("online_dpo", [*words, "reward.repeat_penalty=0", f"evaluation.rewarded={n}"]) for n in (0, 3))
    plan = check(three, [Gpu(16 * GIB, "v100")] * 4, room_for(three))
    assert plan is not None
    more = (seconds_of(three, plan, "v100") or 0) - (seconds_of(none, plan, "v100") or 0)
    assert more > 0
