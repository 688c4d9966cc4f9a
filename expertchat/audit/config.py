"""The config of `expertchat audit`. Nothing here imports numpy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from expertchat.config import Group, Text
from expertchat.sources.config import SourceConfig

SUFFIXES = (".md", ".csv", ".json")


class AuditConfig(Group):
    """`expertchat audit`. `source`: what is read together; `labels`: folders or files of what people said of the same items.

    `against`: what a judge should agree with; auto takes the first that is there of truth, label (the source's own) and people.
    """

    source: SourceConfig
    labels: list[Text] = Field(default_factory=list)
    against: Literal["auto", "truth", "label", "people"]
    category: Text | None = None
    resamples: int = Field(ge=200, le=100_000)
    seed: int = Field(ge=0, lt=2**63)
    out: Text | None = None
    plot: Text | None = None

    @field_validator("source")
    @classmethod
    def _named(cls, source: SourceConfig) -> SourceConfig:
        if not source.path:
            raise ValueError("path names nothing: name a folder of expertchat judge, or a run: expertchat audit SOURCE ...")
        return source

    @field_validator("out")
    @classmethod
    def _table(cls, out: str | None) -> str | None:
        if out is not None and not out.endswith(SUFFIXES):
            raise ValueError(f"must end in {', '.join(SUFFIXES)}")
        return out

    @field_validator("plot")
    @classmethod
    def _picture(cls, plot: str | None) -> str | None:
        if plot is not None and not plot.endswith(".svg"):
            raise ValueError("must end in .svg")
        return plot
