"""The config of `expertchat serve`: a model, and how vLLM is started for it. Nothing of it changes what a run that asks it writes."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from expertchat.config import Group, ModelConfig, RunConfig, Text

NAME = "serve"  # of the command
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # of adapters that vLLM has room for


class VllmConfig(Group):
    """How vLLM is started. `python`: of the environment that it is in; `container`: words before it. `gpus`: how many, or which (None: all
    that there are, and beside a command it must be said); `memory`: the share of each that it takes. `adapters`: the largest rank of LoRA
    adapters that it is to load while it runs (0: none). `wait`: seconds that it may take to answer. `idle`: seconds without a request after
    which it stops (None: never). `environment`: variables for it alone, NAME=VALUE, or a NAME that it does not get.
    """

    python: Text | None = None
    container: Text | None = None
    name: Text | None = None
    host: Text | None = None
    port: int = Field(default=0, ge=0, le=65535)
    gpus: Annotated[int, Field(ge=0, le=64)] | list[Annotated[int, Field(ge=0, le=63)]] | None = None
    memory: float = Field(default=0.9, gt=0, le=1)
    requests: int = Field(default=64, ge=1, le=4096)
    adapters: int = Field(default=0, ge=0, le=RANKS[-1])
    wait: float = Field(default=900.0, gt=0)
    idle: float | None = Field(default=None, gt=0)
    key_from: Text | None = None
    environment: list[Text] = Field(default_factory=list)
    options: list[Text] = Field(default_factory=list)

    @field_validator("options")
    @classmethod
    def _options(cls, options: list[str]) -> list[str]:
        if bad := [option for option in options if not re.fullmatch(r"--[a-z][\w.-]*(=[^\n]*)?", option)]:
            raise ValueError(f"are vLLM's, one a text, as --name=value; not {', '.join(map(repr, bad))}")
        if "--trust-remote-code" in {option.partition("=")[0] for option in options}:
            raise ValueError("--trust-remote-code would run what stands in a model's folder; leave it away")
        return options

    @field_validator("environment")
    @classmethod
    def _variables(cls, words: list[str]) -> list[str]:
        if bad := [word for word in words if not re.fullmatch(r"[A-Za-z_]\w*(=.*)?", word, re.DOTALL)]:
            raise ValueError(f"are variables, NAME=VALUE or a NAME that is taken away; not {', '.join(map(repr, bad))}")
        return words


class ServeConfig(Group):
    """`expertchat serve`."""

    models_dir: Text | None = None
    run: RunConfig
    view: Literal["plain", "none"]
    model: ModelConfig
    server: VllmConfig

    @property
    def name(self) -> str:
        """What the server calls its model: the last part of its path unless the config says."""
        return self.server.name or self.model.path.rstrip("/").rpartition("/")[2]
