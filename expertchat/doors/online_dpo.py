"""`expertchat online_dpo`: the experts learn from each other, round by round."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from expertchat.command.work import Work
from expertchat.doors.entry import announce, composed
from expertchat.doors.guard import FIRST

if TYPE_CHECKING:
    from expertchat.command.checks import Problems
    from expertchat.command.launch import Job
    from expertchat.folder.reader import RunReader
    from expertchat.training.config import OnlineConfig


def run(arguments: Sequence[str]) -> int:
    """One run, or a sweep, whose runs are shown in one table at its end."""
    return learn("online_dpo", arguments)


def learn(command: str, arguments: Sequence[str]) -> int:
    """The same for every command whose experts learn in rounds."""
    return composed(command, meant(arguments), _one, _show_arms)


def meant(arguments: Sequence[str]) -> list[str]:
    """The arguments as overrides: a model may be named in one word."""
    from expertchat.command.named_models import with_models

    return with_models(arguments, None)


def _one(job: Job) -> int:
    announce(job)
    from expertchat.training.ranks import own_gpu

    own_gpu()  # before anything below asks torch for GPUs
    from expertchat.training.online import run_online
    from expertchat.views.open import open_view

    view = open_view(job.config.view if FIRST else "none", show_thinking=job.config.show_thinking)
    return run_online(job.config, ["expertchat", job.config.command, *job.overrides], view)


def _show_arms(jobs: Sequence[Job]) -> None:
    """The runs of a sweep in one table, kept beside them as arms.md."""
    folders = [Path(job.config.run.dir).expanduser() for job in jobs if job.config.run.dir]
    folders = [folder for folder in folders if (folder / "config.yaml").is_file()]  # a job may have failed before it began
    if len(folders) > 1:
        from expertchat.doors import arms

        arms.run([*map(str, folders), "--out", str(Path(os.path.commonpath(folders)) / "arms.md")])


def check(config: OnlineConfig, here: bool) -> Problems:
    """What keeps it from being run."""
    from expertchat.training.ranks import own_gpu

    if config.train.sharding != "pipeline":
        own_gpu()  # of several processes each has one, and torch must not have been asked before it is chosen
    from expertchat.command import check_runs as runs
    from expertchat.command.check_learners import learners
    from expertchat.command.checks import told
    from expertchat.evaluation.evaluator import check as check_evaluation
    from expertchat.preferences.functions import file_problems
    from expertchat.trackers.tracking import check_trackers
    from expertchat.training.held_out import check_given

    yield from runs.texts(config)
    if runs.has_topics(config):
        yield from told(check_given, config)
    yield from file_problems(config.reward.functions)
    yield from told(check_evaluation, config)
    yield from told(check_trackers, config.report_to)
    found = yield from runs.cast(config, config.command, here)
    yield from learners(config, found)


def _wanted(config: OnlineConfig) -> int:
    return config.conversation.count * config.conversation.turns * config.rounds


def _done(run: RunReader) -> int:
    """Of a round, as many as it may have."""
    rounds = sum(one.kind == "round" for one in run.metrics())
    return rounds * int(run.config["conversation"]["count"]) * int(run.config["conversation"]["turns"])


WORK = Work("a turn of a round", _wanted, _done)
