"""`expertchat world build|check`: the embedded models, trained again or measured."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from expertchat.doors.entry import composed

if TYPE_CHECKING:
    from expertchat.command.checks import Problems
    from expertchat.command.launch import Job
    from expertchat.world.config import WorldConfig

ACTIONS = ("build", "check")


def run(arguments: Sequence[str]) -> int:
    """Do what the word among the arguments says."""
    action, rest = _take_action(arguments)
    return composed("world", rest, _build if action == "build" else _measure)


def _build(job: Job) -> int:
    from expertchat.folder.writing import saving
    from expertchat.world.recipe import MODELS, build

    with saving(job.config.out or MODELS):
        build(job.config, partial(print, flush=True))
    return 0


def _measure(job: Job) -> int:
    from expertchat.views.outcomes import print_check
    from expertchat.world.check import check as measured

    rows = measured(job.config)
    print_check(rows)
    return 0 if all(row.met is not False for row in rows) else 1


def _take_action(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The word build or check, and the arguments without it; flags that only show something need none. Raises ConfigError."""
    from expertchat.config import ConfigError, near

    rest = list(arguments)
    words = [word for word in rest if "=" not in word and not word.startswith("-")]
    action = next((word for word in words if word in ACTIONS), None)
    if action is not None:
        rest.remove(action)
    elif not any(word.startswith(("--cfg", "-c", "--info", "-i", "--hydra-help")) for word in rest):
        said = f"'{words[0]}' is neither{near(words[0], ACTIONS)}" if words else "it says neither"
        raise ConfigError(f"world wants build or check, and {said} (expertchat world --help)")
    return action, rest


def check(config: WorldConfig, here: bool) -> Problems:
    """What keeps it from being run."""
    from expertchat.command.check_places import new_folder_problem
    from expertchat.world.spoken import run_problems

    if config.out and (problem := new_folder_problem("out", config.out)):
        yield problem
    if here:
        yield from run_problems(config.runs)
