"""What of a command takes time: earlier runs show by it how long a job will take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Work:
    """`unit`: what is counted, "a turn"; `wanted`: how many a config asks for; `done`: how many a run with this config has behind it."""

    unit: str
    wanted: Callable[[Any], int]
    done: Callable[[Path, Mapping[str, Any]], int]
