"""Sentence embeddings over sentence-transformers: each text by itself where that is fastest, cached, long texts chunked and never cut."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from expertchat.backends.base import Embedder, Embedding, EmbedRequest
from expertchat.backends.chunks import chunk, unit, weighted_mean
from expertchat.backends.claims import position_table
from expertchat.backends.hardware import SMALL, choose_device, choose_dtype, parameters_of
from expertchat.backends.unloadable import out_of_memory
from expertchat.config import ConfigError
from expertchat.text.sentences import first_line


class SentenceEmbedder(Embedder):
    """Unit-length vectors. A text over the model's limit is split at sentences (at words, then at characters, where one is too long); its
    vector is the mean of the chunks' vectors weighted by their tokens, made unit length again.

    On a CPU a model that is not small embeds one text after the other: padding costs more than batches gain, and a text's vector does not
    depend on what else is asked. Elsewhere `batch_size` texts of nearly equal length share a pass. `cache_size` texts are remembered.
    `notes`: what its folder claims and has not, and its number type where that is not fp32.
    """

    def __init__(self, model: Any, name: str, batch_size: int = 64, cache_size: int = 20_000, notes: Sequence[str] = ()) -> None:
        self.name, self.cache_size = name, cache_size
        self.notes = list(notes)
        self._model = model
        alone = model.device.type == "cpu" and sum(weight.numel() for weight in model.parameters()) >= SMALL
        self.batch_size = 1 if alone else batch_size
        special = len(model.tokenizer("", add_special_tokens=True)["input_ids"])
        claimed, held = model.max_seq_length or model.tokenizer.model_max_length, position_table(model, _words(model))
        if held is not None and claimed > held[1]:
            self.notes.append(f"embedder {name}: it claims {claimed} tokens, but has {held[1]} positions: chunks are as long as that")
            claimed = model.max_seq_length = held[1]
        self.limit = max(1, claimed - special)
        self._cache: OrderedDict[str, tuple[float, ...]] = OrderedDict()
        self._counts: dict[str, int] = {}  # tokens of what is being embedded

    @classmethod
    def load(cls, folder: Path, name: str, device: str = "auto", batch_size: int = 64, dtype: str = "auto") -> SentenceEmbedder:
        """Load a checked sentence-transformers folder; `dtype`: auto, fp32, bf16 or fp16. Raises ConfigError."""
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as transformers_logging

        where, _ = choose_device("auto" if device == "balanced" else device)
        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()
        numbers, why = choose_dtype(dtype, where, _parameters(folder))
        try:
            settings = {"use_safetensors": True, "dtype": numbers}
            model = SentenceTransformer(str(folder), device=where, trust_remote_code=False, local_files_only=True, model_kwargs=settings)
        except Exception as error:  # whatever a broken folder makes the loaders raise, the user gets one message
            raise ConfigError(f"embedder {name} ({folder}): cannot be loaded: {_cause(error, folder)}, or set embedder.path") from None
        if numbers != torch.float32:
            _pool_exactly(model)
        problem = _unfit(model)
        if problem:
            raise ConfigError(f"embedder {name} ({folder}): {problem}, or set embedder.path")
        notes = []
        if why and numbers != torch.float32:
            notes.append(f"embedder {name}: {why.replace('dtype=', 'embedder.dtype=')}")
        if not (folder / "modules.json").is_file():
            notes.append(
                f"embedder {name}: its folder has no modules.json, so it is a language model rather than a sentence embedder; the mean of "
                "its last hidden states is taken, by which WIM scores mean little"
            )
        return cls(model, name, batch_size, notes=notes)

    @property
    def device(self) -> str:
        return str(self._model.device)

    @property
    def dtype(self) -> torch.dtype:
        """The number type of its transformer."""
        dtype: torch.dtype = next(self._model[0].parameters()).dtype
        return dtype

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
        self._counts = {}
        chunks = {text: chunk(text, self.limit, self.count) for text in texts}
        flat = list(dict.fromkeys(piece for pieces in chunks.values() for piece in pieces))
        if not flat:
            return {}
        found = self._model.encode(flat, batch_size=self.batch_size, show_progress_bar=False, convert_to_numpy=True)
        rows = {piece: row.tolist() for piece, row in zip(flat, found, strict=True)}
        return {
            text: weighted_mean([unit(rows[piece]) for piece in pieces], [max(1, self.count(piece)) for piece in pieces])
            for text, pieces in chunks.items()
        }

    def count(self, text: str) -> int:
        """Tokens of a text without the special ones; each text is cut into tokens once in a call of `embed`."""
        if text not in self._counts:
            self._counts[text] = len(self._model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        return self._counts[text]


def _parameters(folder: Path) -> int:
    """The numbers of an embedder's transformer and of its other parts, each in a folder of its own or at the root."""
    return sum(parameters_of(place) for place in {file.parent for file in folder.rglob("model.safetensors")})


def _pool_exactly(model: Any) -> None:
    """Let what follows a transformer in half precision compute in fp32: the mean of many tokens would lose digits that cosines need."""

    def widened(part: Any, given: Any, found: dict[str, Any]) -> dict[str, Any]:
        return {key: value.float() if torch.is_tensor(value) and value.is_floating_point() else value for key, value in found.items()}

    first, *others = model
    first.register_forward_hook(widened)
    for part in others:
        part.float()


def _cause(error: Exception, folder: Path) -> str:
    """Why an embedder could not be loaded, and what to do first."""
    if out_of_memory(error):
        return "it does not fit into memory: set embedder.device=cpu"
    if isinstance(error, ImportError):
        return f"it needs a package that is not here ({first_line(error)}): install it"
    if isinstance(error, PermissionError):
        return f"{error.filename or 'a file'} may not be read: correct its permissions"
    return f"{first_line(error)}: download it again"


def _words(model: Any) -> Any:
    """The embedding of tokens of the transformer in an embedder, or None."""
    inner = next((part.auto_model for part in model if hasattr(part, "auto_model")), None)
    return None if inner is None else inner.get_input_embeddings()


def _unfit(model: Any) -> str | None:
    """What an embedder's folder claims and does not hold, by one short pass; or None."""
    words, tokenizer = _words(model), model.tokenizer
    if not callable(tokenizer):
        return f"is no transformer ({', '.join(type(part).__name__ for part in model)}), and no other embedder is run: name one"
    tokens = max([len(tokenizer), *(i + 1 for i in getattr(tokenizer, "added_tokens_decoder", {}))])
    if words is not None and tokens > (rows := words.weight.shape[0]):
        return f"its tokenizer makes {tokens} tokens, but it has embeddings for {rows} only: use the tokenizer that belongs to it"
    try:
        vector = model.encode(["Herons fish."], show_progress_bar=False, convert_to_numpy=True)[0]
    except Exception as error:  # whatever modules that do not fit together raise
        parts = [type(part).__name__ for part in model]
        if not any("Pooling" in part for part in parts):
            return f"its modules.json names no pooling ({', '.join(parts)}), so it gives no vector for a text: name a sentence embedder"
        return f"its first pass fails ({type(error).__name__}: {first_line(error)}): download it again"
    sizes = getattr(model, "get_embedding_dimension", None) or model.get_sentence_embedding_dimension
    if vector.ndim != 1 or (sizes() is not None and sizes() != len(vector)):
        return f"it claims vectors of {sizes()} numbers, and gives {'x'.join(map(str, vector.shape))}: download it again"
    if not all(map(math.isfinite, vector)) or not any(vector):
        return f"its vectors are {'not finite' if any(vector) else 'zero'}: download it again"
    return None
