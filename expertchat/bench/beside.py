"""How fast the engine stays beside other programs: busy loops on the same cores, started and ended here."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from expertchat.backends import threads
from expertchat.backends.hardware import usable_cores
from expertchat.bench.kit import Kit, Way, Work, fresh
from expertchat.bench.results import Column

LOOP = "while True: pass"
QUIET = "quiet"
SETTLE = 2.5  # seconds of talking before the clock starts: threads follow what others do within about two


def measure_beside(kit: Kit) -> None:
    """The same dialogues alone, beside a busy loop on every second core, and beside one on every core."""
    import torch

    rows, cores = kit.middle, usable_cores()
    loads = sorted({max(1, cores // 2), cores})
    part = kit.part(
        "beside", f"Beside other programs: engine, {rows} dialogues, {cores} cores", columns=[Column(f"x {QUIET}", QUIET)],
        counts={"threads": "threads"},
    )  # fmt: skip
    part.notes.append(f'busy loops: `python -c "{LOOP}"`, of this priority and on these cores; {SETTLE:g} s before the clock starts')
    backend, most = kit.subject.engine(rows), torch.get_num_threads()
    threads.follow_for([kit.subject.model])
    try:
        ways: dict[str, Way] = {QUIET: _talking(kit, backend, rows, 0)}
        ways |= {f"beside {load}": _talking(kit, backend, rows, load) for load in loads}
        kit.rounds(part, f"N={rows}", ways)
    finally:
        threads.follow(None)
        torch.set_num_threads(most)
    for name in list(ways)[1:]:
        ratios = part.ratios(f"N={rows}", name, part.columns[0])
        part.facts.append((f"{name} of {cores} cores", f"{median(ratios):.2f} of {QUIET}"))


def _talking(kit: Kit, backend: object, rows: int, load: int) -> Way:
    import torch

    def way(repeat: int) -> Work:
        with busy(load):
            began = time.monotonic()
            while time.monotonic() - began < SETTLE:
                kit.talk(backend, rows, f"w{repeat}")
            fresh(backend)
            with kit.clock() as watch:
                found = kit.talk(backend, rows, f"r{repeat}")
        tokens = sum(turn.tokens for one in found for turn in one.turns)
        return Work(watch.seconds, rows, tokens, {"threads": float(torch.get_num_threads())})

    return way


@contextmanager
def busy(number: int) -> Iterator[list[int]]:
    """So many busy loops (their process ids) run within it."""
    loops: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(number):
            loops.append(subprocess.Popen([sys.executable, "-c", LOOP]))
        yield [loop.pid for loop in loops]
    finally:
        for loop in loops:
            loop.kill()
        for loop in loops:
            loop.wait()
