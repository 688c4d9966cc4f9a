"""Where the seconds of a rated run go: contexts, words, scores, embeddings, and the rest; tokens that were computed and found again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from expertchat.backends.asking import Flow
from expertchat.backends.base import Embedder, Embedding, EmbedRequest
from expertchat.backends.loading import load_embedder
from expertchat.bench.judged import rated
from expertchat.bench.kit import Kit, Way, Work, counting, fresh
from expertchat.config import EmbedderConfig
from expertchat.events import AnyEvent, RewardGiven
from expertchat.judging.judge import judge_dialogue
from expertchat.records import Transcript
from expertchat.talk.scheduler import Scheduler

TALK, JUDGE, BOTH = "talking", "judging", "a rated run"
Told = Callable[[AnyEvent], None]


def measure_phases(kit: Kit) -> None:
    """Dialogues alone, the judging of such dialogues alone, and both as `converse` runs them."""
    settings = kit.settings
    part = kit.part(
        "phases", f"Where the seconds of {settings.job_rows} rated dialogues go", unit="dialogues",
        counts={
            "prefill": "prefill s", "decode": "decode s", "score": "score s", "embed": "embed s", "rest": "rest s",
            "prefilled": "new", "reused": "found", "rewards": "rewards",
        },
    )  # fmt: skip
    part.notes += [
        f"{TALK}: {settings.turns} turns each; {JUDGE}: of such dialogues, nothing kept of their talk; {BOTH}: one after the other in each"
        " dialogue, side by side in all of them",
        "new, found: tokens of contexts that were computed, and that were kept; rewards: judgements that came to a number; rest: what is in"
        " none of the phases (Python between the passes, and waiting)",
    ]
    found = load_embedder(EmbedderConfig(path=settings.embedder, models_dir=settings.models_dir), [settings.model])
    backend, embedder = kit.subject.engine(), Timed(found)
    embedder.embed([EmbedRequest("w", "The first text loads it.")])
    written = kit.talk(backend, settings.job_rows, "base")
    ways = {
        TALK: way(kit, backend, embedder, lambda name, tell: [_talked(kit, backend, name, i) for i in range(settings.job_rows)]),
        JUDGE: way(kit, backend, embedder, lambda name, tell: [_judged(kit, backend, one, name, tell) for one in written]),
        BOTH: way(
            kit, backend, embedder,
            lambda name, tell: [rated(kit.dialogue(backend, name, i), kit.config.judging, backend, tell) for i in range(settings.job_rows)],
        ),
    }  # fmt: skip
    kit.rounds(part, f"N={settings.job_rows}", ways)
    for does, name in (("score", "scores"), ("embed", "embeddings")):
        waits = [timing.counts.get(f"{does}_wait", 0.0) for timing in part.timings if timing.way == BOTH]
        part.facts.append((f"longest from asking for {name} to having them", f"{max(waits):.2f} s"))


def way(kit: Kit, backend: Any, embedder: Timed, flows: Callable[[str, Told], Sequence[Flow[Any]]]) -> Way:
    """Run flows, given a name for their dialogues and whom to tell of records; count the seconds of each phase."""

    def once(repeat: int) -> Work:
        fresh(backend)
        events: list[AnyEvent] = []
        kit.subject.attend(backend)
        scheduler = Scheduler({"a": backend, "b": backend, "embedder": embedder})
        before, embedded = dict(backend.counts.seconds), embedder.seconds
        with kit.clock() as watch, counting(backend) as counts:
            scheduler.run(flows(f"r{repeat}", events.append), width=kit.settings.job_rows)
        spent = {phase: seconds - before.get(phase, 0.0) for phase, seconds in backend.counts.seconds.items()}
        spent["embed"] = embedder.seconds - embedded
        spent["rest"] = watch.seconds - sum(spent.values())
        waits = {f"{does}_wait": seconds for does, seconds in scheduler.longest.items()}
        rewards = sum(event.reward.value is not None for event in events if isinstance(event, RewardGiven))
        return Work(watch.seconds, kit.settings.job_rows, 0, {**counts, **spent, **waits, "rewards": float(rewards)})

    return once


class Timed(Embedder):
    """An embedder that counts its seconds."""

    def __init__(self, inner: Embedder) -> None:
        self.inner, self.name, self.seconds = inner, inner.name, 0.0

    def embed(self, requests: Sequence[EmbedRequest]) -> list[Embedding]:
        began = time.perf_counter()
        found = self.inner.embed(requests)
        self.seconds += time.perf_counter() - began
        return found


def _talked(kit: Kit, backend: Any, name: str, index: int) -> Flow[None]:
    yield from kit.dialogue(backend, name, index).flow()


def _judged(kit: Kit, backend: Any, transcript: Transcript, name: str, tell: Told) -> Flow[None]:
    one = transcript.model_copy(update={"id": f"{name}{transcript.id}"})  # with noise of its own in each repeat
    tokens = {"a": backend.count_tokens, "b": backend.count_tokens}
    yield from judge_dialogue(one, kit.config.judging, kit.experts(backend), tell, tokens)
