"""`expertchat reward_model SOURCE ...`: a model learns to give replies a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from expertchat.command.work import Work
from expertchat.doors.entry import announce, composed
from expertchat.doors.guard import FIRST

if TYPE_CHECKING:
    from expertchat.command.checks import Problems
    from expertchat.command.launch import Job
    from expertchat.folder.reader import RunReader
    from expertchat.reward_models.config import RewardModelTraining


def run(arguments: Sequence[str]) -> int:
    """One run, or a sweep."""
    return composed("reward_model", overrides(arguments), _one)


def overrides(words: Sequence[str]) -> list[str]:
    """The words as overrides: SOURCE, and the model in one word.

    >>> overrides(["runs/one", "model=minilm"]), overrides(["model=models/it's", "judge=length"])
    (['classifier@model=minilm', 'source.path=["runs/one"]'], ["model.path='models/it\\\\'s'", 'judge={name: length}'])
    """
    from expertchat.config import conf_dir
    from expertchat.sources.words import as_overrides

    options = {path.stem for path in (conf_dir() / "classifier").glob("*.yaml")}
    found = []
    for word in as_overrides(words):
        key, _, value = word.partition("=")
        if key == "model" and value:
            quoted = value.replace("'", "\\'")
            word = f"classifier@model={value}" if value in options or "," in value else f"model.path='{quoted}'"
        if word.startswith("judge=") and value not in ("", "null"):  # a group's name, too: a mapping tells them apart
            word = f"judge={{name: {value}}}"
        found.append(word)
    return found


def _one(job: Job) -> int:
    announce(job)
    from expertchat.training.ranks import own_gpu

    own_gpu()  # before anything below asks torch for GPUs
    from expertchat.reward_models.run import run_reward_model
    from expertchat.views.open import open_rewards

    config: RewardModelTraining = job.config
    return run_reward_model(config, ["expertchat", "reward_model", *job.overrides], open_rewards(config.view if FIRST else "none"))


def named(config: RewardModelTraining) -> list[tuple[str, str | None]]:
    """(path, models_dir) of the model that it begins from, and each data set of the hub."""
    from expertchat.sources.rows import HUB

    paths = [path for path in (*config.source.path, *config.held_out.path) if path.startswith(HUB)]
    return [(config.path, config.model.models_dir), *((path.removeprefix(HUB).partition(":")[0], None) for path in paths)]


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
    model = config.model
    if here:
        looked = told(lambda: find_here(model.path, model.revision, models_dir=model.models_dir))
        yield from (f"model.path={model.path}: {models.short(problem, model.path)}" for problem in looked)
        yield from models.device_problems({"model.device": model.device})


def _done(run: RunReader) -> int:
    return sum(one.round > 0 for one in run.metrics())


WORK = Work("an epoch", lambda config: int(config.epochs), _done)
