"""KTO (Ethayarajh et al. 2024, arXiv 2402.01306): one update on replies that were judged each by itself, through TRL's KTOTrainer.

A reply that is desirable is to become likelier than the reference has it, one that is not unlikelier, each held against how far the policy
has gone on the whole: the mean log ratio of replies to prompts that are not theirs (within a micro-batch, as in the paper).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, ClassVar

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL would ask the hub who uses it

from datasets import Dataset
from trl import KTOConfig, KTOTrainer
from trl.trainer import kto_trainer

from expertchat.training.dpo import built, patched
from expertchat.training.dpo_config import PreferTrain
from expertchat.training.method import Rows
from expertchat.training.rows import Row
from expertchat.training.sharding import SharedUpdate
from expertchat.training.update import Updater

LABEL = "label"  # [1] of a desirable reply, [0] of another, beside prompt_ids and completion_ids
OTHER = "KL_completion_ids"  # another prompt's reply, as TRL calls it


class Kto(Updater):
    """Every judged reply of a round once."""

    config: PreferTrain
    means: ClassVar[Mapping[str, str]] = {"loss": "loss", "grad_norm": "grad_norm", "kl_estimate": "kl"}

    def rows(self, given: Rows, round: int) -> list[Row]:
        return [dict(row) for row in given.shown]

    @contextlib.contextmanager
    def trainer(self, model: Any, arguments: Mapping[str, Any], **more: Any) -> Iterator[SharedUpdate]:
        config = self.config
        settings = KTOConfig(
            **arguments,
            loss_type=config.unpaired,
            beta=config.beta,
            desirable_weight=config.desirable_weight,
            undesirable_weight=config.undesirable_weight,
            max_length=None,
        )
        rows = with_others(list(more.pop("train_dataset")), more["share"].batches)
        with patched(model, self.learner, config.checkpointing, kto_trainer, replies=1):
            more["train_dataset"] = Dataset.from_list(rows)
            yield built(model, self.learner, config.reference, config.dropout, _Trainer, args=settings, **more)

    def figures(self, logs: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Rewards of good and bad replies are means over the steps that had such, in any process."""
        found = super().figures(logs)
        last = found.pop("learning_rate")
        for name, key in (("reward_chosen", "rewards/chosen"), ("reward_rejected", "rewards/rejected")):
            every = self.ranks.gather([[float(line[key]) for line in logs if key in line]])
            if known := [value for own in every for value in own]:
                found[name] = fmean(known)
        return {**found, "learning_rate": last}


class _Trainer(SharedUpdate, KTOTrainer):
    """KTOTrainer on rows that have token ids already."""

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset


def with_others(rows: Sequence[Row], batches: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """The rows as KTOTrainer takes them: each with the reply of the one before it in its batch, the first with the last one's.

    A row alone in its batch has that of the row before it among all: with its own the loss would not depend on it.

    >>> rows = [{"prompt_ids": [n], "completion_ids": [10 * n], "label": [n % 2]} for n in (1, 2, 3)]
    >>> [row["KL_completion_ids"] for row in with_others(rows, [[0, 1], [2]])]
    [[20], [10], [20]]
    """
    other = {}
    for batch in batches:
        for nth, row in enumerate(batch):
            other[row] = batch[nth - 1] if len(batch) > 1 else row - 1
    return [{**row, LABEL: bool(row[LABEL][0]), OTHER: rows[other.get(i, i - 1)]["completion_ids"]} for i, row in enumerate(rows)]
