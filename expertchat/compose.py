"""Hydra composes conf/ for a command, pydantic checks it, and every problem of the overrides comes in one list."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import hydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from expertchat.config import (
    BenchConfig,
    ConfigError,
    ConverseConfig,
    Group,
    ModelsConfig,
    PlanConfig,
    WorldConfig,
    conf_dir,
    near,
    validate,
)
from expertchat.slurm.config import SubmitConfig
from expertchat.training.config import OnlineDpoConfig
from expertchat.training.merge_config import MergeConfig

COMMANDS: dict[str, type[Group]] = {
    "converse": ConverseConfig,
    "online_dpo": OnlineDpoConfig,
    "merge": MergeConfig,
    "bench": BenchConfig,
    "plan": PlanConfig,
    "models": ModelsConfig,
    "world": WorldConfig,
    "submit": SubmitConfig,
}

ERRORS = (HydraException, OmegaConfBaseException, ValueError)  # ValueError: Hydra's own checks of its flags and of odd overrides


def compose(command: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The plain values of a command's config. Raises ConfigError with every problem."""
    try:
        return values(compose_dict(command, overrides))
    except ERRORS as error:
        raise ConfigError(problems_of(command, overrides) or first_line(error)) from None


def load(command: str, overrides: Sequence[str] = ()) -> Any:
    """The checked config of a command (ConverseConfig, WorldConfig). Raises ConfigError with every problem."""
    return checked(command, compose(command, overrides))


def values(config: DictConfig) -> dict[str, Any]:
    """A composed config as plain values; what has no value yet is "???"."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def checked(command: str, plain: dict[str, Any]) -> Any:
    """Plain values as the command's config. Raises ConfigError with every problem, missing values among them."""
    missing = sorted(OmegaConf.missing_keys(OmegaConf.create(plain)))
    problems = [f"{key}: has no value; give it one: {key}=VALUE" for key in missing]
    try:
        config = validate(COMMANDS[command], plain)
    except ConfigError as error:
        problems += [problem for problem in error.problems if problem.split(": ")[0] not in missing]
    if problems:
        raise ConfigError(problems)
    return config


def compose_dict(command: str, overrides: Sequence[str]) -> DictConfig:
    with hydra.initialize_config_dir(str(conf_dir()), version_base=None):
        return hydra.compose(command, overrides=list(overrides))


def hydra_settings(command: str, overrides: Sequence[str]) -> DictConfig:
    """Hydra's own settings. Raises ConfigError with every problem of the overrides, which are all Hydra's."""
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base=None, job_name=f"expertchat-{command}"):
            settings = hydra.compose(command, overrides=list(overrides), return_hydra_config=True).hydra
            OmegaConf.resolve(settings.sweep)
            OmegaConf.resolve(settings.launcher)
            return settings
    except ERRORS as error:
        raise ConfigError(problems_of(command, overrides) or first_line(error)) from None


# -- messages -----------------------------------------------------------------------------------------------------------


def problems_of(command: str, overrides: Sequence[str]) -> list[str]:
    """What is wrong with each override alone, and with what the good ones make together; Hydra stops at the first."""
    good: list[str] = []
    failed: dict[str, Exception] = {}
    waiting = list(overrides)
    while waiting:
        failed = {}
        for override in waiting:
            try:
                OmegaConf.to_container(compose_dict(command, [*good, override]), resolve=True)
                good.append(override)
            except ERRORS as error:
                failed[override] = error
        if len(failed) == len(waiting):  # an override may need another one that stands after it
            break
        waiting = list(failed)
    problems = [explain(command, override, error, good) for override, error in failed.items()]
    try:
        checked(command, values(compose_dict(command, good)))
    except ConfigError as error:
        problems += error.problems
    return problems


def explain(command: str, override: str, error: Exception, good: Sequence[str]) -> str:
    """Hydra's error about one override as one line with a remedy."""
    message = str(error)
    key = override.lstrip("+~").split("=")[0]
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        return f"{override}: there is no {group} '{name}'{near(name, error.options) or ';'} there are {', '.join(error.options)}"
    if any(words in message for words in ("Error parsing override", "no viable alternative", "LexerNoViableAlt", "mismatched input")):
        return f"{override}: is no override; write KEY=VALUE, and quote what holds spaces, commas, brackets or =: 'KEY=\"a, b\"'"
    if "Ambiguous value" in message or "--multirun" in message:
        return f"{override}: is a sweep or a list; add -m to run each value, or write {key}=[...] for a list, {key}='\"...\"' for a text"
    if "Could not append" in message and "already" in message:
        return f"{override}: is there already; write it without the +"
    if "Did you mean to override one of" in message:
        places = message.split("one of ")[1].split("\n")[0].rstrip("?").strip()
        return f"{override}: say whose: {places}"
    if override.startswith(("experiment=", "model@third=")):
        return f"{override}: is not in the config yet; write +{override}"
    if any(words in message for words in ("Could not override", "does not exist", "not in struct")):
        known = [*keys_of(_plain(compose_dict(command, good))), *_choices(command)]
        if of_hydra(override):
            known = [f"hydra.{name}" for name in keys_of(_plain(hydra_settings(command, [text for text in good if of_hydra(text)])))]
        return f"{key}: unknown key{near(key, known) or f'; `expertchat {command} --cfg job` shows the keys there are'}"
    return f"{override}: {first_line(error.__cause__ or error)}"


def of_hydra(override: str) -> bool:
    return override.lstrip("+~").startswith(("hydra.", "hydra/"))


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in re.sub(r"^See https://hydra.*$", "", str(error), flags=re.MULTILINE).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(("full_key", "object_type", "reference_type")))


def keys_of(plain: Any, place: str = "") -> list[str]:
    """Every dotted key of plain values, groups and leaves."""
    own = [place] if place else []
    if not isinstance(plain, dict):
        return own
    return own + [key for name, inner in plain.items() for key in keys_of(inner, f"{place}.{name}".lstrip("."))]


def _plain(config: DictConfig) -> Any:
    return OmegaConf.to_container(config, resolve=False)


def _choices(command: str) -> list[str]:
    """The groups that an override can choose in, as they are written: model@experts.a, topics, ..."""
    with hydra.initialize_config_dir(str(conf_dir()), version_base=None):
        config = hydra.compose(command, return_hydra_config=True)
        return [key for key in config.hydra.runtime.choices if not str(key).startswith("hydra/")]
