"""The config of `expertchat bench`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from expertchat.config import Device, Group, JudgingConfig, PersonaConfig, Text
from expertchat.plan.random_shapes import parse_random
from expertchat.text.wordings import Prompts

BenchPart = Literal[
    "ways", "precision", "prefill", "candidates", "ratings", "contrastive", "job", "phases", "memory", "gpu", "online_dpo", "grpo",
    "beside", "embedding", "step", "judgements", "sft",
]  # fmt: skip


class BenchSettings(Group):
    """What `expertchat bench` measures, and on which model (any path of ModelConfig, or a random one of a given shape)."""

    model: Text = Field(min_length=1)
    trained: Text | None = None
    models_dir: Text | None = Field(default=None, exclude=True)
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: Device = "auto"
    rows: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=1)]
    turns: int = Field(ge=1, le=1000)
    tokens: int = Field(ge=2, le=100_000)
    repeats: int = Field(ge=1, le=1000)
    parts: Annotated[list[BenchPart], Field(min_length=1)]
    singles: int = Field(ge=1, le=1000)
    job_rows: int = Field(ge=1, le=4096)
    job_dialogues: int = Field(ge=1, le=1000)
    embedder: Text = Field(default="embedded:embedder", min_length=1)
    conversations: int = Field(ge=3, le=1_000_000)
    judgements: int = Field(default=200, ge=1, le=100_000)
    quick: bool = False
    out: Text | None = None
    seed: int = Field(default=0, ge=0, lt=2**63)
    threads: int | None = Field(default=None, ge=1, le=1024)

    @field_validator("model")
    @classmethod
    def _random(cls, model: str) -> str:
        parse_random(model)
        return model


class BenchConfig(Group):
    """`expertchat bench`."""

    bench: BenchSettings
    judging: JudgingConfig
    prompts: Prompts
    persona: PersonaConfig
