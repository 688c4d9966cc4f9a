"""`expertchat pick TABLE texts=[...]`: which of several texts of a row is the best, in every order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from expertchat.doors.entry import announce, composed

if TYPE_CHECKING:
    from expertchat.command.checks import Problems
    from expertchat.command.launch import Job
    from expertchat.picking.config import PickConfig


def run(arguments: Sequence[str]) -> int:
    """One run, or a sweep."""
    return composed("pick", meant(arguments), _one)


def meant(arguments: Sequence[str]) -> list[str]:
    """The arguments as overrides: the table, and who picks, in one word."""
    from expertchat.command.named_models import with_models
    from expertchat.sources.words import as_overrides

    return with_models(as_overrides(arguments))


def _one(job: Job) -> int:
    announce(job)
    from expertchat.picking.run import run_pick
    from expertchat.views.open import open_picking

    config: PickConfig = job.config
    return run_pick(config, ["expertchat", "pick", *job.overrides], open_picking(config.view))


def named(config: PickConfig) -> list[tuple[str, str | None]]:
    """(path, models_dir) of the model, and each data set of the hub."""
    from expertchat.sources.rows import HUB

    models = [(model.path, model.models_dir) for _, model in config.experts.items() if model.backend == "local"]
    return models + [(path.removeprefix(HUB).partition(":")[0], None) for path in config.source.path if path.startswith(HUB)]


def check(config: PickConfig, here: bool) -> Problems:
    """What keeps it from being run."""
    from expertchat.command import check_runs as runs
    from expertchat.command.checks import told
    from expertchat.sources.read import source_problems
    from expertchat.trackers.tracking import check_trackers

    yield from source_problems(config.source)
    if config.model is None and config.rule is None:
        yield "model: nobody picks; name a model, as model=smollm2_135m, or a rule, as rule=longest"
    if config.model is not None and config.model.family == "world":
        yield "model: the embedded models were never taught to compare; take another model, or a rule, as rule=longest"
    yield from told(check_trackers, config.report_to)
    yield from runs.texts(config)
    yield from runs.cast(config, "pick", here)
