"""A reward model: a sequence-classification model that gives every reply one number, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expertchat.backends.base import Valued, Valuer, ValueRequest
from expertchat.backends.claims import position_table
from expertchat.backends.hardware import choose_device, choose_dtype, parameters_of
from expertchat.backends.quantization import Kind, bits_config, compute_exactly, unquantised
from expertchat.backends.rendering import Renderer
from expertchat.backends.reward_folders import ADAPTER_WEIGHTS, base_of, facts_of, find_reward_model, is_adapter, labels_of, reads_two
from expertchat.backends.reward_texts import shorter, valued
from expertchat.backends.unloadable import out_of_memory
from expertchat.config import ConfigError, RewardModelConfig
from expertchat.records import Message
from expertchat.text.harmless import neutralise
from expertchat.text.sentences import first_line, shown_path

Tokens = dict[str, list[int]]
"""What a model is shown of a request: input_ids, and token_type_ids where it has any."""
OF_TYPE = "type"  # as reward_model.label: the one that is called as the text's type
HEADS = ("score", "classifier", "classification_head", "pooler")  # what a model that was not trained to give numbers has not


class RewardModel(Valuer):
    """Scores on the model's own scale: with one label its logit, with two the second's less the first's (the log odds of label 1).

    A tokenizer with a chat template is shown the chat with the reply as the assistant's last message, any other the pair (what was said,
    the reply). One that `compares` is shown what was said with the first text, then the reply; its score is the log odds that the reply is
    the better one. The oldest messages are left out where the whole is too long; a reply that does not fit by itself has no score. Without
    `history` it is shown the topic alone of what was said before (the first line), and where it reads texts `alone` nothing of it.
    """

    def __init__(
        self, model: Any, tokenizer: Any, name: str, config: RewardModelConfig, labels: int, compares: bool = False, history: bool = True,
        alone: bool = False,
    ) -> None:  # fmt: skip
        self.model, self.tokenizer, self.name, self.config, self.labels, self.compares = model, tokenizer, name, config, labels, compares
        self.history, self.alone = history, alone
        chats = bool(getattr(tokenizer, "chat_template", None)) and not compares
        self.renderer = Renderer(tokenizer, name) if chats else None
        held = position_table(model, model.get_input_embeddings())  # which may be fewer than the config says: some keep a place for padding
        claimed = getattr(model.config, "max_position_embeddings", None) if held is None else held[1]
        known = [config.max_tokens, claimed, tokenizer.model_max_length]
        self.limit = min(int(one) for one in known if one is not None and one > 0)
        self.notes: list[str] = []
        self.names = {str(label): int(i) for i, label in (getattr(model.config, "id2label", None) or {}).items()}
        if config.label not in (None, OF_TYPE, *self.names):
            raise ConfigError(f"reward_model.label={config.label}: {name} has no such label; it has {', '.join(self.names)}")

    @classmethod
    def load(cls, config: RewardModelConfig) -> RewardModel:
        """Load the model of a checked folder. Raises ConfigError for one that is none, or cannot be loaded."""
        folder, name = find_reward_model(config.path, config.revision, config.models_dir, config.label), shown_path(config.path)
        base = base_of(folder, config.models_dir) if is_adapter(folder) else folder
        device, _ = choose_device(config.device)
        dtype, why = choose_dtype(config.dtype, device, parameters_of(base))
        kind: Kind = facts_of(folder).get("quantization", "none")
        try:
            model, tokenizer, missing = load_classifier(base, device, dtype, kind, folder)
            if is_adapter(folder):
                model = _with_adapter(model, folder, kind)
        except Exception as error:  # whatever a broken folder makes the loaders raise, the user gets one message
            raise ConfigError(f"reward_model.path={config.path}: cannot be loaded: {_cause(error)}") from None
        if missing and base == folder:
            raise ConfigError(
                f"reward_model.path={config.path}: its weights lack {', '.join(missing[:3])}, so its scores would be random; name a model "
                "that was trained to give rewards"
            )
        facts = facts_of(folder)
        settings = config.model_copy(update={"max_tokens": config.max_tokens or facts.get("max_tokens")})
        shown = {"compares": reads_two(folder), "history": bool(facts.get("history", True)), "alone": bool(facts.get("alone", False))}
        found = cls(model.eval(), tokenizer, name, settings, labels_of(folder), **shown)
        if why and dtype != torch.float32:
            found.notes.append(f"reward model {name}: {why.replace('dtype=', 'reward_model.dtype=')}")
        return found

    @property
    def device(self) -> str:
        return str(self.model.device)

    def value(self, requests: Sequence[ValueRequest]) -> list[Valued]:
        """The worth of each reply, in the order of the requests."""
        rows = [self.row(request) for request in requests]
        order = sorted((i for i, row in enumerate(rows) if row is not None), key=lambda i: len(rows[i]["input_ids"]))  # type: ignore[index]
        found: dict[int, Valued] = {}
        for start in range(0, len(order), self.config.batch_size):
            part = order[start : start + self.config.batch_size]
            logits_B_L = self.logits([row for i in part if (row := rows[i]) is not None])
            found |= {i: self._valued(one, requests[i].label) for i, one in zip(part, logits_B_L, strict=True)}
        too_long = Valued(None, None, f"the reply does not fit into the {self.limit} tokens of the reward model")
        return [found.get(i, too_long) for i in range(len(requests))]

    def row(self, request: ValueRequest) -> Tokens | None:
        """The tokens of a request without its oldest messages, and then the oldest lines, that do not fit; None where nothing fits."""
        if self.alone:
            row = self._tokens(neutralise(request.reply, self.tokenizer.all_special_tokens))
            return row if len(row["input_ids"]) <= self.limit else None
        for shown in shorter(request.messages if self.history else _topic(request.messages)):
            row = self._encoded(shown, request.reply, request.first)
            if len(row["input_ids"]) <= self.limit:
                return row
        return None

    def _encoded(self, messages: Sequence[Message], reply: str, first: str | None = None) -> Tokens:
        if self.renderer is not None:
            return {"input_ids": self.renderer.encode(messages) + self.renderer.reply(messages, Message("assistant", reply))}
        special = self.tokenizer.all_special_tokens
        said = "\n".join(message.content for message in messages)
        before, text = neutralise(said, special), neutralise(reply, special)
        mark = self.tokenizer.sep_token or ""  # no text can hold it
        shown = before if first is None else f"{before} {mark} {neutralise(first, special)}"
        return self._tokens(shown, text)

    def _tokens(self, *texts: str) -> Tokens:
        row = self.tokenizer(*texts, add_special_tokens=True)
        return {key: row[key] for key in ("input_ids", "token_type_ids") if key in row}

    def batch(self, rows: Sequence[Tokens]) -> dict[str, Tensor]:
        """Rows as tensors [B, longest], padded on the right."""
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
        return given

    @torch.inference_mode()
    def logits(self, rows: Sequence[Tokens]) -> Tensor:
        """The logits [B, labels] of rows, in one pass."""
        logits_B_L: Tensor = self.model(**self.batch(rows)).logits.float()
        return logits_B_L

    def _padding(self, ids: Sequence[Sequence[int]]) -> int:
        """The tokenizer's token for padding; where a text ends with that one, another with which none ends."""
        last, own = {one[-1] for one in ids}, self.tokenizer
        usual = [own.pad_token_id, own.bos_token_id, own.unk_token_id]
        return next(token for token in [*usual, *range(len(last) + 1)] if token is not None and token not in last)

    def _valued(self, logits_L: Tensor, of: str | None = None) -> Valued:
        """What the logits of one text come to; `of`: its type."""
        if not bool(logits_L.isfinite().all()):
            return Valued(None, None, "the score is not a number")
        if self.config.label is not None:
            return self._likely(logits_L, of if self.config.label == OF_TYPE else self.config.label)
        return valued(float(logits_L[0] if self.labels == 1 else logits_L[1] - logits_L[0]), self.config)

    def _likely(self, logits_L: Tensor, label: str | None) -> Valued:
        """How likely a label is."""
        if label not in self.names:
            said = "the text has no type" if label is None else f"the classifier has no label {label!r}"
            return Valued(None, None, f"{said}: its labels are {', '.join(self.names)}")
        likely = float(torch.sigmoid(logits_L[0]) if self.labels == 1 else logits_L.softmax(0)[self.names[label]])
        first = None if self.labels == 1 else next(name for name, at in self.names.items() if at == int(logits_L.argmax()))
        return Valued(likely, 2 * likely - 1, likeliest=first)


