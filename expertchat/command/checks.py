"""What can be known of a command before any weight is loaded and anything is written: all of it, at once.

The config itself is checked where it is composed (expertchat.config); here it meets the files, the machine and the models' headers. What
each command looks at stands beside its door.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from expertchat.command import check_places as places
from expertchat.command.table import COMMANDS, find
from expertchat.config import ConfigError
from expertchat.folder.run import run_folder

Problems = Iterator[str]


def problems_of(command: str, config: Any, here: bool = True) -> list[str]:
    """Everything that keeps a checked config from being run. `here` False: it runs on another machine, with models of its own."""
    entry = COMMANDS[command]
    if homeless := list(places.home_problems(config.model_dump())):
        return homeless
    if entry.resumes and (run_folder(config.run.dir, command) / "summary.json").is_file():
        return []  # it is done: nothing of it is needed any more
    return list(dict.fromkeys(find(entry.check)(config, here))) if entry.check else []


def told(make: Callable[..., object], *given: Any) -> list[str]:
    """The problems that `make` raises."""
    try:
        make(*given)
    except ConfigError as error:
        return error.problems
    return []
