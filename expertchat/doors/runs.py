"""`expertchat runs`: the runs of a folder with their states."""

from __future__ import annotations

from collections.abc import Sequence


def run(arguments: Sequence[str]) -> int:
    """The list, drawn."""
    from expertchat.runs.listing import run_runs
    from expertchat.views.runs import print_runs

    return run_runs(arguments, print_runs)
