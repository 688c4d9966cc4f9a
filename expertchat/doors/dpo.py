"""`expertchat dpo FILE|RUN`: a model is trained on pairs, or on judged replies, that were there before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from expertchat.command.taught import taught
from expertchat.command.work import Work
from expertchat.doors.entry import announce, composed
from expertchat.doors.guard import FIRST

if TYPE_CHECKING:
    from expertchat.command.checks import Problems
    from expertchat.command.launch import Job
    from expertchat.folder.reader import RunReader
    from expertchat.training.dpo_config import DpoConfig


def in_full(words: Sequence[str]) -> list[str]:
    """The words as overrides.

    >>> in_full(["data=pairs.jsonl", "train=full"])
    ['train=dpo_full', 'data.path=["pairs.jsonl"]']
    """
    return taught(words, "dpo_")


def run(arguments: Sequence[str]) -> int:
    """One run, or a sweep."""
    return composed("dpo", in_full(arguments), _one)


def _one(job: Job) -> int:
    announce(job)
    from expertchat.training.ranks import own_gpu

    own_gpu()  # before anything below asks torch for GPUs
    from expertchat.training.dpo_run import DpoRun
    from expertchat.training.offline import run_offline
    from expertchat.views.open import open_view

    view = open_view(job.config.view if FIRST else "none")
    return run_offline(DpoRun, job.config, ["expertchat", "dpo", *job.overrides], view)


def named(config: DpoConfig) -> list[tuple[str, str | None]]:
    """The models that may have to be fetched, and data sets of the hub."""
    from expertchat.sources.rows import HUB

    sets = [(path.removeprefix(HUB).partition(":")[0], None) for path in config.data.path if path.startswith(HUB)]
    models = [one for one in (config.model, config.partner, config.third) if one is not None]
    return [*sets, *((one.path, one.models_dir) for one in models if one.backend == "local")]


def check(config: DpoConfig, here: bool) -> Problems:
    """What keeps it from being run."""
    from expertchat.training.ranks import own_gpu

    if config.train.sharding != "pipeline":
        own_gpu()  # of several processes each has one, and torch must not have been asked before it is chosen
    from expertchat.command import check_models as models
    from expertchat.command.check_offline import offline
    from expertchat.command.checks import told
    from expertchat.folder.run import run_folder
    from expertchat.sources.preferences import place_problems
    from expertchat.training.against_base import check_against

    if not (run_folder(config.run.dir, "dpo") / "preferences.jsonl").is_file():  # else its rows are kept there
        yield from place_problems(config.data)
    if (against := config.against_base) is not None:
        yield from told(check_against, against)
    yield from offline(config, "dpo", here)
    for key, model in (("partner", config.partner), ("third", config.third)):
        if here and model is not None:
            yield from models.model_problems(key, model)


def _done(run: RunReader) -> int:
    return sum(one.kind == "round" for one in run.metrics())


WORK = Work("a round", lambda config: config.rounds, _done)
