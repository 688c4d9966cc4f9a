"""The config of `expertchat talk`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from expertchat.config import EngineConfig, Group, ModelConfig, Text


class TablePrompts(Group):
    """Prompts of a file (as of grpo: a list, or the `column` of a table) in the place of a talk. `out`: the JSONL file of their answers,
    `samples` to each prompt."""

    file: Text | None = None
    column: Text | None = None
    out: Text | None = None
    samples: int = Field(default=1, ge=1, le=1000)


class TalkConfig(Group):
    """A model that is talked to, or whose answers to `prompts` are written down. `template`: how a prompt is worded (chat: by
    the model's own chat template; auto: as the rows were that a run has trained it on); `history`: whether it is shown what was said
    before; `silence`: whether no answer to some prompts fails, or is an answer that counts."""

    model: ModelConfig | None = None
    system: Text | None = None
    template: Annotated[Text, Field(min_length=1)] = "auto"
    history: bool = True
    json_lines: bool = False
    silence: Literal["fails", "counts"] = "fails"
    prompts: TablePrompts = Field(default_factory=TablePrompts)
    models_dir: Text | None = None
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?|balanced)$")] | None = None
    seed: int = Field(default=0, ge=0, lt=2**63)
    engine: EngineConfig
