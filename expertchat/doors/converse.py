"""`expertchat converse`: a run of rated conversations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from expertchat.command.work import Work
from expertchat.doors.entry import announce, composed

if TYPE_CHECKING:
    from expertchat.command.checks import Problems
    from expertchat.command.launch import Job
    from expertchat.folder.reader import RunReader
    from expertchat.talk.config import ConverseConfig


def run(arguments: Sequence[str]) -> int:
    """One run, or a sweep."""
    return composed("converse", meant(arguments), _one)


def meant(arguments: Sequence[str]) -> list[str]:
    """The arguments as overrides: a model may be named in one word."""
    from expertchat.command.named_models import with_models

    return with_models(arguments, None)


def _one(job: Job) -> int:
    announce(job)
    from expertchat.talk.converse import run_converse
    from expertchat.views.open import open_view

    config: ConverseConfig = job.config
    return run_converse(config, ["expertchat", "converse", *job.overrides], open_view(config.view, show_thinking=config.show_thinking))


def check(config: ConverseConfig, here: bool) -> Problems:
    """What keeps it from being run."""
    from expertchat.command import check_runs as runs
    from expertchat.command.checks import told
    from expertchat.trackers.tracking import check_trackers

    yield from runs.texts(config)
    yield from told(check_trackers, config.report_to)
    if runs.has_topics(config):
        yield from told(_topics, config)
    yield from runs.cast(config, "converse", here)


def _topics(config: ConverseConfig) -> None:
    """Raise ConfigError for topics that cannot be read, or that have no reference."""
    from expertchat.judging.fits import check_references
    from expertchat.talk.topics import given_topics

    given = given_topics(config.topics, config.conversation.count, config.run.seed)
    check_references(config.judging, [topic.text for topic in given])


def _wanted(config: ConverseConfig) -> int:
    return config.conversation.count * config.conversation.turns


def _done(run: RunReader) -> int:
    return sum(len(line["turns"]) for line in run.lines("transcripts"))


WORK = Work("a turn", _wanted, _done)
