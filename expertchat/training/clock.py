"""Where the time of a round goes."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from expertchat.backends.asking import Ask
from expertchat.events import PhaseStarted
from expertchat.folder.run import Hub
from expertchat.preferences.candidates import Bundle
from expertchat.records import Figure

TALKING = "talking"
ASKED = {"judge": "judging", "embedder": "embedding"}  # label of a request -> what its lane's time is counted as
_CANDIDATE = re.compile(r"/k\d+$")  # how the key of a candidate's request ends


class Clock:
    """Announces the phases of a round and counts their seconds, which add up to the round's.

    Dialogues, candidates and judgements share batches, so while they last each advance of a lane is parted among its requests (`spent`).
    "talking" keeps what is none of the others': the turns that are not trained, and whatever lies between two advances.
    """

    def __init__(self, hub: Hub, round: int) -> None:
        self.hub, self.round = hub, round
        self.seconds: dict[str, float] = {}
        self._rollouts = 0.0  # seconds of the whole of talking
        self._spent: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, phase: Any) -> Iterator[None]:
        self.hub.send(PhaseStarted(round=self.round, phase=phase))
        began = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - began
            self.seconds |= self._parted(seconds) if phase == TALKING else {phase: round(seconds, 3)}

    def spent(self, asked: Sequence[Ask], seconds: float) -> None:
        """An advance of a lane with these requests took so long."""
        for ask in asked:
            self._spent[_phase_of(ask)] += seconds / len(asked)

    def _parted(self, seconds: float) -> dict[str, float]:
        """The seconds of the rollouts by what they were for; devices that work side by side share them."""
        self._rollouts = seconds
        scale = min(1.0, seconds / max(sum(self._spent.values()), 1e-9))
        parts = {phase: round(scale * spent, 3) for phase, spent in self._spent.items() if phase != TALKING}
        return {TALKING: round(max(0.0, seconds - sum(parts.values())), 3), **dict(sorted(parts.items()))}

    def figures(self, bundles: Sequence[Bundle]) -> dict[str, Figure]:
        """Seconds by phase so far, reply tokens a second of the rollouts, and the memory that the process holds (GiB)."""
        tokens = sum(c.tokens for bundle in bundles for one in bundle.sampled for c in one.candidates)
        found: dict[str, Figure] = {f"seconds_{phase}": seconds for phase, seconds in self.seconds.items()}
        return found | {"tokens_per_second": tokens / self._rollouts if self._rollouts else None, "memory_gib": memory_gib()}


def _phase_of(ask: Ask) -> str:
    return ASKED.get(ask.label) or ("candidates" if _CANDIDATE.search(ask.request.key) else TALKING)


def memory_gib() -> float:
    """Memory of this process: on a GPU the most that its tensors took since the last call, else its resident memory."""
    import psutil
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        peak = sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count()))
        for i in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(i)
        return round(peak / 2**30, 3)
    return round(psutil.Process().memory_info().rss / 2**30, 3)
