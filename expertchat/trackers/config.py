"""Which trackers a run reports to. Nothing here imports one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Tracker = Literal["wandb", "trackio", "tensorboard"]
ReportTo = Annotated[list[Tracker], Field(default_factory=list)]
