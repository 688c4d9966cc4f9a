"""The config of `expertchat reward_model`: what kind of model, what it begins from, what it learns. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from expertchat.config import Device, Group, RunConfig, Text
from expertchat.sources.config import SourceConfig
from expertchat.trackers.config import ReportTo

Kind = Literal["pairwise", "comparison", "regression", "classification", "types", "decoder"]
Target = Literal["label", "people", "scores", "opinions", "truth", "type"]
OF_PAIRS = ("pairwise", "comparison", "decoder")  # they learn which of two texts is better; the others how good one is
TYPES = "types"  # it learns of which type a text is, and reads it alone
BASES = {"decoder": "embedded:llama"}  # what model.path=auto is, by kind
ENCODER = "embedded:embedder"


def _one_or_more(value: object) -> object:
    return value if isinstance(value, list) else [] if value is None else [value]


def _name(value: object) -> object:
    """A judge's name; the command line has to write it as {name: NAME}, for `judge` is the name of a group there."""
    return value["name"] if isinstance(value, dict) and set(value) == {"name"} else value


class BaseConfig(Group):
    """The model that training begins from: an encoder (BERT, MPNet, a sentence embedder), or with kind=decoder a language model."""

    path: Text = Field(min_length=1)
    revision: Text | None = None
    models_dir: Text | None = Field(default=None, exclude=True)
    device: Device = "auto"
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    quantization: Literal["none", "nf4", "int8"] = "none"

    @property
    def backend(self) -> Literal["local"]:
        """Nothing but a model of this machine is trained."""
        return "local"


class HeldOutConfig(Group):
    """What the model is measured on: a `share` of the groups that were read, or all that lies at `path`.

    `choose`: share of the groups left by which the best epoch is chosen, and which are not trained on either; 0: what is held out chooses.
    """

    share: float = Field(default=0.25, gt=0, lt=1)
    path: Annotated[list[Text], BeforeValidator(_one_or_more)] = Field(default_factory=list)
    choose: float = Field(default=0.0, ge=0, lt=1)


class RewardTrain(Group):
    """How it is trained. `method`: auto is lora for a decoder and full else. `learning_rate`: None goes by the model's size and method.

    `dropout`: of a LoRA adapter; of a model that is trained whole, of all its layers: None leaves it as its config says.
    """

    method: Literal["auto", "full", "lora"]
    targets: Annotated[list[Text], Field(default_factory=list)]
    rank: int = Field(ge=1, le=1024)
    alpha: int = Field(ge=1)
    dropout: float | None = Field(default=None, ge=0, lt=1)
    batch: int = Field(ge=1)
    micro_batch: int = Field(ge=1)
    learning_rate: float | None = Field(default=None, gt=0)
    schedule: Literal["constant", "linear", "cosine"]
    warmup: float = Field(ge=0)
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(gt=0)
    max_tokens: int | None = Field(default=None, ge=16)
    center: float | None = Field(default=None, gt=0)
    checkpointing: bool
    sharding: Literal["pipeline", "ddp"]


class RewardModelTraining(Group):
    """`expertchat reward_model`. `target`: what is known of the texts and is learnt; `order`: which text a comparison reads first."""

    models_dir: Text | None = None
    run: RunConfig
    view: Literal["live", "plain", "none"]
    report_to: ReportTo
    kind: Kind
    model: BaseConfig
    source: SourceConfig
    target: Literal["auto", Target]
    judge: Annotated[Text | None, BeforeValidator(_name)] = None
    labels: Annotated[list[Text], Field(default_factory=list)]
    min_margin: float = Field(ge=0)
    threshold: float | None = None
    order: Literal["drawn", "as_read", "system"]
    first: Text | None = None
    swap: bool
    history: bool | None = None
    held_out: HeldOutConfig
    epochs: int = Field(ge=1, le=1000)
    train: RewardTrain
    merge: Literal["auto", "always", "never"]
    keep_rounds: int = Field(ge=1)
    resamples: int = Field(ge=200, le=100_000)

    @model_validator(mode="before")
    @classmethod
    def _begins_from(cls, values: Any) -> Any:
        """What model.path=auto is goes by the kind."""
        model = values.get("model") if isinstance(values, dict) else None
        if not isinstance(model, dict) or model.get("path") != "auto":
            return values
        return {**values, "model": {**model, "path": BASES.get(str(values.get("kind")), ENCODER)}}

    @model_validator(mode="after")
    def _fits(self) -> RewardModelTraining:
        if problems := [*self._problems()]:
            raise ValueError("\n".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        """What does not go together."""
        train, kind = self.train, self.kind
        if train.batch % train.micro_batch:
            fits = gcd(train.batch, train.micro_batch)
            yield f"train.batch={train.batch}: no multiple of train.micro_batch={train.micro_batch}; take {fits}"
        if self.order == "system" and self.first is None:
            yield "order=system needs first: whose text stands first, as the source calls it, such as first=embedded:llama"
        if self.first is not None and self.order != "system":
            yield f"first={self.first} has no effect with order={self.order}: set order=system"
        if self.first is not None and kind != "comparison":
            yield f"first={self.first} has no effect with kind={kind}, which reads one text at a time: set kind=comparison"
        if self.threshold is not None and kind != "classification":
            yield f"threshold={self.threshold:g} has no effect with kind={kind}: set kind=classification"
        if train.center is not None and kind != "decoder":
            yield f"train.center={train.center:g} has no effect with kind={kind}: set kind=decoder"
        if (self.target == "type") != (kind == TYPES) and not (kind == TYPES and self.target == "auto"):
            yield f"target={self.target} does not go with kind={kind}: kind=types learns the type of a text, and nothing else does"
        if self.history is not None and kind == TYPES:
            yield f"history={str(self.history).lower()} has no effect with kind=types, which reads the text alone"
        if train.method == "lora" and kind != "decoder":
            yield f"train.method=lora trains decoders here, and kind={kind} is an encoder, small enough for train.method=full"
        if self.model.quantization != "none" and self.method != "lora":
            yield f"model.quantization={self.model.quantization} needs kind=decoder train.method=lora: nothing else trains on such weights"
        if self.method == "full" and self.model.dtype not in ("fp32",):
            yield f"model.dtype={self.model.dtype}: small steps get lost in it where all weights are trained: set model.dtype=fp32"
        if self.judge is not None and self.target not in ("auto", "opinions"):
            yield f"judge={self.judge} has no effect with target={self.target}: set target=opinions"
        if self.target == "people" and not self.labels:
            yield "target=people needs labels: folders of `expertchat label`, or files of them"

    @property
    def method(self) -> Literal["full", "lora"]:
        """Which weights are trained."""
        if self.train.method == "auto":
            return "lora" if self.kind == "decoder" else "full"
        return self.train.method

    @property
    def shows_history(self) -> bool:
        """Whether what was said before the texts is shown, and not the topic alone."""
        return self.kind != "comparison" if self.history is None else self.history

    @property
    def path(self) -> str:
        """Where the model that it begins from is."""
        return self.model.path
