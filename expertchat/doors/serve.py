"""`expertchat serve MODEL [-- COMMAND ...]`: a model behind an address, by vLLM."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from expertchat.doors.entry import announce, composed

if TYPE_CHECKING:
    from expertchat.command.checks import Problems
    from expertchat.command.launch import Job
    from expertchat.serving.config import ServeConfig

BESIDE = "--"  # what stands behind it is a command that runs while the model is served


def run(arguments: Sequence[str]) -> int:
    """Serve until a signal comes, or while a command runs."""
    words = list(arguments)
    place = words.index(BESIDE) if BESIDE in words else len(words)
    return composed("serve", meant(words[:place]), partial(_one, beside(words[place + 1 :])))


def meant(arguments: Sequence[str]) -> list[str]:
    """The words with MODEL as overrides. Raises ConfigError for a word too many.

    >>> meant(["models/x", "server.gpus=2"])
    ['model=auto', "model.path='models/x'", 'server.gpus=2']
    """
    from expertchat.command.named_models import model_overrides, with_models
    from expertchat.config import ConfigError
    from expertchat.sources.words import is_source

    rest, words, flag = list[str](), list[str](), ""
    for word in arguments:
        (words if is_source(word, flag) else rest).append(word)
        flag = word
    if len(words) > 1:
        raise ConfigError(f"serve takes one model: here are {', '.join(words)}; a command beside it stands behind {BESIDE}")
    return [*(one for word in words for one in model_overrides(word)), *with_models(rest)]


def beside(words: Sequence[str]) -> list[str]:
    """A command of ours, with or without `expertchat` before it, by this very program; any other as it is."""
    from expertchat.command.table import COMMANDS

    given = list(words)
    if given[:1] == ["expertchat"]:
        given = given[1:]
    return [sys.executable, "-m", "expertchat.cli", *given] if given[:1] and given[0] in COMMANDS else list(words)


def _one(given: Sequence[str], job: Job) -> int:
    announce(job)
    from expertchat.serving.run import run_serve
    from expertchat.views.open import open_serving

    config: ServeConfig = job.config
    return run_serve(config, ["expertchat", "serve", *job.overrides], open_serving(config.view, sys.stderr if given else None), given)


def check(config: ServeConfig, here: bool) -> Problems:
    """What keeps it from being served."""
    from expertchat.backends.folders import find_here
    from expertchat.command.check_models import short
    from expertchat.command.check_places import new_folder_problem
    from expertchat.command.checks import told
    from expertchat.folder.run import run_folder
    from expertchat.serving.vllm import model_problems, server_problems

    if problem := new_folder_problem("run.dir", run_folder(config.run.dir, "serve")):
        yield problem
    yield from server_problems(config.server, here)
    model = config.model
    wrong = list(model_problems(model))
    yield from wrong
    if here and not wrong:
        for problem in told(find_here, model.path, model.revision, None, model.models_dir):
            yield f"model.path={model.path}: {short(problem, model.path)}"


def named(config: ServeConfig) -> list[tuple[str, str | None]]:
    """The model that may have to be fetched."""
    return [(config.model.path, config.model.models_dir)]
