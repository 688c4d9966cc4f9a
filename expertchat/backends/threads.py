"""How many CPU threads compute: as many as there are cores that other programs leave free, looked at twice a second.

Threads of one product wait for each other at its end, so one that has to share its core keeps all of them waiting: with a busy loop on
one of two cores two threads are slower than one. Who wants a fixed number sets engine.threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STAT = Path("/proc/stat")
SECONDS = 0.5  # between two looks: the kernel counts in hundredths of a second
LOWER, RAISE = 0.4, 0.25  # of a core that others may take before a thread is given up, and before one is taken back
ASLEEP = 0.1  # of a core that this program takes, where it does not compute
CALM = 2  # looks in a row that must allow more threads before there are more
# Rounds that a thread of libgomp looks for work before it sleeps (its own default: 300,000, which beside other programs is time that the
# threads with work are waiting for). So few cover the Python between two products.
SPINS = {"GOMP_SPINCOUNT": "3000"}


def wait_shortly() -> None:
    """Let threads that have nothing to do sleep soon. To be called before torch is imported; whoever has said how they wait is heard."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ.update(SPINS)


@dataclass
class Others:
    """The cores' time that other programs take, of the cores that this process may use."""

    clock: Callable[[], float] = time.monotonic
    own: Callable[[], float] = time.process_time

    def __post_init__(self) -> None:
        self._last = self._now()

    def _now(self) -> tuple[float, float, float]:
        return self.clock(), self.own(), busy_seconds()

    def cores(self) -> float | None:
        """How many cores others kept busy since the last look; None where that is too short ago, or this program has slept since then."""
        then, now = self._last, self._now()
        wall, own, busy = (after - before for after, before in zip(now, then, strict=True))
        if wall < SECONDS:
            return None
        self._last = now
        if own < ASLEEP * wall:  # what others did meanwhile is long over
            return None
        return max(0.0, (busy - own) / wall)


def busy_seconds() -> float:
    """Seconds that the usable cores have worked since the machine began. What runs at a lower priority than this process gives way to it,
    so it counts for nothing. Raises OSError where the system does not say."""
    cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    with open(STAT, encoding="ascii") as file:
        lines = [line.split() for line in file if line.partition(" ")[0] in cores]
    # user, nice, system, idle, iowait, irq, softirq, steal
    counted = (0, 2, 5, 6, 7) if os.nice(0) <= 0 else (0, 1, 2, 5, 6, 7)
    return sum(int(line[1 + i]) for line in lines for i in counted if 1 + i < len(line)) / os.sysconf("SC_CLK_TCK")


class Threads:
    """Sets torch's threads, `most` of them at first. `look` is called where it computes, in the thread that does: others have their own."""

    def __init__(self, most: int, cores: int, others: Callable[[], float | None], give: Callable[[int], None]) -> None:
        self.most, self.cores, self.now = most, cores, most
        self._others, self._give = others, give
        self._calm = 0

    def look(self) -> None:
        """Take as many threads as there are free cores now."""
        taken = self._others()
        if taken is None:
            return
        fewer, more = (max(1, min(self.most, int(self.cores - taken + part))) for part in (LOWER, RAISE))
        self._calm = self._calm + 1 if more > self.now else 0
        wanted = fewer if fewer < self.now else more if self._calm >= CALM else self.now
        if wanted != self.now:
            self.now, self._calm = wanted, 0
            self._give(wanted)


_followed: Threads | None = None


def follow(most: int | None) -> None:
    """From now on there are at most so many threads, and fewer while other programs compute; None: they stay as they are."""
    global _followed
    _followed = None
    if most is None or most < 2:
        return
    try:
        others, cores = Others(), len(os.sched_getaffinity(0))
    except (OSError, AttributeError):  # no Linux
        return
    import torch

    _followed = Threads(most, cores, others.cores, torch.set_num_threads)


def follow_for(models: Iterable[Any]) -> None:
    """Let the threads follow the other programs for these models, if they are all on the CPU and in half precision.

    In fp32 a product's last digit depends on how many threads compute it, and texts must not depend on what else runs on the machine.
    """
    found = list(models)
    if not found or any(model.device.type != "cpu" or str(model.dtype) == "torch.float32" for model in found):
        return follow(None)
    import torch

    follow(torch.get_num_threads())


def look() -> None:
    """Have the other programs looked at, if they are followed: cheap where that was done a moment ago."""
    if _followed is not None:
        _followed.look()
