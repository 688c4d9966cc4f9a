"""The config of `expertchat merge`. Nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from expertchat.config import Group, Text


class MergeConfig(Group):
    """`expertchat merge`. `adapter`: a PEFT folder, or one that holds it as adapter/ (a run, a round of a run).

    `base`: a folder, hub id or embedded:NAME; None: the one that the adapter names. `dtype` auto: as the base's files are.
    """

    models_dir: Text | None = None
    adapter: Text = Field(min_length=1)
    out: Text = Field(min_length=1)
    base: Text | None = None
    dtype: Literal["auto", "fp32", "bf16", "fp16"]
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?|balanced)$")]
