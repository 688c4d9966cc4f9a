"""Hydra composes conf/ for a command: runs, sweeps (-m), --cfg, --info, and every problem of the overrides in one list."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
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
}

# A run writes its own folder: Hydra makes none, logs nothing and stays in the current folder.
_SETTINGS = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.sweep.subdir=.")
_SWEEP_DIR = "runs/${now:%Y-%m-%d-%H%M%S}-sweep"
_ERRORS = (HydraException, OmegaConfBaseException, ValueError)  # ValueError: Hydra's own checks of its flags and of odd overrides


@dataclass(frozen=True)
class Job:
    """One job of a command: its checked config, the overrides that made it, and its place in a sweep."""

    config: Any
    overrides: list[str]
    number: int = 0
    jobs: int = 1
    hub: bool = False  # whether any job of the command names a model of the hub


def compose(command: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The plain values of a command's config. Raises ConfigError with every problem."""
    try:
        return values(_compose(command, overrides))
    except _ERRORS as error:
        raise ConfigError(_problems(command, overrides) or _first_line(error)) from None


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


def run(command: str, arguments: Sequence[str], task: Callable[[Job], int]) -> int:
    """Do what `arguments` (overrides and Hydra's flags) ask; `task` runs each job and returns its exit code.

    Raises ConfigError before the first job if any job's config is wrong. A sweep ends at exit code 3 (stopped), else it returns its
    highest code.
    """
    parser = get_args_parser()
    parser.prog = f"expertchat {command}"
    parser.usage = f"expertchat {command} [KEY=VALUE ...] [flags]   (--help shows them)"
    parsed = parser.parse_intermixed_args(list(arguments))
    overrides: list[str] = parsed.overrides
    flags = [word for word in arguments if word not in overrides]
    configs = _configs(command, overrides, sweep=parsed.multirun) if not (parsed.cfg or parsed.info or parsed.hydra_help) else []
    folders = [config.run.dir for config in configs if isinstance(config, ConverseConfig | OnlineDpoConfig)]
    shared = len(folders) > len(set(folders))
    hub = any(isinstance(config, ConverseConfig | OnlineDpoConfig | BenchConfig) and names_hub(config) for config in configs)
    codes: list[int] = []

    def one(config: DictConfig) -> None:
        settings = HydraConfig.get()
        plain = values(config)
        if shared:
            plain["run"]["dir"] = f"{plain['run']['dir'] or settings.sweep.dir}/{settings.job.num}"
        number = settings.job.num if parsed.multirun else 0
        codes.append(task(Job(checked(command, plain), list(settings.overrides.task), number, len(configs), hub)))
        if codes[-1] == 3:
            raise SystemExit(3)

    sweep_dir = str(Path(folders[0]).expanduser()).replace("'", "\\'") if shared and folders[0] else _SWEEP_DIR
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let Hydra raise: the door words the message
    before = sys.argv
    sys.argv = [f"expertchat {command}", *_SETTINGS, f"hydra.sweep.dir='{sweep_dir}'", *overrides, *flags]
    try:
        hydra.main(version_base=None, config_path=str(conf_dir()), config_name=command)(one)()
    except _ERRORS as error:
        raise ConfigError(_problems(command, overrides) or _first_line(error)) from None
    finally:
        sys.argv = before
    return max(codes, default=0)


def names_hub(config: ConverseConfig | OnlineDpoConfig | BenchConfig) -> bool:
    """Whether a model or the embedder is named by a hub id: only then may the network be used."""
    if isinstance(config, BenchConfig):
        return not config.bench.model.startswith("random:") and _of_hub(config.bench.model)
    models = [m for m in (config.experts.a, config.experts.b, config.third) if m is not None and m.backend == "local"]
    places = [(m.path, m.models_dir) for m in models]
    embedder = config.embedder
    if embedder.path != "auto":
        places.append((embedder.path, embedder.models_dir))
    elif any(not path.startswith("embedded:") for path, _ in places):
        places.append(("sentence-transformers/all-mpnet-base-v2", embedder.models_dir))  # what auto means then
    return any(_of_hub(*place) for place in places)


def _of_hub(path: str, models_dir: str | None = None) -> bool:
    if models_dir and (Path(models_dir).expanduser() / path.rpartition("/")[2]).is_dir():
        return False
    return not path.startswith(("embedded:", "/", ".", "~")) and not Path(path).exists()


def _configs(command: str, overrides: Sequence[str], sweep: bool) -> list[Any]:
    """The config of every job. Raises ConfigError with the problems of all of them."""
    if not sweep:
        return [load(command, overrides)]
    problems: list[str] = []
    for override in overrides:
        try:
            _jobs(command, [override])
        except _ERRORS as error:
            problems.append(_explain(command, override, error, []))
    if problems:
        raise ConfigError(problems)
    configs = []
    for job in _jobs(command, overrides):
        try:
            configs.append(load(command, job))
        except ConfigError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise ConfigError(problems)
    return configs


def _compose(command: str, overrides: Sequence[str]) -> DictConfig:
    with hydra.initialize_config_dir(str(conf_dir()), version_base=None):
        return hydra.compose(command, overrides=list(overrides))


def _jobs(command: str, overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job of a sweep."""
    with hydra.initialize_config_dir(str(conf_dir()), version_base=None):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        parsed = [o for o in parser.parse_overrides(list(overrides)) if not o.is_hydra_override()]
        return [list(job) for job in BasicSweeper.split_arguments(parsed, None)[0]]


# -- messages -----------------------------------------------------------------------------------------------------------


def _problems(command: str, overrides: Sequence[str]) -> list[str]:
    """What is wrong with each override alone, and with what the good ones make together; Hydra stops at the first."""
    good: list[str] = []
    failed: dict[str, Exception] = {}
    waiting = list(overrides)
    while waiting:
        failed = {}
        for override in waiting:
            try:
                OmegaConf.to_container(_compose(command, [*good, override]), resolve=True)
                good.append(override)
            except _ERRORS as error:
                failed[override] = error
        if len(failed) == len(waiting):  # an override may need another one that stands after it
            break
        waiting = list(failed)
    problems = [_explain(command, override, error, good) for override, error in failed.items()]
    try:
        checked(command, values(_compose(command, good)))
    except ConfigError as error:
        problems += error.problems
    return problems


def _explain(command: str, override: str, error: Exception, good: Sequence[str]) -> str:
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
        known = [*_keys(_compose(command, good)), *_choices(command)]
        return f"{key}: unknown key{near(key, known) or f'; `expertchat {command} --cfg job` shows the keys there are'}"
    return f"{override}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in re.sub(r"^See https://hydra.*$", "", str(error), flags=re.MULTILINE).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(("full_key", "object_type", "reference_type")))


def _keys(config: DictConfig) -> list[str]:
    """Every dotted key of a config, groups and leaves."""

    def walk(node: Any, place: str) -> list[str]:
        if not isinstance(node, dict):
            return [place]
        return [place, *(key for name, inner in node.items() for key in walk(inner, f"{place}.{name}".lstrip(".")))]

    return [key for key in walk(OmegaConf.to_container(config, resolve=False), "") if key]


def _choices(command: str) -> list[str]:
    """The groups that an override can choose in, as they are written: model@experts.a, topics, ..."""
    with hydra.initialize_config_dir(str(conf_dir()), version_base=None):
        config = hydra.compose(command, return_hydra_config=True)
        return [key for key in config.hydra.runtime.choices if not str(key).startswith("hydra/")]
