"""`expertchat sft FILE|RUN`: a model is taught by rows of prompts and completions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from expertchat.command.taught import taught
from expertchat.command.work import Work
from expertchat.doors.entry import announce, composed, say
from expertchat.doors.guard import FIRST

if TYPE_CHECKING:
    from expertchat.command.checks import Problems
    from expertchat.command.launch import Job
    from expertchat.folder.reader import RunReader
    from expertchat.training.sft_config import SftConfig

SHOWN = 3  # rows that --show shows where it names no number


def run(arguments: Sequence[str]) -> int:
    """One run, or a sweep; with --show N the tokens of some rows, and nothing is trained."""
    show, rest = _shown(arguments)
    return composed("sft", taught(rest), partial(_show, show) if show else _one)


def _shown(arguments: Sequence[str]) -> tuple[int, list[str]]:
    """The number of --show, 0 without it, and the other words. Raises ConfigError."""
    from expertchat.config import ConfigError

    show, rest, words = 0, list[str](), list(arguments)
    while words:
        word = words.pop(0)
        if word != "--show" and not word.startswith("--show="):
            rest.append(word)
            continue
        said = word[7:] if "=" in word else words.pop(0) if words and words[0].isdigit() else str(SHOWN)
        if not said.isdigit() or not int(said):
            raise ConfigError(f"--show {said}: shows so many rows with their tokens; name a number, --show 3")
        show = int(said)
    return show, rest


def _one(job: Job) -> int:
    announce(job)
    from expertchat.training.ranks import own_gpu

    own_gpu()  # before anything below asks torch for GPUs
    from expertchat.training.offline import run_offline
    from expertchat.training.sft_run import SftRun
    from expertchat.views.open import open_view

    view = open_view(job.config.view if FIRST else "none")
    return run_offline(SftRun, job.config, ["expertchat", "sft", *job.overrides], view)


def _show(count: int, job: Job) -> int:
    announce(job)
    from expertchat.training.sft_shown import shown_rows
    from expertchat.views.taught import print_rows

    print_rows(shown_rows(job.config, count, say))
    return 0


def named(config: SftConfig) -> list[tuple[str, str | None]]:
    """The model that may have to be fetched, and data sets of the hub."""
    from expertchat.sources.rows import HUB

    hub = [path.removeprefix(HUB).partition(":")[0] for path in config.data.path if path.startswith(HUB)]
    return [*((path, None) for path in hub), (config.model.path, config.model.models_dir)]


def check(config: SftConfig, here: bool) -> Problems:
    """What keeps it from being run."""
    from expertchat.training.ranks import own_gpu

    if config.train.sharding != "pipeline":
        own_gpu()  # of several processes each has one, and torch must not have been asked before it is chosen
    from expertchat.command.check_offline import offline
    from expertchat.command.checks import told
    from expertchat.folder.run import run_folder
    from expertchat.sources.demonstrations import place_problems
    from expertchat.sources.instructions import find_template

    if not (run_folder(config.run.dir, "sft") / "demonstrations.jsonl").is_file():  # else its rows are kept there
        yield from place_problems(config.data)
    yield from told(find_template, config.data.template)
    yield from offline(config, "sft", here)


def _done(run: RunReader) -> int:
    return sum(one.kind == "round" for one in run.metrics())


WORK = Work("a round", lambda config: config.rounds, _done)
