"""`expertchat merge`: full weights from a base and what a run has trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from expertchat.doors.entry import announce, composed

if TYPE_CHECKING:
    from expertchat.command.checks import Problems
    from expertchat.command.launch import Job
    from expertchat.training.merge_config import MergeConfig


def run(arguments: Sequence[str]) -> int:
    """Merge, step by step, and say what came of it."""
    return composed("merge", arguments, _one)


def _one(job: Job) -> int:
    announce(job)
    from expertchat.training.merge import run_merge
    from expertchat.views.outcomes import print_merged, print_step

    print_merged(run_merge(job.config, print_step))
    return 0


def check(config: MergeConfig, here: bool) -> Problems:
    """What keeps it from being run."""
    from expertchat.backends.folders import find_here
    from expertchat.command import check_models as models
    from expertchat.command.check_places import new_folder_problem
    from expertchat.command.checks import told
    from expertchat.training.source import find_source

    yield from models.device_problems({"device": config.device})
    if problem := new_folder_problem("out", config.out, begun=False):
        yield problem
    yield from told(find_source, config)
    if base := config.base:
        problems = told(lambda: find_here(base, models_dir=config.models_dir))
        yield from (f"base={base}: {models.short(problem, base)}" for problem in problems)
