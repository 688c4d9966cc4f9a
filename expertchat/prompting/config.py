"""The config of `expertchat talk`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from expertchat.config import EngineConfig, Group, ModelConfig, Text


class TalkConfig(Group):
    """A model that is talked to. `template`: how a prompt is worded (chat: by the model's own chat template); `history`: whether it is
    shown what was said before."""

    model: ModelConfig | None = None
    system: Text | None = None
    template: Annotated[Text, Field(min_length=1)] = "chat"
    history: bool = True
    json_lines: bool = False
    models_dir: Text | None = None
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?|balanced)$")] | None = None
    seed: int = Field(default=0, ge=0, lt=2**63)
    engine: EngineConfig

    @property
    def remembers(self) -> bool:
        """Whether a prompt stands after what was said before: one that a template words stands alone."""
        return self.history and self.template == "chat"
