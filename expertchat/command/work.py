"""What of a command takes time: earlier runs show by it how long a job will take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from expertchat.folder.reader import RunReader


@dataclass(frozen=True)
class Work:
    """`unit`: what is counted, "a turn"; `wanted`: how many a config asks for; `done`: how many a run has behind it."""

    unit: str
    wanted: Callable[[Any], int]
    done: Callable[[RunReader], int]
