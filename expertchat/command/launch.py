"""What a command line asks for: one run, a frozen one, a sweep here or elsewhere, or a look at the config."""

from __future__ import annotations

import os
import sys
import time
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
from hydra.types import RunMode
from omegaconf import DictConfig

from expertchat.backends.folders import is_hub_id
from expertchat.command.checks import problems_of as problems_before
from expertchat.command.compose import ERRORS, explain, hydra_says, hydra_settings, key_of, load, of_hydra, problems_of, without_wrong
from expertchat.command.frozen import load_frozen
from expertchat.command.named_models import quoted
from expertchat.command.overrides import mended
from expertchat.command.table import COMMANDS, find
from expertchat.config import ConfigError, conf_dir
from expertchat.text.redaction import given_secrets

# A run writes its own folder: Hydra makes none, logs nothing and stays in the current folder.
_SETTINGS = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.sweep.subdir=.")
_LAUNCHER = "hydra/launcher="


@dataclass(frozen=True)
class Job:
    """One job of a command: its checked config, the overrides that made it, and its place in a sweep."""

    config: Any
    overrides: list[str]
    number: int = 0
    jobs: int = 1


Launch = Callable[[str, Sequence[str], str], tuple[list[Job], list[int]]]
"""What runs a sweep elsewhere: of a command, its overrides and a launcher's name it makes the jobs and their exit codes."""


def run(
    command: str,
    arguments: Sequence[str],
    task: Callable[[Job], int],
    launch: Launch | None = None,
    after: Callable[[list[Job]], object] | None = None,
) -> int:
    """Do what `arguments` (overrides and Hydra's flags, or --config) ask; `task` runs each job and returns its exit code.

    `launch` runs the sweeps that name a launcher; a command without it sweeps here alone. `after` hears of the jobs of a sweep that was not
    stopped. Raises ConfigError before the first job if any job's config is wrong. A sweep ends at exit code 3 (stopped), else it returns
    its highest code.
    """
    arguments = without_secrets([mended(word) for word in arguments])
    arguments, file = _take_file(arguments)
    if file is not None:
        config = load_frozen(command, file, arguments)
        check(command, [config])
        return task(Job(config, ["--config", file, *arguments]))
    parser = get_args_parser()
    parser.prog = f"expertchat {command}"
    parser.usage = f"expertchat {command} [KEY=VALUE ...] [flags]   (--help shows them)"
    parsed = parser.parse_intermixed_args(list(arguments))
    overrides: list[str] = parsed.overrides
    flags = [word for word in arguments if word not in overrides]
    if parsed.cfg or parsed.info or parsed.hydra_help:
        return _with_hydra(command, overrides, flags, [], task)
    if not parsed.multirun:
        config = load_whole(command, overrides)
        job = Job(config, [text for text in overrides if not of_hydra(text)])
        return _with_hydra(command, overrides, flags, [job], task)
    launcher = next((text.removeprefix(_LAUNCHER) for text in reversed(overrides) if text.startswith(_LAUNCHER)), "basic")
    if launcher == "basic":
        jobs, settings = sweep_jobs(command, overrides)
        code = _with_hydra(command, [*overrides, _sweep_dir(settings.sweep.dir)], flags, jobs, task)
    elif launch is not None:
        jobs, codes = launch(command, overrides, launcher)
        code = max(codes, default=0)
    else:
        raise ConfigError(f"{_LAUNCHER}{launcher}: a sweep of {command} runs here, one job after another; leave this away")
    if after is not None and code != 3:
        after(jobs)
    return code


def without_secrets(words: Sequence[str]) -> list[str]:
    """`words`, if none of them holds a key or a token. Raises ConfigError: whatever they say is kept and shown."""
    if problems := given_secrets(words):
        raise ConfigError(problems)
    return list(words)


def check(command: str, configs: Sequence[Any], here: bool = True) -> None:
    """Raise ConfigError with everything that keeps the configs from being run, before any model is loaded or anything written."""
    if not names_hub(command, configs):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before the hub's client is imported, which reads it once
    if problems := [problem for config in configs for problem in problems_before(command, config, here)]:
        raise ConfigError(list(dict.fromkeys(problems)))


def load_whole(command: str, overrides: Sequence[str], here: bool = True) -> Any:
    """The config of a command, itself and all that it names checked; `here`: for this machine. Raises ConfigError.

    Where the config itself is wrong, what else is wrong with what the overrides name is told with it.
    """
    try:
        config = load(command, overrides)
    except ConfigError as error:
        rest, kept, more = without_wrong(command, overrides)
        if rest is not None:
            more = [*more, *problems_before(command, rest, here)]
        keys = [key_of(override) for override in kept]
        others = [problem for problem in more if any(key in problem for key in keys) and problem not in error.problems]
        raise ConfigError([*error.problems, *dict.fromkeys(others)]) from None
    check(command, [config], here)
    return config


