"""`expertchat best_of_n [SOURCE ...]`: n replies to each prompt, one of which is chosen, and judged again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from expertchat.command.work import Work
from expertchat.doors.entry import announce, composed

if TYPE_CHECKING:
    from expertchat.choosing.config import BestOfNConfig
    from expertchat.command.checks import Problems
    from expertchat.command.launch import Job
    from expertchat.folder.reader import RunReader

CHOOSER, OTHER = "judges.chooser", "judges.other"
_WHO = re.compile(r"(chooser|judge)=(.+)")
_JUDGE = re.compile(r"judge@([\w-]+)=([\w-]+)")
_MODEL = re.compile(r"model@([\w-]+)=(.+)")


def run(arguments: Sequence[str]) -> int:
    """One run, or a sweep."""
    return composed("best_of_n", meant(arguments), _one)


def meant(arguments: Sequence[str]) -> list[str]:
    """The arguments as overrides: what is answered, who chooses and who judges, by their short names."""
    from expertchat.sources.words import as_overrides

    return named_parts(as_overrides(arguments))


def _one(job: Job) -> int:
    announce(job)
    from expertchat.choosing.run import run_best_of_n
    from expertchat.views.open import open_choosing

    config: BestOfNConfig = job.config
    return run_best_of_n(config, ["expertchat", "best_of_n", *job.overrides], open_choosing(config.view))


def named_parts(arguments: Sequence[str]) -> list[str]:
    """The short forms of judges and models as Hydra's; everything else as it is.

    >>> named_parts(["chooser=reward_model", "judge=truth", "judge@long=length"])
    ['judge@judges.chooser=reward_model', 'judge@judges.other=truth', '+judge@judges.long=length']
    >>> named_parts(["model=embedded:llama", "base=smollm2_135m", "model@chooser=models/x"])
    ['model=embedded_llama', 'model@base=smollm2_135m', 'model@judges.chooser.model=auto', "judges.chooser.model.path='models/x'"]
    """
    from expertchat.command.named_models import model_overrides

    found: list[str] = []
    for word in arguments:
        key, equals, value = word.partition("=")
        if (made := _WHO.fullmatch(word)) is not None:
            found.append(f"judge@{CHOOSER if made[1] == 'chooser' else OTHER}={made[2]}")
        elif key in ("model", "base") and equals and value not in ("", "null") and "," not in value:
            found += model_overrides(value, key)
        elif word == "base=null":  # as it is where nobody names one
            continue
        elif made := _JUDGE.fullmatch(word):
            there = made[1] in ("chooser", "other")
            found.append(f"{'' if there else '+'}judge@judges.{made[1]}={made[2]}")
        elif (made := _MODEL.fullmatch(word)) and "," not in made[2]:
            found += model_overrides(made[2], f"judges.{made[1]}.model")
        else:
            found.append(word)
    return found


def named(config: BestOfNConfig) -> list[tuple[str, str | None]]:
    """(path, models_dir) of each model that it may have to fetch, and each data set of the hub."""
    from expertchat.command.check_judges import reward_models_here
    from expertchat.sources.rows import HUB

    models = [(model.path, model.models_dir) for _, model in config.experts.items() if model.backend == "local"]
    models += reward_models_here(config.judges.root)
    return models + [(path.removeprefix(HUB).partition(":")[0], None) for path in config.source.path if path.startswith(HUB)]


def check(config: BestOfNConfig, here: bool) -> Problems:
    """What keeps it from being run."""
    from expertchat.command import check_runs as runs
    from expertchat.command.check_judges import reward_models, wordings
    from expertchat.command.checks import told
    from expertchat.sources.read import source_problems
    from expertchat.trackers.tracking import check_trackers

    if config.source.path:
        yield from source_problems(config.source)
    yield from wordings(config.lab)
    yield from reward_models(config.lab, here)
    yield from told(check_trackers, config.report_to)
    yield from runs.texts(config)
    yield from runs.cast(config, "best_of_n", here)


def _wanted(config: BestOfNConfig) -> int:
    return config.count * config.n


def _done(run: RunReader) -> int:
    return sum(1 for _ in run.lines("candidates"))


WORK = Work("a candidate", _wanted, _done)
