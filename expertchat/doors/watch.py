"""`expertchat watch`: follow a running run, or replay a finished one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def run(arguments: Sequence[str]) -> int:
    """Draw a run from its folder."""
    options = _parser().parse_args(arguments)
    from expertchat.views.watch import watch

    code = watch(options.run, options.speed, options.conversation, options.view, not options.once, _queue, options.thinking)
    _family(options.run)
    return code


def _family(folder: Path) -> None:
    """Where a run goes on from and what goes on from it, if anything does."""
    from expertchat.talk.branching import family_of
    from expertchat.views.branch import print_family

    rows = family_of(folder)
    if len(rows) > 1:
        print_family(rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("expertchat watch", description="Follow a running run live, or replay a finished one.")
    parser.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    parser.add_argument("--speed", type=_positive, metavar="X", help="replay from the beginning, X times as fast as it was")
    parser.add_argument("--conversation", metavar="ID", help="show this conversation, e.g. c0001")
    parser.add_argument("--view", choices=("live", "plain"), default="live", help="drawn, or plain lines (default: live)")
    parser.add_argument("--thinking", action="store_true", help="show what the experts thought, not only how many words")
    parser.add_argument("--once", action="store_true", help="show what there is and leave, though the run goes on")
    return parser


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, but is '{text}'")
    return value


def _queue(jobs: Sequence[str]) -> Any:
    """What Slurm says of jobs."""
    from expertchat.slurm.queue import states

    return states(jobs)
