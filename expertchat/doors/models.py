"""`expertchat models [verify NAME ...]`: which models are here and whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from expertchat.doors.entry import composed

if TYPE_CHECKING:
    from expertchat.command.checks import Problems
    from expertchat.command.launch import Job
    from expertchat.plan.config import ModelsConfig


def run(arguments: Sequence[str]) -> int:
    """The models as a table."""
    return composed("models", _verify(arguments), _one)


def _one(job: Job) -> int:
    from expertchat.plan.models import run_models
    from expertchat.views.models import print_models

    return run_models(job.config, print_models)


def _verify(arguments: Sequence[str]) -> list[str]:
    """`verify NAME ...` as overrides; other words stay as they are, for Hydra to refuse."""
    words = [word for word in arguments if "=" not in word and not word.startswith("-")]
    if "verify" not in words[:1]:
        return list(arguments)
    names = ",".join(f"'{word}'" for word in words[1:])
    others = [word for word in arguments if word not in words]
    return [*others, "verify=true", *([f"names=[{names}]"] if names else [])]


def check(config: ModelsConfig, here: bool) -> Problems:
    """What keeps it from being run."""
    from expertchat.command.check_places import new_file_problem

    if config.models_dir and not Path(config.models_dir).expanduser().is_dir():
        yield f"models_dir={config.models_dir}: no such folder; create it, or correct EXPERTCHAT_MODELS or models_dir"
    if config.out and (problem := new_file_problem("out", config.out)):
        yield problem
