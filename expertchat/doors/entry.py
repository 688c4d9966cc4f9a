"""How a command is entered: by the command line, and by each job of a sweep where that runs."""

from __future__ import annotations

import atexit
import gc
import os
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from expertchat.backends.threads import wait_shortly
from expertchat.command.table import COMMANDS, find
from expertchat.doors.guard import guarded, say

if TYPE_CHECKING:
    from expertchat.command.launch import Job

# How many objects more than were freed make Python look for garbage. By its own 700 it looks a thousand times while torch and
# transformers are imported (985: 898 young, 81, 6 at all), which make objects and no garbage: a sixth of the time.
GARBAGE = (50_000, 20, 100)
# No telemetry, and no warning about threads from tokenizers; whoever sets these keeps their value.
QUIET = {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "TOKENIZERS_PARALLELISM": "false"}


def enter(arguments: Sequence[str]) -> int:
    """Run a command of the table with its arguments; the exit code."""
    import logging

    gc.set_threshold(*GARBAGE)
    atexit.register(gc.freeze)  # else the end looks through every object that torch and its like have made: 1.4 s
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    wait_shortly()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels that nothing here uses
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")  # of names that TRL and peft still use
    command, *rest = arguments
    return guarded(lambda: find(COMMANDS[command].door)(rest), rest)


def composed(command: str, arguments: Sequence[str], task: Callable[[Job], int], after: Callable[[list[Job]], object] | None = None) -> int:
    """Run a command that Hydra composes: `task` is a job of it, and one that fails does not end a sweep. `after`: see launch.run."""
    from expertchat.command.launch import run

    return run(command, arguments, lambda job: guarded(lambda: task(job)), _elsewhere if COMMANDS[command].jobs else None, after)


def announce(job: Job) -> None:
    """Say which job of a sweep begins."""
    if job.jobs > 1:
        from expertchat.text.redaction import hide_words

        say(f"[{job.number + 1}/{job.jobs}] {' '.join(hide_words(job.overrides))}")


def _elsewhere(command: str, overrides: Sequence[str], launcher: str) -> tuple[list[Job], list[int]]:
    """Run a sweep with one of submitit's launchers: each job enters here again, on its node."""
    from expertchat.slurm.sweep import launch

    return launch(enter, say, command, overrides, launcher)
