"""`expertchat tokens MODEL "TEXT" | RUN --turn c0001/3`: how likely each token is, and what else might have stood there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from expertchat.doors.entry import announce, composed

if TYPE_CHECKING:
    from expertchat.command.checks import Problems
    from expertchat.command.launch import Job
    from expertchat.metrics.config import TokensConfig

LITERAL = ("text", "prompt", "turn")  # keys whose values are taken as they stand: quotes, commas and braces are the text's own


def run(arguments: Sequence[str]) -> int:
    """The tokens of a text, or of a turn."""
    from expertchat.command.named_models import with_models

    literal, rest = taken(arguments)
    return composed("tokens", with_models(rest), partial(_one, literal))


def _one(literal: dict[str, str], job: Job) -> int:
    announce(job)
    from expertchat.metrics.tokens import run_tokens
    from expertchat.views.tokens import print_tokens

    config: TokensConfig = job.config
    return run_tokens(config.model_copy(update=literal), print_tokens)


def taken(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The literal texts, and the other arguments with MODEL or RUN as an override. Raises ConfigError for a word too many."""
    from expertchat.config import ConfigError

    literal, rest, words = dict[str, str](), list[str](), list[str]()
    waiting = iter(arguments)
    for word in waiting:
        key, equals, value = word.partition("=")
        if word == "--turn":
            literal["turn"] = next(waiting, "")
        elif (name := key.removeprefix("--")) in LITERAL and equals and (name == "turn" or name == key):
            literal[name] = value
        elif word in VALUED:
            rest += [word, next(waiting, "")]
        elif word.startswith("-") or _is_override(word, bool(words)):
            rest.append(f"continues={value}" if key == "continue" else word)
        else:
            words.append(word)
    if len(words) > 2 or (len(words) == 2 and "text" in literal):
        raise ConfigError(f"tokens takes a model and one text, or a run: here are {len(words)} words; put the text in quotes of the shell")
    if words:
        rest += _target(words[0], "turn" in literal or not literal.keys() | set(words[1:]))
    if len(words) == 2:
        literal["text"] = words[1]
    return literal, rest


VALUED = ("--config", "--cfg", "-c", "--package", "-p", "--info", "-i")  # flags that take the word after them


def _is_override(word: str, named: bool) -> bool:
    """Whether a word is KEY=VALUE: a key is a name of the config. A text behind the model may have = in it."""
    key = word.partition("=")[0].lstrip("+~")
    plain = "=" in word and key.replace("_", "").replace(".", "").replace("@", "").isalnum() and not Path(word).exists()
    return plain and (not named or key.partition(".")[0] in _keys())


def _keys() -> set[str]:
    from expertchat.metrics.config import TokensConfig

    return {*TokensConfig.model_fields, "continue", "hydra"}


def _target(word: str, of_run: bool) -> list[str]:
    """A folder with a run's config is a run, where a turn of it is asked for; else the model that it has trained. All else is a model."""
    from expertchat.command.named_models import model_overrides

    if of_run and (Path(word).expanduser() / "config.yaml").is_file():
        quoted = word.replace("'", "\\'")
        return [f"run='{quoted}'"]
    return model_overrides(word)


def named(config: TokensConfig) -> list[tuple[str, str | None]]:
    """The model that may have to be fetched; a run's is looked for where that can be said."""
    if config.model is None:
        return []
    return [(config.model.path, config.model.models_dir)] if config.model.backend == "local" else []


def check(config: TokensConfig, here: bool) -> Problems:
    """What keeps it from being run."""
    from expertchat.command import check_models as models
    from expertchat.command.check_places import new_file_problem

    if config.out and (problem := new_file_problem("out", config.out)):
        yield problem
    if config.model is not None:
        yield from models.model_problems("model", config.model)
    if config.device is not None:
        yield from models.device_problems({"device": config.device})