def sweep_jobs(command: str, overrides: Sequence[str], here: bool = True) -> tuple[list[Job], DictConfig]:
    """The jobs of a sweep, each with its checked config and its own run folder, and Hydra's settings (folder, launcher).

    `here`: on this machine, whose models and devices are looked at. All is decided here and now: what a job does depends neither
    on when nor on where it runs. Raises ConfigError.
    """
    lists, configs = _configs(command, overrides)
    runs = configs if COMMANDS[command].resumes else []
    folders = [config.run.dir for config in runs]
    shared = None in folders or len(folders) > len(set(folders))
    folder = Path(folders[0]).expanduser() if shared and folders[0] else time.strftime("runs/%Y-%m-%d-%H%M%S-sweep")
    settings = hydra_settings(command, [_sweep_dir(folder), *filter(of_hydra, overrides)])
    if shared:
        places = [f"{config.run.dir or settings.sweep.dir}/{number}" for number, config in enumerate(runs)]
        configs = [c.model_copy(update={"run": c.run.model_copy(update={"dir": place})}) for c, place in zip(runs, places, strict=True)]
    check(command, configs, here)
    return [Job(config, words, i, len(lists)) for i, (config, words) in enumerate(zip(configs, lists, strict=True))], settings


def _with_hydra(command: str, overrides: Sequence[str], flags: Sequence[str], jobs: Sequence[Job], task: Callable[[Job], int]) -> int:
    """Let Hydra do what the words ask and begin each of the jobs. Returns the highest exit code."""
    codes: list[int] = []

    def one(config: DictConfig) -> None:
        settings = HydraConfig.get()
        codes.append(task(jobs[settings.job.num if settings.mode == RunMode.MULTIRUN else 0]))
        if codes[-1] == 3:
            raise SystemExit(3)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # let Hydra raise: the door words the message
    before = sys.argv
    sys.argv = [f"expertchat {command}", *_SETTINGS, *overrides, *flags]
    try:
        hydra.main(version_base=None, config_path=str(conf_dir()), config_name=COMMANDS[command].root)(one)()
    except ERRORS as error:
        raise ConfigError(problems_of(command, overrides) or hydra_says(error)) from None
    except OSError as error:  # of Hydra itself: a job says what it has to say by its code
        raise ConfigError(f"hydra.sweep.dir: cannot write {error.filename}: {error.strerror}; name another folder with run.dir") from None
    finally:
        sys.argv = before
    return max(codes, default=0)


def names_hub(command: str, configs: Sequence[Any]) -> bool:
    """Whether a model or the embedder is named by a hub id: only then may the network be used."""
    place = COMMANDS[command].models
    return place is not None and any(is_hub_id(*model) for config in configs for model in find(place)(config))


def _take_file(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """The arguments without --config FILE, and the file. Raises ConfigError."""
    rest, files = [], []
    words = iter(arguments)
    for word in words:
        if word == "--config" or word.startswith("--config="):
            files.append(word[9:] if "=" in word else next(words, ""))
        else:
            rest.append(word)
    if not files:
        return rest, None
    if len(files) > 1:
        raise ConfigError(f"--config: a run has one config, and here are {len(files)}: {', '.join(files)}")
    if not files[0]:
        raise ConfigError("--config: names no file; a run's is RUN/config.yaml")
    if flags := [word for word in rest if word.startswith("-")]:
        raise ConfigError(f"--config: is one whole run and goes with KEY=VALUE alone; leave {' '.join(flags)} or --config away")
    return rest, files[0]


# -- sweeps -------------------------------------------------------------------------------------------------------------


def _configs(command: str, overrides: Sequence[str]) -> tuple[list[list[str]], list[Any]]:
    """The overrides and the config of every job of a sweep. Raises ConfigError with the problems of all of them."""
    problems: list[str] = []
    for override in overrides:
        try:
            _jobs(command, [override])
        except ERRORS as error:
            problems.append(explain(command, override, error, []))
    if problems:
        raise ConfigError(problems)
    jobs, configs = _jobs(command, overrides), []
    for job in jobs:
        try:
            configs.append(load(command, job))
        except ConfigError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise ConfigError(problems)
    return jobs, configs


def _sweep_dir(folder: object) -> str:
    return f"hydra.sweep.dir={quoted(str(folder))}"


def _jobs(command: str, overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job of a sweep."""
    with hydra.initialize_config_dir(str(conf_dir()), version_base=None):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        parsed = [o for o in parser.parse_overrides(list(overrides)) if not o.is_hydra_override()]
        return [list(job) for job in BasicSweeper.split_arguments(parsed, None)[0]]
