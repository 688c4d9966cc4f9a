"""The updates of reward models: sentence-transformers' CrossEncoderTrainer for encoders, TRL's RewardTrainer for decoders.

Losses: pointwise (binary) cross-entropy or mean squared error; of pairs RankNet (Burges et al. 2005), and for decoders the same on the
margin of two scores (Bradley-Terry; Christiano et al. 2017, arXiv 1706.03741).
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss, CrossEntropyLoss, MSELoss, RankNetLoss
from trl import RewardConfig, RewardTrainer

from expertchat.backends.reward_model import Tokens
from expertchat.reward_models.config import TYPES, RewardModelTraining
from expertchat.reward_models.learners import RewardLearner
from expertchat.training.config import UpdateConfig
from expertchat.training.method import Rows
from expertchat.training.rows import Row
from expertchat.training.sharding import SharedUpdate
from expertchat.training.update import Updater

LOSSES: dict[str, Callable[[Any], Any]] = {
    "comparison": BinaryCrossEntropyLoss, "classification": BinaryCrossEntropyLoss, "regression": MSELoss, TYPES: CrossEntropyLoss,
    "pairwise": partial(RankNetLoss, reduction_log="natural"),  # nats, as the loss on what is held out
}  # fmt: skip
TINY = 10_000_000  # weights of a model that is small enough for large steps


class RewardUpdate(Updater):
    """Passes over rows of tokens: of each text one ("first"), of pairs the better and the worse one ("first", "second")."""

    learner: RewardLearner

    def __init__(self, learner: RewardLearner, training: RewardModelTraining, examples: Sequence[Row], **more: Any) -> None:
        self.training, self.examples = training, list(examples)
        super().__init__(learner, update_config(training, learner), rounds=training.epochs, seed=training.run.seed, **more)

    def rows(self, given: Rows, round: int) -> list[Row]:
        order = list(self.examples)
        random.Random(f"{self.seed} rows {round}").shuffle(order)
        return order

    @contextlib.contextmanager
    def trainer(self, model: Any, arguments: Mapping[str, Any], **more: Any) -> Iterator[SharedUpdate]:
        if self.training.kind == "decoder":
            settings = RewardConfig(
                **arguments, max_length=None, disable_dropout=False, center_rewards_coefficient=self.training.train.center
            )
            exact = {name: p.data for name, p in self.learner.parameters().items()}
            built = _Decoder(model=model, args=settings, processing_class=self.learner.tokenizer, data_collator=self._two, **more)
            for name, parameter in self.learner.parameters().items():
                parameter.data = exact[name]  # TRL rounds what is trained on a 4-bit model to bf16
            yield built
            return
        collate = self._ranked if self.training.kind == "pairwise" else self._rated
        args = CrossEncoderTrainingArguments(**arguments)
        yield _Encoder(model=model, args=args, loss=LOSSES[self.training.kind](model), data_collator=collate, **more)

    # -- a batch as its trainer takes it ----------------------------------------------------------------------------------

    def _two(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The better texts, then the others [2 B, T]."""
        return self.learner.judge.batch([_tokens(row, name) for name in ("first", "second") for row in rows])

    @staticmethod
    def _ranked(rows: Sequence[Row]) -> dict[str, Any]:
        """A list of two texts a row, of which the first is the better one."""
        texts = [[_tokens(row, "first"), _tokens(row, "second")] for row in rows]
        return {"asked": [None] * len(rows), "texts": texts, "label": [torch.tensor([1.0, 0.0]) for _ in rows]}

    def _rated(self, rows: Sequence[Row]) -> dict[str, Any]:
        """A text a row with its number, or with the place of its type."""
        kind = torch.long if self.training.kind == TYPES else torch.float32
        labels = torch.tensor([row["value"][0] for row in rows]).to(kind)
        return {"asked": [None] * len(rows), "texts": [_tokens(row, "first") for row in rows], "label": labels}


class _Encoder(SharedUpdate, CrossEncoderTrainer):
    """CrossEncoderTrainer on rows of tokens."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """The run writes its own card."""

    def preprocess_dataset(self, dataset: Any = None, *args: Any, **more: Any) -> Any:
        return dataset


class _Decoder(SharedUpdate, RewardTrainer):
    """RewardTrainer on rows of tokens."""

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset


def row_of(tokens: Sequence[Tokens], value: float) -> Row:
    """A row as a data set keeps it: its texts' tokens one after the other in columns of their own."""
    row: dict[str, Any] = {"prompt_ids": [], "value": [value]}
    for name, one in zip(("first", "second"), tokens, strict=False):
        row[f"{name}_ids"] = one["input_ids"]
        row[f"{name}_types"] = one.get("token_type_ids", [])
    return row


def _tokens(row: Row, name: str) -> Tokens:
    types = row[f"{name}_types"]
    return {"input_ids": row[f"{name}_ids"], **({"token_type_ids": types} if types else {})}


def update_config(training: RewardModelTraining, learner: RewardLearner) -> UpdateConfig:
    """What every update is told, of what the user has set and what goes by the model."""
    train = training.train
    size = sum(p.numel() for p in learner.judge.model.parameters())
    usual = 1e-3 if size < TINY else 2e-4 if training.method == "lora" else 3e-5
    if train.learning_rate is None:
        learner.notes.append(f"learning rate {usual:g}: it has {size / 1e6:.1f} million weights and is trained by {training.method} "
                             "(train.learning_rate sets another)")  # fmt: skip
    return UpdateConfig.model_construct(
        method=training.method, targets=train.targets, rank=train.rank, alpha=train.alpha, dropout=train.dropout or 0.0,
        batch=train.batch, micro_batch=train.micro_batch, epochs=1, learning_rate=train.learning_rate or usual,
        schedule=train.schedule, warmup_rounds=train.warmup, weight_decay=train.weight_decay, max_grad_norm=train.max_grad_norm,
        max_tokens=None, checkpointing=train.checkpointing, sharding="pipeline", update="reward_model",
    )  # fmt: skip
