"""The configs of `expertchat plan` and `expertchat models`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from expertchat.config import EmbedderConfig, ExpertsConfig, Group, Text


class PlanTraining(Group):
    """DPO with LoRA on the frozen base of `expert`; none: the models only talk. `head_chunk` 0: the logits of all tokens at once."""

    expert: Text = "none"
    targets: Literal["all-linear", "attention"] = "all-linear"
    rank: int = Field(default=16, ge=1, le=1024)
    pairs: int = Field(default=1, ge=1, le=4096)
    tokens: int = Field(default=1024, ge=2, le=1_000_000)
    checkpointing: bool = True
    head_chunk: int = Field(default=256, ge=0)


class PlanConfig(Group):
    """`expertchat plan`. `conversations` that run at once, each up to `tokens` long."""

    models_dir: Text | None = None
    experts: ExpertsConfig
    embedder: EmbedderConfig
    gpus: Text = "auto"
    conversations: int = Field(ge=1, le=1_000_000)
    tokens: int = Field(ge=64, le=10_000_000)
    train: PlanTraining
    measure: bool = False
    out: Text | None = None

    @model_validator(mode="after")
    def _seated(self) -> PlanConfig:
        if (expert := self.train.expert) not in ("none", *self.experts.seats):
            raise ValueError(f"train.expert={expert}: is no expert; take none, or one of {', '.join(self.experts.seats)}")
        return self


class ModelsConfig(Group):
    """`expertchat models`."""

    models_dir: Text | None = None
    names: Annotated[list[Text], Field(default_factory=list)]
    verify: bool = False
    out: Text | None = None
