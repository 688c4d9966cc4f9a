"""`expertchat reward_model SOURCE ...`: a model learns to give replies a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from expertchat.doors.entry import announce, composed

if TYPE_CHECKING:
    from expertchat.command.checks import Problems
    from expertchat.command.launch import Job
    from expertchat.reward_models.config import RewardModelTraining


def run(arguments: Sequence[str]) -> int:
    """One run, or a sweep."""
    from expertchat.sources.words import as_overrides

    return composed("reward_model", as_overrides(arguments), _one)


def _one(job: Job) -> int:
    announce(job)
    from expertchat.reward_models.run import run_reward_model
    from expertchat.views.open import open_rewards

    config: RewardModelTraining = job.config
    return run_reward_model(config, ["expertchat", "reward_model", *job.overrides], open_rewards(config.view))


def named(config: RewardModelTraining) -> list[tuple[str, str | None]]:
    """(path, models_dir) of the model that it begins from, and each data set of the hub."""
    from expertchat.sources.rows import HUB

    paths = [*config.source.path, *config.held_out.path]
    return [(config.path, config.base.models_dir), *((path.removeprefix(HUB).partition(":")[0], None) for path in paths if path.startswith(HUB))]


def check(config: RewardModelTraining, here: bool) -> Problems:
    """What keeps it from being run."""
    from expertchat.backends.folders import find_here
    from expertchat.command import check_models as models
    from expertchat.command.check_places import new_folder_problem
    from expertchat.command.checks import told
    from expertchat.folder.run import run_folder
    from expertchat.sources.read import source_problems

    yield from source_problems(config.source)
    if config.held_out.path:
        held_out = config.source.model_copy(update={"path": config.held_out.path})
        yield from (problem.replace("source.path", "held_out.path") for problem in source_problems(held_out))
    if problem := new_folder_problem("run.dir", run_folder(config.run.dir, "reward_model")):
        yield problem
    base = config.base
    if here:
        looked = told(lambda: find_here(config.path, base.revision, models_dir=base.models_dir))
        yield from (f"base.path={config.path}: {models.short(problem, config.path)}" for problem in looked)
        yield from models.device_problems({"base.device": base.device})
