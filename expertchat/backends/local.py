"""A backend over transformers: left-padded batches, the same text for the same request whatever else is in the batch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from expertchat.backends.base import Completion, Decoding, GenerateRequest, ModelInfo, OnText, ScoreRequest, Scores
from expertchat.backends.decoding import KeyedSampling, contrastive_search, left_pad, positions, uniforms
from expertchat.backends.rendering import Renderer
from expertchat.backends.scoring import Tokens, common_prefix, exclude_extensions, paths
from expertchat.backends.streaming import Row, Watch
from expertchat.backends.weights import load_weights
from expertchat.config import ConfigError
from expertchat.records import Message

T = TypeVar("T")


class LocalBackend:
    """Runs one causal language model. `seed` and a request's key fix the noise of its reply.

    `stop_tokens` (token strings) end a message besides the end tokens of the tokenizer, of the generation config and of the chat template;
    those that the vocabulary lacks are ignored. At most `max_batch` rows run at once. Raises ConfigError without a chat template.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str,
        seed: int = 0,
        *,
        context_length: int | None = None,
        stop_tokens: Sequence[str] = (),
        notes: Sequence[str] = (),
        max_batch: int = 64,
    ) -> None:
        self.model, self.tokenizer, self.seed, self.max_batch = model.eval(), tokenizer, seed, max_batch
        self.renderer = Renderer(tokenizer, name)
        self.end_ids = _end_ids(model, tokenizer, self.renderer, stop_tokens)
        self.pad_id = next(i for i in (tokenizer.pad_token_id, *self.end_ids, 0) if i is not None)
        # The model's own generation settings (repetition penalties, top-k, ...) would mix into every decoding that leaves them open.
        model.generation_config = GenerationConfig(pad_token_id=self.pad_id, eos_token_id=list(self.end_ids) or None)
        holds = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 0
        notes = list(notes)
        if context_length and holds and context_length > holds:
            notes.append(f"context_length {context_length} is more than the {holds} tokens that the model was made for")
        self.info = ModelInfo(
            name=name,
            context_length=context_length or holds,
            special_tokens=self.renderer.special_tokens,
            notes=tuple(notes),
            system_role=self.renderer.system_role,
            alternation=self.renderer.alternation,
        )

    @classmethod
    def load(
        cls, folder: Path, name: str, seed: int = 0, *, dtype: str = "auto", device: str = "auto", attention: str = "auto", **more: Any
    ) -> LocalBackend:
        """Load a checked model folder; `more` goes to the constructor. Raises ConfigError with one message."""
        loaded = load_weights(folder, name, dtype=dtype, device=device, attention=attention)
        return cls(loaded.model, loaded.tokenizer, name, seed, notes=[*loaded.notes, *more.pop("notes", ())], **more)

    # -- generation -------------------------------------------------------------------------------------------------

    def generate(self, requests: Sequence[GenerateRequest], on_text: OnText | None = None) -> list[Completion]:
        """Complete every request. Rows of about the same length run together, one batch per decoding."""
        prompts = [self.renderer.encode(request.messages, request.prefix) for request in requests]
        groups: dict[Decoding, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(request.decoding, []).append(i)
        results: dict[int, Completion] = {}
        for decoding, members in groups.items():
            for batch in _chunks(sorted(members, key=lambda i: (len(prompts[i]), i)), self.max_batch):
                rows = [Row(self.tokenizer, i, prompts[i], self._room(prompts[i], decoding), requests[i].stop) for i in batch]
                started = time.perf_counter()
                self._run(decoding, [requests[i].key for i in batch], [prompts[i] for i in batch], rows, on_text)
                seconds = time.perf_counter() - started
                for row in rows:
                    results[row.index] = Completion(row.text(last=True), row.tokens, seconds, row.finish or "length")
        return [results[i] for i in range(len(requests))]

    def _room(self, prompt: Sequence[int], decoding: Decoding) -> int:
        """How many new tokens a row may have. Raises ConfigError if the prompt alone fills the context."""
        holds = self.info.context_length
        if holds and len(prompt) >= holds:
            raise ConfigError(
                f"model {self.info.name}: a prompt takes {len(prompt)} tokens, but the context holds {holds}; shorten the dialogue "
                "(conversation.turns, max_new_tokens) or use a model with a longer context"
            )
        return min(decoding.max_new_tokens, holds - len(prompt)) if holds else decoding.max_new_tokens

    @torch.inference_mode()
    def _run(self, decoding: Decoding, keys: list[str], prompts: list[list[int]], rows: list[Row], on_text: OnText | None) -> None:
        """Fill `rows` with new tokens."""
        ids_B_S, mask_B_S = left_pad(prompts, self.pad_id, self.model.device)
        limit = max(row.limit for row in rows)
        watch = Watch(rows, self.end_ids, on_text)
        if decoding.method == "contrastive":
            contrastive_search(self.model, ids_B_S, mask_B_S, decoding, limit, watch)
        elif decoding.method == "beam":
            out_B_T = self._generate(ids_B_S, mask_B_S, max_new_tokens=limit, num_beams=decoding.beams)
            self._fill(rows, out_B_T[:, ids_B_S.shape[1] :].tolist())
        else:
            draw = LogitsProcessorList()
            if decoding.method == "sampling":
                noise_B_T = [uniforms(self.seed, key, limit) for key in keys]
                draw.append(KeyedSampling(noise_B_T, ids_B_S.shape[1], decoding))
            self._generate(ids_B_S, mask_B_S, logits_processor=draw, stopping_criteria=StoppingCriteriaList([watch]), max_new_tokens=limit)
        watch.announce(last=True)

    def _generate(self, ids_B_S: Tensor, mask_B_S: Tensor, num_beams: int = 1, max_new_tokens: int = 1, **more: Any) -> Tensor:
        settings = GenerationConfig(
            do_sample=False,
            num_beams=num_beams,
            max_new_tokens=max_new_tokens,
            pad_token_id=self.pad_id,
            eos_token_id=list(self.end_ids) or None,
        )
        out: Tensor = self.model.generate(input_ids=ids_B_S, attention_mask=mask_B_S, generation_config=settings, **more)
        return out

    def _fill(self, rows: list[Row], tokens_B_T: list[list[int]]) -> None:
        for row, tokens in zip(rows, tokens_B_T, strict=True):
            for token in tokens:
                if row.finish is None:
                    row.add(token, token in self.end_ids)

    # -- scoring ----------------------------------------------------------------------------------------------------

    def score(self, requests: Sequence[ScoreRequest]) -> list[Scores]:
        """Log probabilities of the options of every request, in one pass over its context.

        Context and option are tokenised as one string and split at their longest common token prefix. All options whose
        beginnings lie on one path of tokens (" 1" to " 10" with every known tokenizer) need one row.
        """
        started = time.perf_counter()
        plans = [self._plan(request) for request in requests]
        rows = [(i, path) for i, (_, options) in enumerate(plans) for path in paths(options)]
        rows.sort(key=lambda row: len(plans[row[0]][0]) + len(row[1]))
        found: list[dict[Tokens, float]] = [{} for _ in plans]
        for batch in _chunks(rows, self.max_batch):
            self._score_rows(batch, plans, found)
        results = [exclude_extensions(options, [have[o] for o in options]) for (_, options), have in zip(plans, found, strict=True)]
        seconds = time.perf_counter() - started
        return [Scores(tuple(result), seconds) for result in results]

    def _plan(self, request: ScoreRequest) -> tuple[Tokens, list[Tokens]]:
        """The tokens of the context, and those of each option after it."""
        context = self.renderer.text(request.messages, request.prefix)
        rows = self.renderer.batch_ids([context, *(context + option for option in request.options)])
        split = min(common_prefix(rows), min(len(row) for row in rows[1:]) - 1)
        holds = self.info.context_length
        if holds and max(map(len, rows)) > holds:
            raise ConfigError(
                f"model {self.info.name}: a judge's prompt takes {max(map(len, rows))} tokens, but the context holds {holds}; "
                "use fewer or shorter turns, or a model with a longer context"
            )
        return tuple(rows[1][:split]), [tuple(row[split:]) for row in rows[1:]]

    @torch.inference_mode()
    def _score_rows(
        self, batch: Sequence[tuple[int, Tokens]], plans: Sequence[tuple[Tokens, list[Tokens]]], found: list[dict[Tokens, float]]
    ) -> None:
        """One pass over context + path of each row; enters the log probability of every option that lies on the path."""
        ids_B_S, mask_B_S = left_pad([[*plans[i][0], *path] for i, path in batch], self.pad_id, self.model.device)
        keep = max(len(path) for _, path in batch) + 1
        out = self.model(input_ids=ids_B_S, attention_mask=mask_B_S, position_ids=positions(mask_B_S), use_cache=False, logits_to_keep=keep)
        logps_B_T_V = out.logits[:, -keep:].float().log_softmax(-1)
        for b, (i, path) in enumerate(batch):
            first = keep - 1 - len(path)
            for option in plans[i][1]:
                if path[: len(option) - 1] == option[:-1]:
                    at = torch.arange(first, first + len(option))
                    found[i][option] = float(logps_B_T_V[b, at, list(option)].double().sum())

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of the rendered chat, generation prompt included."""
        return len(self.renderer.encode(messages))


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _end_ids(model: Any, tokenizer: Any, renderer: Renderer, stop_tokens: Sequence[str]) -> tuple[int, ...]:
    """Ids that end a message: of the tokenizer, the generation config, the chat template and the family."""
    configured = model.generation_config.eos_token_id
    configured = configured if isinstance(configured, list | tuple) else [configured]
    vocabulary = tokenizer.get_vocab()
    family = [vocabulary[token] for token in stop_tokens if token in vocabulary]
    return tuple(dict.fromkeys(i for i in [tokenizer.eos_token_id, *configured, renderer.end_token(), *family] if i is not None))