def load_classifier(
    base: Path, device: str, dtype: torch.dtype, kind: Kind = "none", words: Path | None = None, labels: int | None = None
) -> tuple[Any, Any, list[str]]:
    """A sequence classifier with its tokenizer (of the folder `words`, or its own), and the weights that its folder lacks.

    `labels`: so many outputs; None: as the folder says. Raises whatever the loaders raise.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(words or base, trust_remote_code=False, local_files_only=True)
    settings: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False, "local_files_only": True, "dtype": dtype}
    if (bits := bits_config(kind, dtype)) is not None:
        bits.llm_int8_skip_modules = list(HEADS)  # what is trained whole stays whole
        settings |= {"quantization_config": bits, "device_map": {"": device}}
    if labels is not None or words not in (None, base):
        settings["num_labels"] = labels or 1
    model, told = AutoModelForSequenceClassification.from_pretrained(base, output_loading_info=True, **settings)
    if bits is None:
        return model.to(device), tokenizer, sorted(told["missing_keys"])
    compute_exactly(model)
    plain = [name for name in unquantised(model, kind) if set(HEADS).isdisjoint(name.split("."))]
    if plain:
        raise ValueError(f"quantization={kind} leaves {len(plain)} of its weights as they are ({plain[0]}, ...): set quantization=none")
    return model, tokenizer, sorted(told["missing_keys"])


def _with_adapter(model: Any, folder: Path, kind: Kind) -> Any:
    """A classifier with its adapter and score head; worked in, unless its weights are in 4 or 8 bits."""
    from peft import PeftModel
    from safetensors import safe_open

    with safe_open(folder / ADAPTER_WEIGHTS, "pt") as file:
        names = list(file.keys())
    if not any(f".{head}." in name for name in names for head in HEADS):
        raise ValueError("its adapter holds no score head, so its scores would be random")
    adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=False, low_cpu_mem_usage=False)
    return adapted.merge_and_unload().to(model.dtype) if kind == "none" else with_exact_head(adapted)


def with_exact_head(model: Any) -> Any:
    """A classifier whose head may be in another number type than what it reads: that is put into the head's."""
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and not set(HEADS).isdisjoint(path.split(".")):
            module.register_forward_pre_hook(_as_its_weights)
    return model


def _as_its_weights(module: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(one.to(module.weight.dtype) if torch.is_tensor(one) else one for one in given)


def _topic(messages: Sequence[Message]) -> list[Message]:
    """What is talked about, which is the first line of what was said."""
    return [messages[0]._replace(content=messages[0].content.partition("\n")[0])]


def _cause(error: Exception) -> str:
    if out_of_memory(error):
        return "it does not fit into memory: set reward_model.device=cpu"
    if isinstance(error, ImportError):
        return f"it needs a package that is not here ({first_line(error)}): install it"
    return f"{first_line(error)}: download it again"
