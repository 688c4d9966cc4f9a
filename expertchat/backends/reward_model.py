"""A reward model: a sequence-classification model that gives every reply one number, in batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from expertchat.backends.base import Valued, Valuer, ValueRequest
from expertchat.backends.folders import find_folder, labels_of, reward_model_problem
from expertchat.backends.hardware import choose_device, choose_dtype, parameters_of
from expertchat.backends.rendering import Renderer
from expertchat.backends.unloadable import out_of_memory
from expertchat.config import ConfigError, RewardModelConfig
from expertchat.records import Message
from expertchat.text.harmless import neutralise
from expertchat.text.sentences import first_line, shown_path


class RewardModel(Valuer):
    """Scores on the model's own scale: with one label its logit, with two the second's less the first's (the log odds of label 1).

    A tokenizer with a chat template is shown the chat with the reply as the assistant's last message, any other the pair (what was said,
    the reply). The oldest messages are left out where the whole is too long; a reply that does not fit by itself has no score.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, config: RewardModelConfig, labels: int) -> None:
        self.model, self.tokenizer, self.name, self.config, self.labels = model, tokenizer, name, config, labels
        self.renderer = Renderer(tokenizer, name) if getattr(tokenizer, "chat_template", None) else None
        known = [config.max_tokens, getattr(model.config, "max_position_embeddings", None), tokenizer.model_max_length]
        self.limit = min(int(one) for one in known if one is not None and one > 0)
        self.notes: list[str] = []

    @classmethod
    def load(cls, config: RewardModelConfig) -> RewardModel:
        """Load the model of a checked folder. Raises ConfigError for one that is none, or cannot be loaded."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        name = shown_path(config.path)
        folder = find_folder(config.path, config.revision, reward_model_problem, config.models_dir)
        device, _ = choose_device(config.device)
        dtype, why = choose_dtype(config.dtype, device, parameters_of(folder))
        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            model, told = AutoModelForSequenceClassification.from_pretrained(
                folder, use_safetensors=True, trust_remote_code=False, local_files_only=True, dtype=dtype, output_loading_info=True
            )
            model = model.to(device).eval()
        except Exception as error:  # whatever a broken folder makes the loaders raise, the user gets one message
            raise ConfigError(f"reward_model.path={config.path}: cannot be loaded: {_cause(error)}") from None
        if missing := sorted(told["missing_keys"]):
            raise ConfigError(
                f"reward_model.path={config.path}: its weights lack {', '.join(missing[:3])}, so its scores would be random; name a model "
                "that was trained to give rewards"
            )
        found = cls(model, tokenizer, name, config, labels_of(folder))
        if why and dtype != torch.float32:
            found.notes.append(f"reward model {name}: {why.replace('dtype=', 'reward_model.dtype=')}")
        return found

    @property
    def device(self) -> str:
        return str(self.model.device)

    def value(self, requests: Sequence[ValueRequest]) -> list[Valued]:
        """The worth of each reply, in the order of the requests."""
        rows = [self._row(request) for request in requests]
        order = sorted((i for i, row in enumerate(rows) if row is not None), key=lambda i: len(rows[i]["input_ids"]))  # type: ignore[index]
        found: dict[int, Valued] = {}
        for start in range(0, len(order), self.config.batch_size):
            part = order[start : start + self.config.batch_size]
            scores = self._scores([row for i in part if (row := rows[i]) is not None])
            found |= {i: self._valued(score) for i, score in zip(part, scores, strict=True)}
        too_long = Valued(None, None, f"the reply does not fit into the {self.limit} tokens of the reward model")
        return [found.get(i, too_long) for i in range(len(requests))]

    def _row(self, request: ValueRequest) -> dict[str, list[int]] | None:
        """The tokens of a request without its oldest messages, and then the oldest lines, that do not fit; None where nothing fits."""
        for shown in _shorter(request.messages):
            row = self._encoded(shown, request.reply)
            if len(row["input_ids"]) <= self.limit:
                return row
        return None

    def _encoded(self, messages: Sequence[Message], reply: str) -> dict[str, list[int]]:
        if self.renderer is not None:
            return {"input_ids": self.renderer.encode(messages) + self.renderer.reply(messages, Message("assistant", reply))}
        special = self.tokenizer.all_special_tokens
        before, text = (neutralise(one, special) for one in ("\n".join(message.content for message in messages), reply))
        row = self.tokenizer(before, text, add_special_tokens=True)
        return {key: row[key] for key in ("input_ids", "token_type_ids") if key in row}

    @torch.inference_mode()
    def _scores(self, rows: Sequence[dict[str, list[int]]]) -> list[float]:
        """One pass over rows that are padded on the right."""
        ids = [row["input_ids"] for row in rows]
        pad = self._padding(ids)
        self.model.config.pad_token_id = pad  # a decoder reads its score at the last token that is none

        def tensor(values: Sequence[Sequence[int]], fill: int) -> Tensor:
            longest = max(map(len, values))
            padded = [[*one, *[fill] * (longest - len(one))] for one in values]
            return torch.tensor(padded, device=self.model.device)

        given = {"input_ids": tensor(ids, pad), "attention_mask": tensor([[1] * len(one) for one in ids], 0)}
        if "token_type_ids" in rows[0]:
            given["token_type_ids"] = tensor([row["token_type_ids"] for row in rows], 0)
        logits_B_L = self.model(**given).logits.float()
        scores_B = logits_B_L[:, 0] if self.labels == 1 else logits_B_L[:, 1] - logits_B_L[:, 0]
        return [float(score) for score in scores_B]

    def _padding(self, ids: Sequence[Sequence[int]]) -> int:
        """The tokenizer's token for padding; where a text ends with that one, another with which none ends."""
        last, own = {one[-1] for one in ids}, self.tokenizer
        usual = [own.pad_token_id, own.bos_token_id, own.unk_token_id]
        return next(token for token in [*usual, *range(len(last) + 1)] if token is not None and token not in last)

    def _valued(self, score: float) -> Valued:
        if not math.isfinite(score):
            return Valued(None, None, "the score is not a number")
        return Valued(score, math.tanh((score - self.config.center) / self.config.scale))


def _shorter(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """The messages, ever less of them from the oldest on: each begins with a user's; of the last one at least its last line is left."""
    for first, message in enumerate(messages):
        if message.role == "user":
            yield messages[first:]
    lines = messages[-1].content.split("\n")
    for first in range(1, len(lines)):
        yield [messages[-1]._replace(content="\n".join(lines[first:]))]


def _cause(error: Exception) -> str:
    if out_of_memory(error):
        return "it does not fit into memory: set reward_model.device=cpu"
    if isinstance(error, ImportError):
        return f"it needs a package that is not here ({first_line(error)}): install it"
    return f"{first_line(error)}: download it again"
