"""The config of `expertchat world build | check`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from expertchat.config import Group, Text
from expertchat.text.wordings import Prompts


class WorldConfig(Group):
    """`expertchat world build | check`."""

    seed: int = Field(ge=0, lt=2**63)
    out: Text | None = None  # build: the folder of the new models; unset, those in the package are replaced
    experts: Annotated[list[Literal["a", "b", "embedder"]], Field(min_length=1)]
    million_tokens: float = Field(gt=0, le=10_000)  # build: training text of each expert
    dialogues: int = Field(ge=1, le=1_000_000)  # check: unseen dialogues, and at most so many of `runs`
    runs: list[Text] = Field(default_factory=list)  # check: runs whose trained policies' dialogues are judged as well
    threads: int = Field(ge=1, le=1024)
    prompts: Prompts
