"""Whole runs by several processes."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import torch

import expertchat.training.online  # noqa: F401  (before the fork: it takes longest)
from expertchat.cli import main

torch.set_num_threads(1)


def run(arguments: list[str], run_dir: str, signalled: int | None = None) -> int:
    """The exit code of a command line. Rank `signalled` alone gets a signal when it has finished its first dialogue."""
    if os.environ["RANK"] == str(signalled):
        mark = Path(run_dir) / "rounds" / "000001" / f"bundles-{signalled}.jsonl"
        threading.Thread(target=_signal_at, args=(mark,), daemon=True).start()
    return main([*arguments, f"run.dir={run_dir}"])


def _signal_at(mark: Path) -> None:
    while not mark.exists() or not mark.stat().st_size:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGUSR1)
