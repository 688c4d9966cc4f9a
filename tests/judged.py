"""A transcript, and judges of it whose answers a test gives: what is recorded of each judgement, and what was asked for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from expertchat.backends.base import GenerateRequest, ModelInfo, ScoreRequest
from expertchat.config import JudgingConfig
from expertchat.events import AnyEvent, RatingGiven, RewardGiven, WimGiven
from expertchat.experts.registry import make_expert
from expertchat.judging.judge import Kept, judge_dialogue
from expertchat.records import ExpertRef, Transcript, Turn
from expertchat.talk.scheduler import Scheduler
from tests.scripted import BagOfWords, Double, babble, config_of

REF = ExpertRef(family="world", model="double")
TEXTS = ("Bees dance to show where food is.", "Wax is made by glands.", "A hive has one queen.")


def transcript(*texts: str) -> Transcript:
    turns = [Turn(speaker="a" if i % 2 == 0 else "b", text=text) for i, text in enumerate(texts or TEXTS)]
    return Transcript(id="c0003", topic="bees", experts={"a": REF, "b": REF}, turns=turns, seed=0, stop_reason="turns")


def judging_config(**values: Any) -> JudgingConfig:
    wim = values.pop("wim", {})
    plain = {
        "judge": "partner",
        "form": "sampled",
        "analysis": True,
        "per_turn": False,
        "categories": {"depth": "how deep", "clarity": "how clear"},
        "weights": {"depth": 1.0, "clarity": 1.0},
        "z": 0.5,
        "wim": {"enabled": True, "empty_score": 1.0, **wim},
    }
    return JudgingConfig.model_validate({**plain, **values})


Reply = Callable[[GenerateRequest], str]


def judge(
    config: JudgingConfig,
    reply: Reply = babble,
    score: Callable[[ScoreRequest], Sequence[float]] | None = None,
    talk: Transcript | None = None,
    done: dict[str, Kept] | None = None,
    context: int = 100_000,
    prompts: str = "world",
    finish: Literal["stop", "length"] = "stop",
) -> tuple[dict[str, Any], Double]:
    """The records by id, and the backend that answered."""
    double, events = Double(reply, score), list[AnyEvent]()
    wordings = [f"prompts@experts.{seat}.prompts={prompts}" for seat in "ab"]
    double.finish = finish
    config_all = config_of("experts.a.decoding.judge.max_new_tokens=20", "experts.b.decoding.judge.max_new_tokens=20", *wordings)
    info = ModelInfo("double", context)
    models = {"a": config_all.experts["a"], "b": config_all.experts["b"], "third": config_all.experts["a"]}
    judges = {seat: make_expert(seat, model, info) for seat, model in models.items()}
    tokens = dict.fromkeys(judges, double.count_tokens)
    flow = judge_dialogue(talk or transcript(), config, judges, events.append, tokens, done or {})
    Scheduler({**dict.fromkeys(judges, double), "embedder": BagOfWords()}, 64).run([flow])
    records: dict[str, Any] = {}
    for event in events:
        record = event.rating if isinstance(event, RatingGiven) else event.wim if isinstance(event, WimGiven) else None
        record = event.reward if isinstance(event, RewardGiven) else record
        assert record is not None and record.id not in records
        records[record.id] = record
    return records, double


def answers(rating: str = " 7", wim: str = "How honey is made.", analysis: str = " fine") -> Reply:
    def reply(request: GenerateRequest) -> str:
        return {"wim": wim, "analysis": analysis}.get(request.key.rsplit("/", 1)[1], rating)

    return reply
