"""What the commands that train one model on a file of rows have in common in their configs (see expertchat.training.offline)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from expertchat.config import EngineConfig, Group, ModelConfig, RunConfig, Text
from expertchat.records import Speaker
from expertchat.trackers.config import ReportTo
from expertchat.training.config import UpdateConfig

SEAT: Speaker = "model"  # who learns: the records' name for the one model, and its key in the config


class Kept(Group):
    """When the model is evaluated, and which round's weights the run gives in the end.

    `every`: rounds between two evaluations; 0: before the first and after the last alone. `keep_best`: of the best evaluation, else of the
    last round.
    """

    every: int = Field(ge=0)
    keep_best: bool


class OfflineConfig(Group):
    """A model, rows, and how it is trained on them. A command's own config has its `data`, and narrows `train` and `evaluation`.

    `train.epochs` passes over the rows in `rounds_per_epoch` rounds each: after a round there is a checkpoint, and as `evaluation.every`
    says an evaluation.
    """

    models_dir: Text | None = None
    run: RunConfig
    view: Literal["live", "plain", "none"]
    report_to: ReportTo
    arm: Text | None = None  # what this run is called in a table of several
    model: ModelConfig
    train: UpdateConfig
    evaluation: Kept
    rounds_per_epoch: int = Field(ge=1, le=1000)
    keep_rounds: int = Field(ge=1)  # checkpoints that stay on disk besides the best
    engine: EngineConfig

    @model_validator(mode="after")
    def _can_learn(self) -> OfflineConfig:
        problems, train = [], self.train
        if self.model.backend != "local":
            problems.append(f"model.backend={self.model.backend}: cannot be trained; name a model")
        if train.method != "lora" and train.sharding == "fsdp":
            problems.append(f"train.method={train.method}: trains whole weights, which train.sharding=fsdp parts; use ddp or pipeline")
        for key, wanted, there in (("dtype", "fp32", self.model.dtype), ("quantization", "none", self.model.quantization)):
            if train.method != "lora" and there not in ("auto", wanted):
                problems.append(
                    f"model.{key}={there}: train.method={train.method} trains the weights themselves, and small steps get lost in these; "
                    f"set model.{key}={wanted}, or train=lora"
                )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def rounds(self) -> int:
        """Updates, each with a checkpoint."""
        return self.train.epochs * self.rounds_per_epoch

    @property
    def learners(self) -> tuple[Speaker, ...]:
        """Who learns."""
        return (SEAT,)
