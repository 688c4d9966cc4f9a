"""`expertchat merge_runs`: the tasks of an array, or runs that differ in their seeds, as one run."""

from __future__ import annotations

from collections.abc import Sequence


def run(arguments: Sequence[str]) -> int:
    """Merge, and say what came of it."""
    from expertchat.runs.merge_runs import run_merge_runs
    from expertchat.views.outcomes import print_merged_runs

    return run_merge_runs(arguments, print_merged_runs)
