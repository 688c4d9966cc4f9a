"""How long rounds of dialogues take, by arithmetic, where no earlier run tells: every new token of a batch needs all weights once.

The models stand in layers over the GPUs, one layer after the other, so that the bandwidth is that of one GPU. Counted as if every reply
were as long as it may be; prompts and updates, which are limited by arithmetic and not by memory, are not counted. A figure to ask for a
time limit by, not one to quote.
"""

from __future__ import annotations

from math import ceil
from typing import Any

from expertchat.judging.roles import judges_of
from expertchat.plan.memory import parameters, weights
from expertchat.plan.planner import Plan

# Bytes a second that a GPU reads from its memory, as its maker says (the smaller one where there are two).
BANDWIDTH = {"p100": 732e9, "v100": 900e9, "t4": 320e9, "rtx": 600e9, "a40": 696e9, "l40": 864e9, "l4": 300e9, "a100": 1555e9,
             "h100": 3350e9, "h200": 4800e9}  # fmt: skip
# Of a batch, bitsandbytes writes each 4-bit matrix out in half precision and reads it again: two times two bytes a weight.
WRITTEN_OUT = 4


def seconds_of(config: Any, plan: Plan, kind: str | None) -> float | None:
    """Of all rounds and evaluations of an online run on GPUs of a `kind` ("v100"); None where that is not known."""
    speed = next((bytes_a_second for name, bytes_a_second in BANDWIDTH.items() if name in (kind or "").lower()), None)
    if speed is None or not plan.job.models:
        return None
    step = {model.owner: _moved(model) / speed for model in plan.job.models if model.on_gpu}
    seats = {seat: step.get(plan.job.seats.get(seat, seat), 0.0) for seat in plan.job.seats}
    spoken = {seat: seats.get(seat, 0.0) * model.decoding.reply.max_new_tokens for seat, model in config.experts.items()}
    turn = sum(spoken.values()) / len(spoken)
    judging = max(_judging(config, seat, seats) for seat in config.trained)
    rewards = judging * len(config.trained) / len(spoken) if config.reward.judged(config.judging) else 0.0
    at_once = max(1, plan.largest // config.candidates.count)
    batches = ceil(config.conversation.count / at_once)
    one_round = batches * config.conversation.turns * (turn + rewards)
    total = config.rounds * one_round
    for histories, times in ((config.evaluation.histories, _evaluations(config)), (config.evaluation.final, 1)):
        said = config.evaluation.turns * turn + max(2 * spoken[seat] for seat in config.learners)
        judge = 2 * _passes(config, seats.get(_evaluator(config), 0.0), _evaluator(config), wim=False) if config.evaluation.asks else 0.0
        total += times * ceil(histories / max(1, plan.largest)) * (said + judge)
    total += ceil(2 * config.evaluation.rewarded / max(1, plan.largest)) * judging
    return total


def _moved(model: Any) -> float:
    """Bytes that a step reads and writes."""
    moved = weights(model.shape, model.dtype, model.quantization).total
    return float(moved + (WRITTEN_OUT * parameters(model.shape) if model.quantization == "nf4" else 0))


def _judging(config: Any, seat: str, seats: dict[str, float]) -> float:
    """Seconds in which a turn's candidates are judged."""
    roles = judges_of(config.judging.judge, seat, config.experts.seats, config.judging.partners)
    return sum(_passes(config, seats.get(role.seat, 0.0), role.seat) for role in roles)


def _passes(config: Any, step: float, seat: str, wim: bool = True) -> float:
    """Of one judgement: what is written before the rating, and what is missing."""
    model = config.experts[seat] if seat in config.experts.seats else config.third or next(model for _, model in config.experts.items())
    texts = (config.judging.analysis or config.judging.form != "expected") + (wim and config.judging.z > 0 and config.judging.wim.enabled)
    return step * texts * model.decoding.judge.max_new_tokens


def _evaluator(config: Any) -> str:
    return judges_of(config.evaluation.by, config.learners[0], config.experts.seats)[0].seat


def _evaluations(config: Any) -> int:
    """On the way, with the one before the first round."""
    return 1 + (config.rounds // config.evaluation.every if config.evaluation.every else 0)
