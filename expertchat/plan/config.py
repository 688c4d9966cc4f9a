"""The configs of `expertchat plan` and `expertchat models`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from expertchat.config import EmbedderConfig, ExpertsConfig, Group, ModelConfig, Text


class PlanTraining(Group):
    """DPO with LoRA on the frozen base of `expert`; none: the models only talk. `head_chunk` 0: the logits of all tokens at once."""

    expert: Text = "none"
    targets: Literal["all-linear", "attention"] = "all-linear"
    rank: int = Field(default=16, ge=1, le=1024)
    pairs: int = Field(default=1, ge=1, le=4096)
    tokens: int = Field(default=1024, ge=2, le=1_000_000)
    checkpointing: bool = True
    head_chunk: int = Field(default=256, ge=0)


class PlanServer(Group):
    """The model of `seat` is served by vLLM on the last `gpus` of them, in `bits` (4: AWQ or GPTQ), in `memory` of each; none: nobody's is.
    One that is trained stands here as well. `requests` at once; `rank`: of the adapters that it loads while it runs (0: none)."""

    seat: Text = "none"
    gpus: int = Field(default=1, ge=1, le=64)
    bits: Literal[4, 8, 16] = 4
    memory: float = Field(default=0.9, gt=0, le=1)
    requests: int = Field(default=64, ge=1, le=4096)
    rank: int = Field(default=0, ge=0, le=1024)


class PlanConfig(Group):
    """`expertchat plan`. `conversations` that run at once, each up to `tokens` long."""

    models_dir: Text | None = None
    experts: ExpertsConfig
    embedder: EmbedderConfig
    gpus: Text = "auto"
    conversations: int = Field(ge=1, le=1_000_000)
    tokens: int = Field(ge=64, le=10_000_000)
    train: PlanTraining
    server: PlanServer = PlanServer()
    measure: bool = False
    out: Text | None = None

    @model_validator(mode="after")
    def _seated(self) -> PlanConfig:
        named = {"train.expert": self.train.expert, "server.seat": self.server.seat}
        there = ("none", *self.experts.seats)
        remedy = f"is no expert; take none, or one of {', '.join(there[1:])}"
        if wrong := [f"{key}={seat}: {remedy}" for key, seat in named.items() if seat not in there]:
            raise ValueError("\n".join(wrong))
        return self

    @property
    def here(self) -> dict[str, ModelConfig]:
        """The experts whose models this process loads."""
        apart = {self.server.seat} - {self.train.expert}
        return {seat: model for seat, model in self.experts.items() if seat not in apart}


class ModelsConfig(Group):
    """`expertchat models`."""

    models_dir: Text | None = None
    names: Annotated[list[Text], Field(default_factory=list)]
    verify: bool = False
    out: Text | None = None
