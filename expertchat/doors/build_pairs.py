"""`expertchat build_pairs SOURCE`: preference pairs out of rated texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from expertchat.doors.entry import announce, composed
from expertchat.sources.words import as_overrides

if TYPE_CHECKING:
    from expertchat.building.config import BuildConfig
    from expertchat.command.checks import Problems
    from expertchat.command.launch import Job


def run(arguments: Sequence[str]) -> int:
    """One run, or a sweep."""
    return composed("build_pairs", meant(arguments), _one)


def meant(arguments: Sequence[str]) -> list[str]:
    """The words of the command line as overrides."""
    return list(in_full(as_overrides(arguments)))


def in_full(arguments: Sequence[str]) -> Iterator[str]:
    """The short forms: model=NAME is who writes, model@JUDGE=NAME a judge's model, judge=NAME who scores.

    >>> list(in_full(["judge=expected", "model@expected=smollm2_135m", "model=embedded:llama"]))
    ['+judge@judges.expected=expected', 'model@judges.expected.model=smollm2_135m', 'model=embedded_llama']
    """
    from expertchat.command.named_models import with_models
    from expertchat.doors.judge import named_judges

    own = [word for word in arguments if word.startswith("model=")]
    yield from named_judges([word for word in arguments if not word.startswith("model=")])
    yield from with_models(own)


def _one(job: Job) -> int:
    announce(job)
    from expertchat.building.run import run_build
    from expertchat.views.open import open_building

    config: BuildConfig = job.config
    return run_build(config, ["expertchat", "build_pairs", *job.overrides], open_building(config.view))


def named(config: BuildConfig) -> list[tuple[str, str | None]]:
    """(path, models_dir) of each model that it may have to fetch, and each data set of the hub."""
    from expertchat.doors.judge import named as of_judges

    return of_judges(config)


def check(config: BuildConfig, here: bool) -> Problems:
    """What keeps it from being run."""
    from expertchat.doors import judge as doors_judge

    if config.judges.root:
        yield from doors_judge.check(config, here)
        return
    from expertchat.command import check_runs as runs
    from expertchat.command.checks import told
    from expertchat.sources.read import source_problems
    from expertchat.trackers.tracking import check_trackers

    yield from source_problems(config.source)
    yield from told(check_trackers, config.report_to)
    yield from runs.texts(config)
    yield from runs.cast(config, "build_pairs", here)
