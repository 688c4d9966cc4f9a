"""The config of `expertchat talk`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from expertchat.config import EngineConfig, Group, ModelConfig, Text


class TalkConfig(Group):
    """A model that is talked to. `template`: how a prompt is worded (chat: by the model's own chat template; auto: as the rows were that a
    run has trained it on); `history`: whether it is shown what was said before."""

    model: ModelConfig | None = None
    system: Text | None = None
    template: Annotated[Text, Field(min_length=1)] = "auto"
    history: bool = True
    json_lines: bool = False
    models_dir: Text | None = None
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?|balanced)$")] | None = None
    seed: int = Field(default=0, ge=0, lt=2**63)
    engine: EngineConfig
