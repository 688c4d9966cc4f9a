"""`expertchat talk MODEL|RUN`: a prompt loop on a terminal, and prompts from a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from expertchat.doors.entry import announce, composed, say

if TYPE_CHECKING:
    from expertchat.command.checks import Problems
    from expertchat.command.launch import Job
    from expertchat.prompting.config import TalkConfig

LITERAL = "system="  # its value is taken as it stands: quotes, commas and braces are the text's own


def run(arguments: Sequence[str]) -> int:
    """Talk on the terminal, or answer what comes on standard input."""
    literal, rest = taken(arguments)
    return composed("talk", rest, partial(_one, literal))


def taken(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The literal texts, and the other arguments with MODEL or RUN as overrides. Raises ConfigError for a word too many."""
    from expertchat.command.named_models import model_overrides, with_models
    from expertchat.config import ConfigError
    from expertchat.sources.words import is_source

    literal, rest, words, flag = dict[str, str](), list[str](), list[str](), ""
    for word in arguments:
        if word.startswith(LITERAL):
            literal["system"] = word.removeprefix(LITERAL)
        elif is_source(word, flag):
            words.append(word)
        else:
            rest.append(word)
        flag = word
    if len(words) > 1:
        raise ConfigError(f"talk takes one model, or one run: here are {', '.join(words)}")
    return literal, [*(one for word in words for one in model_overrides(word)), *with_models(rest)]


def _one(literal: dict[str, str], job: Job) -> int:
    announce(job)
    from expertchat.prompting.model import need_model

    config: TalkConfig = job.config.model_copy(update=literal)
    need_model(config)
    if config.prompts.file is not None:
        from expertchat.prompting.table import run_table

        return left(run_table(config, say))
    if sys.stdin.isatty() and sys.stdout.isatty():
        from expertchat.prompting.session import run_talk
        from expertchat.views.prompting import TalkScreen

        return left(run_talk(config, TalkScreen()))
    from expertchat.prompting.lines import run_lines

    if sys.stdin.isatty():
        say("one prompt a line, answers go to standard output; Ctrl-D ends")
    return run_lines(config, _lines(), partial(print, flush=True), say)


def _lines() -> Sequence[str]:
    return sys.stdin  # type: ignore[return-value]


def left(code: int) -> int:
    """Leave though a model may still be loading: torch must not be taken away under it."""
    import threading

    if any(thread.name == "loading" for thread in threading.enumerate()):
        sys.stdout.flush()
        os._exit(code)
    return code


def named(config: TalkConfig) -> list[tuple[str, str | None]]:
    """The model that may have to be fetched."""
    if config.model is None:
        return []
    return [(config.model.path, config.model.models_dir)] if config.model.backend == "local" else []


def check(config: TalkConfig, here: bool) -> Problems:
    """What keeps it from being run."""
    from expertchat.command import check_models as models
    from expertchat.command.checks import told
    from expertchat.experts.registry import family_class
    from expertchat.prompting.table import table_problems
    from expertchat.sources.instructions import find_template
    from expertchat.training.single import read_prompts

    if config.template != "auto":
        yield from (problem.replace("data.template=", "template=", 1) for problem in told(find_template, config.template))
    if config.model is not None:
        yield from (f"model.{problem}" for problem in told(family_class, config.model.family))
        yield from models.model_problems("model", config.model)
    if config.device is not None:
        yield from models.device_problems({"device": config.device})
    yield from table_problems(config)
    if config.prompts.file is not None:
        yield from told(read_prompts, config.prompts.file, config.prompts.column)
