"""An evaluator over doubles, and the processes of a run as threads."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from expertchat.backends.base import GenerateRequest, ScoreRequest
from expertchat.command.compose import compose
from expertchat.config import validate
from expertchat.evaluation.evaluator import Evaluator
from expertchat.evaluation.parts import Parts
from expertchat.events import AnyEvent
from expertchat.experts.registry import make_expert
from expertchat.records import Metrics, Topic
from expertchat.talk.scheduler import Scheduler
from expertchat.training.config import OnlineDpoConfig
from expertchat.training.ranks import Ranks
from expertchat.world.facts import load
from tests.scripted import BagOfWords, Double

TOPICS = ("tides", "jazz", "coffee")
SMALL = ("evaluation.histories=6", "evaluation.final=8", "evaluation.turns=4", "conversation.stop_when_nothing_new=false")


@lru_cache
def config_of(*overrides: str) -> OnlineDpoConfig:
    return validate(OnlineDpoConfig, compose("online_dpo", ["view=none", *SMALL, *overrides]))


class Thread:
    """One of several processes that share memory: what `gather` and `same` hand around goes over one list."""

    def __init__(self, rank: int, world: int, table: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.world, self._table, self._barrier = rank, world, table, barrier

    def mine(self, items: Sequence[Any]) -> list[Any]:
        return list(items[self.rank :: self.world])

    def _all(self, value: Any) -> list[Any]:
        self._table[self.rank] = value
        self._barrier.wait(30)
        found = list(self._table)
        self._barrier.wait(30)
        return found

    def gather(self, mine: list[Any]) -> list[Any]:
        shares = self._all(mine)
        return [shares[i % self.world][i // self.world] for i in range(sum(map(len, shares)))]

    def same(self, value: Any) -> Any:
        return self._all(value)[0]


class Stage:
    """An evaluator over doubles: `policy`, `base` (of all experts) and `judge` answer."""

    def __init__(
        self,
        folder: Path,
        config: OnlineDpoConfig,
        learner: Any = "a",
        base: Any = None,
        policy: Any = None,
        judge: Any = None,
        ranks: Any = None,
        topics: Sequence[str] = TOPICS,
        choose: Sequence[Topic] = (),
        context: int = 100_000,
    ) -> None:
        self.base, self.policy, self.judge = base or Double(), policy or Double(), judge or Double()
        self.events: list[AnyEvent] = []
        self.folder, self.rows = folder, 4
        seats = config.experts.seats
        judges = config.evaluation.judge == "pointwise" and config.evaluation.by == "partner_reference"
        self.backends: dict[str, Any] = {**dict.fromkeys((*seats, "third"), self.judge), learner: self.policy}
        self.backends |= {f"base_{s}": Switch(self.base, self.judge) if judges and s != learner else self.base for s in seats}
        info = self.base.info.__class__("double", context)
        models = dict(config.experts.items()) | ({"third": config.third} if config.third else {})
        experts = {seat: make_expert(seat, model, info, seats) for seat, model in models.items()}
        tokens = dict.fromkeys(experts, self.base.count_tokens)
        given_topics = [Topic(id=f"topic {i}", text=text, source="list") for i, text in enumerate(topics)]
        parts = Parts([], list(choose), given_topics)
        self.evaluator = Evaluator(config, learner, parts, experts, tokens, folder, ranks or Ranks.alone(), self.events.append)
        self.stop = False

    def run(self, flows: Iterable[Any]) -> bool:
        return Scheduler({**self.backends, "embedder": BagOfWords()}, self.rows, stop=lambda: self.stop).run(flows)

    def prepare(self) -> bool:
        return self.evaluator.prepare(self.run)

    def evaluate(self, n: int = 6, final: bool = False, rounds: int = 6) -> Metrics:
        found = self.evaluator.evaluate(self.run, rounds, rounds, n, final)
        assert found is not None
        return found


class Switch(Double):
    """Dialogue turns go to one double, judgements to another."""

    def __init__(self, talk: Double, judge: Double) -> None:
        super().__init__()
        self.talk, self.judge = talk, judge

    def generate(self, requests: Sequence[GenerateRequest], on_text: Any = None) -> list[Any]:
        return [(self.judge if "-by-" in r.key else self.talk).generate([r])[0] for r in requests]

    def score(self, requests: Sequence[ScoreRequest]) -> list[Any]:
        return self.judge.score(requests)


def says(topic: str, *facts: int) -> str:
    """These facts of a topic as sentences."""
    return " ".join(load().topics[topic][i].clauses[0].capitalize() + "." for i in facts)


def topic_of(request: GenerateRequest) -> str:
    return next(topic for topic in TOPICS if any(f"expert on {topic}" in m.content for m in request.messages))
