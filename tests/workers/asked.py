"""`expertchat` that the server runs: a job does what it does, without the imports that take longest.

It stands in a folder for cluster.venv=, made by `environment`. Signals are passed on, the exit code is passed back, and the server ends a
run whose job was killed.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType

from tests.workers.forked import Forked, order, programs, server

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def environment(folder: Path) -> Path:
    """A folder for cluster.venv= or EXPERTCHAT_VENV."""
    server()  # it starts here: in a job it would end with it
    return programs(folder, "tests.workers.asked")


def main() -> int:
    """Run this command line in a child of the server, with this environment and this folder."""
    waiting: list[int] = []
    for number in PASSED_ON:  # one that comes before there is a child waits for it
        signal.signal(number, lambda number, frame: waiting.append(number))
    child = Forked(order("expertchat.cli", "main", {}, os.environ, ["expertchat", *sys.argv[1:]], Path.cwd()), 0, 1, 2)

    def pass_on(number: int, frame: FrameType | None) -> None:
        os.kill(child.pid, number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    for number in waiting:
        os.kill(child.pid, number)
    code = child.wait(timeout=3600)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
