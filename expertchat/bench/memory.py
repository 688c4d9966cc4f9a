"""Resident memory over many short conversations in one backend: flat after the warm-up, or something is kept for ever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from expertchat.backends.asking import Flow
from expertchat.bench.kit import Kit
from expertchat.talk.conversation import Dialogue
from expertchat.talk.scheduler import Scheduler

TURNS, TOKENS = 2, 16
MIB = 2**20


class Growth(NamedTuple):
    """Bytes at most in the warm-up (the first third), and by how much they were exceeded later (negative: never)."""

    warm: int
    grown: int

    @property
    def share(self) -> float:
        return self.grown / self.warm


def growth(samples: Sequence[int]) -> Growth:
    """Growth of resident memory, sampled once a conversation.

    >>> growth([50, 90, 100, 100, 103, 102, 101, 100, 100])
    Growth(warm=100, grown=3)
    """
    third = max(1, len(samples) // 3)
    warm = max(samples[:third])
    return Growth(warm, max(samples[third:], default=warm) - warm)


def measure_memory(kit: Kit) -> None:
    """Samples the resident memory after each conversation."""
    import psutil

    count, rows = kit.settings.conversations, kit.middle
    part = kit.part("memory", f"Resident memory over {count} conversations of {TURNS} turns, engine, {rows} at a time")
    me, samples = psutil.Process(), [0]
    samples.clear()
    backend = kit.subject.engine(rows)
    scheduler = Scheduler({"a": backend, "b": backend}, None)

    def ended(dialogue: Dialogue) -> Flow[None]:
        yield from dialogue.flow()
        scheduler.forget(dialogue.id)
        samples.append(me.memory_info().rss)
        if len(samples) % 10 == 0:
            kit.tell(f"memory: {len(samples)} of {count} conversations, {samples[-1] / MIB:,.0f} MiB")

    tokens = min(TOKENS, kit.settings.tokens)
    kit.tell(f"memory: {count} conversations")
    kit.subject.attend(backend)
    try:
        scheduler.run((ended(kit.dialogue(backend, "m", i, TURNS, tokens)) for i in range(count)), width=rows)
    finally:
        if len(samples) >= 3:
            found = growth(samples)
            part.facts += [
                ("after the first third, at most", f"{found.warm / MIB:,.1f} MiB"),
                ("growth later, at most", f"{found.grown / MIB:+,.1f} MiB ({found.share:+.2%})"),
            ]
            part.numbers = {"resident_bytes": samples, "warm_bytes": found.warm, "grown_bytes": found.grown}
