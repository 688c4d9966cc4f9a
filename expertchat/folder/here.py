"""Whether this process runs inside a Slurm job, and in which."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple


class Place(NamedTuple):
    """A job: its id as Slurm's commands take it ("123", or "123_4" for a task of an array), and how often it was requeued."""

    job: str
    restarts: int


def place(environment: Mapping[str, str] | None = None) -> Place | None:
    """The job that this process belongs to; None outside of one."""
    values = os.environ if environment is None else environment
    job = values.get("SLURM_JOB_ID", "")
    if not job:
        return None
    if values.get("SLURM_ARRAY_JOB_ID") and values.get("SLURM_ARRAY_TASK_ID"):
        job = f"{values['SLURM_ARRAY_JOB_ID']}_{values['SLURM_ARRAY_TASK_ID']}"
    restarts = values.get("SLURM_RESTART_COUNT", "0")
    return Place(job, int(restarts) if restarts.isdigit() else 0)
