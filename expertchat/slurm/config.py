"""The config of `expertchat submit`: what a job asks of a cluster. Nothing of it changes what a run writes."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from expertchat.config import Group, Text

# The forms of sbatch: minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes, days-hours:minutes:seconds.
_TIME = re.compile(r"(?:(?P<days>\d+)-(?P<h>\d+)(?::(?P<m>\d+)(?::(?P<s>\d+))?)?)|(?P<clock>\d+(?::\d+){0,2})")
_MEMORY = re.compile(r"(\d+)([KMGT])?", re.IGNORECASE)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class ClusterConfig(Group):
    """One cluster and what to ask it for. `scheduler` local: no Slurm, the job runs in the background of this machine."""

    scheduler: Literal["slurm", "local"]
    account: Text | None = None
    time: Text  # the limit of one start; a run that needs more is requeued
    nodes: int = Field(ge=1, le=64)
    gpus: int = Field(ge=0, le=64)  # of a node
    gpu_type: Text | None = None
    gpu_gib: float | None = Field(default=None, gt=0)  # memory of a GPU
    cpus: int = Field(ge=1, le=1024)  # cores of a node for the job
    memory: Text  # of a node's main memory for the job
    partition: Text | None = None
    options: Annotated[list[Text], Field(default_factory=list)]  # more of sbatch's: --mail-type=END
    processes: int | None = Field(default=None, ge=1, le=4096)  # train.sharding=ddp|fsdp: on each node; None: one for each GPU
    modules: Annotated[list[Text], Field(default_factory=list)]
    wheelhouse: Text | None = None
    venv: Text | None = None
    archives: Text | None = None
    signal_seconds: int = Field(ge=10, le=3600)
    requeues: int = Field(ge=0, le=1000)

    @field_validator("time", mode="before")
    @classmethod
    def _clock(cls, value: object) -> object:
        """A file's 3:00:00 without quotes comes as 10800, for so YAML has it, and would be minutes."""
        if not isinstance(value, int) or value < 3600:
            return value
        clock, days = f"{value // 3600}:{value // 60 % 60:02}:{value % 60:02}", f"{value // 1440}-{value // 60 % 24}:{value % 60:02}"
        raise ValueError(f'is {clock} without quotes to YAML, or so many minutes; write "{clock}" with quotes, or "{days}"')

    @field_validator("time")
    @classmethod
    def _time(cls, text: str) -> str:
        if seconds(text) is None:
            raise ValueError("is no time limit: write minutes, hours:minutes:seconds or days-hours:minutes, e.g. 90, 3:00:00, 1-12:00")
        return text

    @field_validator("memory")
    @classmethod
    def _memory(cls, text: str) -> str:
        if not _MEMORY.fullmatch(text):
            raise ValueError("is no amount of memory: write a number with K, M, G or T, e.g. 12G (without a letter it is MiB)")
        return text

    @field_validator("options")
    @classmethod
    def _options(cls, options: list[str]) -> list[str]:
        if bad := [option for option in options if not re.fullmatch(r"--[a-z][\w-]*(=[^\n]*)?", option)]:
            raise ValueError(f"are sbatch's, one a text, as --name=value; not {', '.join(map(repr, bad))}")
        return options

    @field_validator("account", "partition", "gpu_type")
    @classmethod
    def _word(cls, text: str | None) -> str | None:
        if not text:  # a variable of the environment that was emptied (SBATCH_ACCOUNT=)
            return None
        if not re.fullmatch(r"[\w.,:-]+", text):
            raise ValueError("must be one word")
        return text

    @model_validator(mode="after")
    def _fits(self) -> ClusterConfig:
        problems = []
        if self.gpus and self.gpu_gib is None:
            problems.append("cluster.gpu_gib is not set: how much memory has one GPU? The memory plan needs it, e.g. cluster.gpu_gib=16")
        if self.wheelhouse and self.venv:
            problems.append("cluster.wheelhouse and cluster.venv are two ways to the same end: set one of them to null")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def seconds(self) -> int:
        """The time limit of one start."""
        return seconds(self.time) or 0

    @property
    def bytes(self) -> int:
        """Main memory of a node for the job."""
        match = _MEMORY.fullmatch(self.memory)
        return int(match[1]) * _UNITS[(match[2] or "M").upper()] if match else 0

    @property
    def ranks(self) -> int:
        """Processes of a run that is shared out among several, over all nodes."""
        return self.nodes * (self.processes or max(1, self.gpus))


class SubmitConfig(Group):
    """`expertchat submit`."""

    cluster: ClusterConfig


def seconds(text: str) -> int | None:
    """A time limit as sbatch reads it; None where it would not, and for 0."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    if match["days"] is not None:
        parts = [int(match[name] or 0) for name in ("h", "m", "s")]
        total = int(match["days"]) * 86400 + parts[0] * 3600 + parts[1] * 60 + parts[2]
    else:
        numbers = [int(part) for part in match["clock"].split(":")]
        total = {1: lambda: numbers[0] * 60, 2: lambda: numbers[0] * 60 + numbers[1]}.get(
            len(numbers), lambda: numbers[0] * 3600 + numbers[1] * 60 + numbers[2]
        )()
    return total or None
