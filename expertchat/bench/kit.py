"""What every part of the bench needs: the model, the experts, their dialogues, a clock, and the rounds of interleaved timings."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from expertchat.backends.asking import Flow
from expertchat.backends.base import GenerateRequest
from expertchat.bench.ceilings import Ceilings, ceilings
from expertchat.bench.config import BenchConfig, BenchSettings
from expertchat.bench.results import Part, Timing
from expertchat.bench.subject import Subject
from expertchat.config import ConversationConfig, ModelConfig
from expertchat.experts.base import ExpertChat, History
from expertchat.experts.registry import make_expert
from expertchat.records import Speaker, Topic, Transcript
from expertchat.talk.conversation import Dialogue
from expertchat.talk.order import opener_of
from expertchat.talk.scheduler import Scheduler

TOPICS = ("volcanoes", "honey bees", "tides", "coral reefs", "bread baking", "black holes", "chess", "earthquakes", "sleep", "jazz")
MIDDLE = 16  # rows of the parts that are measured at one size only


class Watcher(Protocol):
    """Somebody who shows how the bench goes on."""

    def started(self, about: Mapping[str, Any]) -> None: ...

    def doing(self, text: str) -> None: ...

    def measured(self, part: Part) -> None: ...

    def ended(self, path: str, seconds: float, stopped: bool) -> None: ...


class Work(NamedTuple):
    """What one timing was: see Timing."""

    seconds: float
    units: float = 1
    tokens: int = 0
    counts: dict[str, float] = {}  # noqa: RUF012


Way = Callable[[int], Work]
"""Does the work of one repeat and says how long it took."""


@dataclass
class Stopwatch:
    seconds: float = 0.0


@dataclass
class Kit:
    """The bench's config and model. `tell` is told what is being measured."""

    config: BenchConfig
    settings: BenchSettings  # as they count: the quick form is worked in
    subject: Subject
    tell: Callable[[str], None] = lambda text: None
    parts: list[Part] = field(default_factory=list)

    @property
    def middle(self) -> int:
        return min(MIDDLE, max(self.settings.rows))

    @cached_property
    def ceilings(self) -> Ceilings:
        """What the machine allows, measured once."""
        self.tell("what the machine allows")
        return ceilings(self.subject)

    @contextmanager
    def clock(self) -> Iterator[Stopwatch]:
        """Times what happens inside, work that the device still does included."""
        watch = Stopwatch()
        gc.collect()
        self.subject.sync()
        began = time.perf_counter()
        yield watch
        self.subject.sync()
        watch.seconds = time.perf_counter() - began

    def part(self, name: str, title: str, **more: Any) -> Part:
        """A new part; what is measured of it stays even if the bench is broken off."""
        self.parts.append(Part(name, title, **more))
        return self.parts[-1]

    def rounds(self, part: Part, case: str, ways: Mapping[str, Way], repeats: int | None = None) -> None:
        """Measure all ways in turns: A B C A B C ..., so that what slows the machine for a while slows all of them."""
        repeats = repeats or self.settings.repeats
        for repeat in range(repeats):
            for name, way in ways.items():
                self.tell(f"{part.name}, {case}: {name} ({repeat + 1} of {repeats})")
                work = way(repeat)
                part.timings.append(Timing(case, name, repeat, work.seconds, work.units, work.tokens, dict(work.counts)))

    # -- who talks --------------------------------------------------------------------------------------------------

    def experts(self, backend: Any, tokens: int | None = None) -> dict[Speaker, ExpertChat]:
        """Both experts of a dialogue, on the same model; they sample at temperature 0.9."""
        stage = {"method": "sampling", "temperature": 0.9, "max_new_tokens": tokens or self.settings.tokens}
        model = ModelConfig.model_validate({
            "family": "auto", "path": self.subject.name, "prompts": self.config.prompts, "persona": self.config.persona,
            "decoding": {"topic": stage, "reply": stage, "judge": stage},
        })  # fmt: skip
        return {"a": make_expert("a", model, backend.info), "b": make_expert("b", model, backend.info)}

    def dialogue(self, backend: Any, name: str, index: int, turns: int | None = None, tokens: int | None = None) -> Dialogue:
        """The dialogue at `index` of the group `name`; no two are about quite the same topic, and none ends early."""
        theme = TOPICS[index % len(TOPICS)]
        topic = Topic(id=f"{name}c{index:04d}", text=f"{theme}, part {index // len(TOPICS) + 1}", source="list")
        config = ConversationConfig(count=1, turns=turns or self.settings.turns, loop_similarity=1.0, stop_when_nothing_new=False)
        count = backend.count_tokens
        speakers = self.experts(backend, tokens)
        opener = opener_of(index, "alternate", tuple(speakers))
        return Dialogue(topic, opener, speakers, config, lambda event: None, {"a": count, "b": count})

    def talk(self, backend: Any, count: int, name: str) -> list[Transcript]:
        """`count` dialogues through the scheduler, all at once; every turn has exactly the tokens asked for."""
        found: dict[str, Transcript] = {}

        def kept(dialogue: Dialogue) -> Flow[None]:
            found[dialogue.id] = yield from dialogue.flow()

        self.run(backend, [kept(self.dialogue(backend, name, i)) for i in range(count)], count)
        transcripts = [found[key] for key in sorted(found)]
        lengths = {turn.tokens for transcript in transcripts for turn in transcript.turns}
        if lengths != {self.settings.tokens}:
            raise RuntimeError(f"turns of {sorted(lengths)} tokens where {self.settings.tokens} were asked for")
        return transcripts

    def run(self, backend: Any, flows: Sequence[Flow[Any]], width: int, **more: Any) -> None:
        """Run flows to their end, `width` at a time. `more`: further backends by name."""
        self.subject.attend(backend)
        Scheduler({"a": backend, "b": backend, **more}, None).run(flows, width=width)

    def requests(self, backend: Any, count: int, name: str) -> list[GenerateRequest]:
        """The opening turns of `count` dialogues."""
        dialogues = [self.dialogue(backend, name, i) for i in range(count)]
        return [
            dialogue.experts[dialogue.opener].reply_request(f"{dialogue.id}/t00", History(dialogue.topic.text), backend.count_tokens)[0]
            for dialogue in dialogues
        ]

    @cached_property
    def transcripts(self) -> list[Transcript]:
        """Eight dialogues to judge and to go on with, written by the engine. Not timed."""
        self.tell("dialogues to work on")
        return self.talk(self.subject.engine(8), 8, "base")


def fresh(backend: Any) -> None:
    """Let a backend forget all that it keeps, so that the next timing begins like the first."""
    backend.forget("")


@contextmanager
def counting(backend: Any) -> Iterator[dict[str, float]]:
    """What the engine counts meanwhile: tokens prefilled, reused and decoded. Empty for a backend that counts nothing."""
    counts = backend.counts
    found: dict[str, float] = {}
    names = ("prefilled", "reused", "decoded") if counts is not None else ()
    before = {name: getattr(counts, name) for name in names}
    yield found
    found.update({name: getattr(counts, name) - before[name] for name in names})
