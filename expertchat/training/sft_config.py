"""The config of `expertchat sft`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from expertchat.config import Text
from expertchat.sources.teaching import DataConfig
from expertchat.training.config import UpdateConfig
from expertchat.training.offline_config import Kept, OfflineConfig


class SftTrain(UpdateConfig):
    """The update by supervised fine-tuning; the rows are demonstrations, and the loss is that of their completions alone.

    `loss`: nll, or dft (Dynamic Fine-Tuning, arXiv 2508.05629: each token's loss by its own probability).
    """

    takes: ClassVar[tuple[str, ...]] = ("shown",)

    update: Text = "sft"
    loss: Literal["nll", "dft"] = "nll"


class SftEvaluation(Kept):
    """What is looked at besides the perplexity of the held-out rows: what the model writes after `samples` of their prompts, and after the
    `prompts` that are named, in each of `ways`; sampled with `temperature` and `top_p`, `tokens` at most."""

    samples: int = Field(ge=0, le=1000)
    prompts: Annotated[list[Text], Field(default_factory=list)]
    ways: Annotated[list[Literal["greedy", "sampled"]], Field(default_factory=list)]
    tokens: int = Field(ge=1)
    temperature: float = Field(gt=0, le=10)
    top_p: float = Field(gt=0, le=1)


class SftConfig(OfflineConfig):
    """`expertchat sft`: a model, rows, and how it is trained on them."""

    data: DataConfig
    train: SftTrain
    evaluation: SftEvaluation

    @model_validator(mode="after")
    def _names_ways(self) -> SftConfig:
        if (self.evaluation.samples or self.evaluation.prompts) and not self.evaluation.ways:
            raise ValueError("evaluation.ways is empty: how are samples to be written? take [greedy], [sampled] or both, or samples=0")
        return self
