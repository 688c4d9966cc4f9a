"""A training method in one file: supervised steps on the chosen replies alone. tests/test_methods.py adds it by one line of METHODS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import TrainingArguments

from expertchat.training.method import Rows
from expertchat.training.rows import Row, arranged, row_of
from expertchat.training.sharding import SharedUpdate
from expertchat.training.update import Updater


class Chosen(Updater):
    """Maximises log pi(chosen | prompt)."""

    def rows(self, given: Rows, round: int) -> list[Row]:
        pairs = [row_of(pair, self.learner.backend.renderer) for pair in arranged(given.pairs, self.seed, round)]
        return [{"prompt_ids": pair["prompt_ids"], "reply_ids": pair["chosen_ids"]} for pair in pairs]

    @contextmanager
    def trainer(self, model: Any, arguments: Mapping[str, Any], **more: Any) -> Iterator[SharedUpdate]:
        settings = TrainingArguments(**arguments, remove_unused_columns=False)
        yield SharedUpdate(model=model, args=settings, data_collator=batch, **more)


def batch(rows: Sequence[Row]) -> dict[str, Tensor]:
    """Prompts with their replies, of which alone the loss is taken."""
    whole = [torch.tensor(row["prompt_ids"] + row["reply_ids"]) for row in rows]
    replies = [torch.tensor([-100] * len(row["prompt_ids"]) + row["reply_ids"]) for row in rows]
    ids_B_T, labels_B_T = pad_sequence(whole, True), pad_sequence(replies, True, -100)
    mask_B_T = pad_sequence([torch.ones_like(ids) for ids in whole], True)
    return {"input_ids": ids_B_T, "attention_mask": mask_B_T, "labels": labels_B_T}
