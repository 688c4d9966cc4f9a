"""Where the time of a round goes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from expertchat.events import PhaseStarted
from expertchat.folder.run import Hub
from expertchat.preferences.candidates import Bundle
from expertchat.records import Figure


class Clock:
    """Announces the phases of a round and counts their seconds."""

    def __init__(self, hub: Hub, round: int) -> None:
        self.hub, self.round = hub, round
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: Any) -> Iterator[None]:
        self.hub.send(PhaseStarted(round=self.round, phase=phase))
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[phase] = round(time.monotonic() - began, 3)

    def figures(self, bundles: Sequence[Bundle]) -> dict[str, Figure]:
        """Seconds by phase so far, reply tokens a second of talking, and the memory that the process holds (GiB)."""
        tokens = sum(c.tokens for bundle in bundles for one in bundle.sampled for c in one.candidates)
        talking = self.seconds.get("talking", 0.0)
        found: dict[str, Figure] = {f"seconds_{phase}": seconds for phase, seconds in self.seconds.items()}
        return found | {"tokens_per_second": tokens / talking if talking else None, "memory_gib": memory_gib()}


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
