"""Supervised fine-tuning: one update on rows of prompts with their completions, of which alone the loss is taken, through TRL's SFTTrainer.

The rows are token ids that the model was shown to be given (expertchat.training.encoded): nothing is tokenised again. The loss of a step is
the mean over its trained tokens, however they are parted among batches and processes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL would ask the hub who uses it

from datasets import Dataset
from trl import SFTConfig as Settings
from trl import SFTTrainer
from trl.trainer import sft_trainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from expertchat.training.dpo import drop, patched, where_asked
from expertchat.training.learner import LoraLearner
from expertchat.training.method import Rows
from expertchat.training.rows import Row
from expertchat.training.sft_config import SftTrain
from expertchat.training.sharding import Share, SharedUpdate
from expertchat.training.update import Updater

IGNORED = -100  # as a label: the token is not trained
# Of a mixture of experts; TRL sets them in the model's own config, and then every later pass looks at how its experts were balanced.
ROUTERS = ("output_router_logits", "router_aux_loss_coef")


class Sft(Updater):
    """Every row of a round once."""

    config: SftTrain
    means: ClassVar[Mapping[str, str]] = {"loss": "loss", "grad_norm": "grad_norm", "token_accuracy": "mean_token_accuracy"}

    def rows(self, given: Rows, round: int) -> list[Row]:
        return [dict(row) for row in given.shown]

    @contextlib.contextmanager
    def trainer(self, model: Any, arguments: Mapping[str, Any], **more: Any) -> Iterator[SharedUpdate]:
        config, learner = self.config, self.learner
        settings = Settings(**arguments, loss_type=config.loss, max_length=None, dataset_kwargs={"skip_prepare_dataset": True})
        rows: list[Row] = list(more.pop("train_dataset"))
        share = by_tokens(more.pop("share"), [trained(row) for row in rows], config.batch, self.ranks.world)
        lora = isinstance(learner, LoraLearner)
        base = model.get_base_model() if lora else model
        exact = {name: p.data for name, p in learner.parameters().items()}
        text = base.config.get_text_config()
        routers = {key: getattr(text, key) for key in ROUTERS if hasattr(text, key)}
        with patched(model, learner, config.checkpointing, sft_trainer, replies=1):
            trainer = _Trainer(
                model=model, args=settings, processing_class=learner.tokenizer, share=share,
                train_dataset=Dataset.from_list([labelled(row) for row in rows]),
                data_collator=DataCollatorForLanguageModeling(pad_token_id=learner.backend.pad_id), **more,
            )  # fmt: skip
            for key, value in routers.items():
                setattr(text, key, value)
            trainer.model_accepts_loss_kwargs = False  # the step's tokens are counted over all processes: `by_tokens`
            for name, parameter in learner.parameters().items():
                parameter.data = exact[name]  # TRL rounds the adapters of a 4-bit model to bf16
            drop(base, learner.name if lora else "", config.dropout)  # type: ignore[attr-defined]
            where_asked(base)
            yield trainer


class _Trainer(SharedUpdate, SFTTrainer):
    """SFTTrainer on this process's share of a step."""


def labelled(row: Row) -> Row:
    """A row as SFTTrainer's collator takes it."""
    prompt, completion = row["prompt_ids"], row["completion_ids"]
    return {"input_ids": prompt + completion, "labels": [IGNORED] * len(prompt) + completion}


def trained(row: Row) -> int:
    """The tokens of a row that the loss is taken of: the first token of all has none before it."""
    return len(row["completion_ids"]) - (not row["prompt_ids"])


def by_tokens(share: Share, tokens: Sequence[int], batch: int, world: int) -> Share:
    """The share, its batches so weighted that the mean over a step's batches and over the processes is that over its tokens.

    A batch's own loss is the mean over its t tokens; of a step with T tokens in n batches of each of w processes it counts t n w / T.

    >>> by_tokens(Share([[0], [1]], [1.0, 1.0], 2, 0), [1, 3], 2, 1).weights
    [0.5, 1.5]
    """
    weights, at, start = list[float](), 0, 0
    while at < len(share.batches):
        size = min(batch, len(tokens) - start) // world * world
        mine = share.batches[at : at + share.accumulation]
        total = sum(tokens[start : start + size])
        weights += [sum(tokens[i] for i in one) * len(mine) * world / max(1, total) for one in mine]
        at, start = at + len(mine), start + batch
    return share._replace(weights=weights)
