"""Sentence embeddings over sentence-transformers: batched, cached by text, long texts chunked and never cut."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from expertchat.backends.base import Embedding, EmbedRequest
from expertchat.backends.hardware import choose_device
from expertchat.config import ConfigError
from expertchat.text import sentences

Count = Callable[[str], int]


class SentenceEmbedder:
    """Unit-length vectors. A text over the model's limit is split at sentences (at words, then at characters, where one is too long); its
    vector is the mean of the chunks' vectors weighted by their tokens, made unit length again.

    `cache_size` texts are remembered.
    """

    def __init__(self, model: Any, name: str, batch_size: int = 64, cache_size: int = 20_000) -> None:
        self.name, self.batch_size, self.cache_size = name, batch_size, cache_size
        self._model = model
        special = len(model.tokenizer("", add_special_tokens=True)["input_ids"])
        self.limit = max(1, (model.max_seq_length or model.tokenizer.model_max_length) - special)
        self._cache: OrderedDict[str, tuple[float, ...]] = OrderedDict()

    @classmethod
    def load(cls, folder: Path, name: str, device: str = "auto", batch_size: int = 64) -> SentenceEmbedder:
        """Load a checked sentence-transformers folder. Raises ConfigError."""
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as transformers_logging

        where, _ = choose_device("auto" if device == "balanced" else device)
        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()
        try:
            # fp32 everywhere: the model is small, and half precision on a CPU gives other digits in other batches.
            settings = {"use_safetensors": True, "dtype": torch.float32}
            model = SentenceTransformer(
                str(folder), device=where, trust_remote_code=False, local_files_only=True, model_kwargs=settings
            )
        except Exception as error:  # whatever a broken folder makes the loaders raise, the user gets one message
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ConfigError(f"embedder {name} ({folder}): cannot be loaded: {lines[0]}; download it again or set embedder.path") from None
        return cls(model, name, batch_size)

    def embed(self, requests: Sequence[EmbedRequest]) -> list[Embedding]:
        """The vectors of the requests' texts, in their order."""
        texts = list(dict.fromkeys(request.text for request in requests))
        vectors = {text: self._cache[text] for text in texts if text in self._cache}
        vectors |= self._compute([text for text in texts if text not in vectors])
        for text in texts:
            self._cache[text] = vectors[text]
            self._cache.move_to_end(text)
        while len(self._cache) > self.cache_size:
            self._cache.popitem(last=False)
        return [Embedding(vectors[request.text]) for request in requests]

    def _compute(self, texts: Sequence[str]) -> dict[str, tuple[float, ...]]:
        chunks = {text: chunk(text, self.limit, self._count) for text in texts}
        flat = list(dict.fromkeys(piece for pieces in chunks.values() for piece in pieces))
        if not flat:
            return {}
        found = self._model.encode(flat, batch_size=self.batch_size, show_progress_bar=False, convert_to_numpy=True)
        rows = {piece: [float(x) for x in row] for piece, row in zip(flat, found, strict=True)}
        return {
            text: weighted_mean([_unit(rows[piece]) for piece in pieces], [max(1, self._count(piece)) for piece in pieces])
            for text, pieces in chunks.items()
        }

    def _count(self, text: str) -> int:
        return len(self._model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def chunk(text: str, limit: int, count: Count) -> list[str]:
    """Pieces of at most `limit` tokens by `count`, split at sentences where possible, else at words, else at characters."""
    if count(text) <= limit:
        return [text]

    def by_words(sentence: str) -> list[str]:
        return _pack(sentence.split(), limit, count, lambda word: _halve(word, limit, count))

    return _pack(sentences(text), limit, count, by_words)


def _pack(parts: Sequence[str], limit: int, count: Count, split: Callable[[str], list[str]]) -> list[str]:
    """Parts joined by spaces as long as they fit; a part that is too long by itself is `split`."""
    packed: list[str] = []
    for part in parts:
        if count(part) > limit:
            packed.extend(split(part))
        elif packed and count(f"{packed[-1]} {part}") <= limit:
            packed[-1] = f"{packed[-1]} {part}"
        else:
            packed.append(part)
    return packed


def _halve(word: str, limit: int, count: Count) -> list[str]:
    if count(word) <= limit or len(word) < 2:
        return [word]
    middle = len(word) // 2
    return _halve(word[:middle], limit, count) + _halve(word[middle:], limit, count)


def weighted_mean(vectors: Sequence[Sequence[float]], weights: Sequence[float]) -> tuple[float, ...]:
    """The mean of `vectors` with `weights`, scaled to length 1."""
    return tuple(_unit([sum(w * x for w, x in zip(weights, column, strict=True)) for column in zip(*vectors, strict=True)]))


def _unit(vector: Sequence[float]) -> list[float]:
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector] if length > 0 else list(vector)
