"""One run spread over the tasks of a job array: each does a part of the dialogues, or has a seed of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

from expertchat.command.table import COMMANDS
from expertchat.config import ConfigError

Spread = Literal["topics", "seeds"]


class Array(NamedTuple):
    """`tasks` of them, `at_once` at most at the same time."""

    tasks: int
    at_once: int | None
    spread: Spread


def parse(text: str, spread: str | None, command: str) -> Array:
    """ "4", "4%2"; spread None: topics where these can be shared out, else seeds. Raises ConfigError."""
    match = re.fullmatch(r"(\d{1,5})(?:%(\d{1,5}))?", text)
    if match is None or not 2 <= int(match[1]) <= 10_000 or match[2] == "0":
        raise ConfigError(f"--array {text}: write the number of tasks (2 to 10000), and how many run at once at most: 4 or 4%2")
    can_part = COMMANDS[command].parts
    wanted = spread or ("topics" if can_part else "seeds")
    if wanted == "topics" and not can_part:
        others = ", ".join(name for name, entry in COMMANDS.items() if entry.parts)
        raise ConfigError(f"--spread topics is for {others}; the tasks of {command} can have a seed each: --spread seeds")
    return Array(int(match[1]), int(match[2]) if match[2] else None, "topics" if wanted == "topics" else "seeds")


def task_folder(folder: Path, task: int) -> Path:
    """Where a task's own run lies."""
    return folder / f"task-{task}"


def overrides(array: Array, task: int, config: Any) -> list[str]:
    """What a task's config has that the whole one has not. Raises ConfigError."""
    if array.spread == "seeds":
        return [f"run.seed={config.run.seed + task}"]
    if config.conversation.count < array.tasks:
        raise ConfigError(
            f"--array {array.tasks} has more tasks than there are dialogues (conversation.count={config.conversation.count}): take fewer"
        )
    return [f"conversation.part=[{task},{array.tasks}]"]
