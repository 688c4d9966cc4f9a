"""Sentence embeddings of a server (/v1/embeddings): unit length, long texts chunked, each text asked for once in a run."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Sequence
from typing import Any

from expertchat.backends.base import Capabilities, Embedder, Embedding, EmbedRequest
from expertchat.backends.chunks import chunk, unit, weighted_mean
from expertchat.backends.served.can import there
from expertchat.backends.served.client import Client, wait_for
from expertchat.backends.served.lane import Asked, OnText
from expertchat.backends.served.reading import Usage, usage
from expertchat.backends.served.trouble import Denied, Refused
from expertchat.config import ConfigError, EmbedderConfig
from expertchat.folder.run import Halted

PIECE = 1200  # bytes of a text that go to the model at once: some 400 tokens, which every embedder takes


class ServedEmbedder(Asked, Embedder):
    """`model` at an address. What a text is cut into does not depend on the server, so that two of them may be compared."""

    capabilities = Capabilities(scores=False, apart=True)

    def __init__(self, client: Client, model: str, prices: Sequence[float] | None = None) -> None:
        self.client, self.name, self.prices = client, model, prices
        self.note: str | None = f"embedder: {model} at {client.name}"
        self._asked: dict[str, asyncio.Task[tuple[float, ...]]] = {}  # a text that several want at once is asked for once

    @classmethod
    def connect(cls, config: EmbedderConfig, client: Client) -> ServedEmbedder:
        """Embed a word, to see that there is somebody. Raises ConfigError."""
        made = cls(client, str(config.model), config.prices)
        try:
            wait_for(there(client))
            wait_for(client.ask("/embeddings", {"model": made.name, "input": ["herons"]}, vectors))
        except (Denied, Refused, Halted) as error:
            raise ConfigError(f"embedder: {error}") from None
        return made

    def embed(self, requests: Sequence[EmbedRequest]) -> list[Embedding]:
        return self._all(requests)

    async def _answer(self, request: EmbedRequest, on_text: OnText | None = None) -> Embedding:
        try:
            return Embedding(await self._vector(request))
        except Denied as error:
            raise Halted(str(error)) from None
        except Refused as error:
            return Embedding((), str(error))

    async def _vector(self, request: EmbedRequest) -> tuple[float, ...]:
        name = hashlib.sha256(repr(("embed", self.name, request.text)).encode("utf-8", "replace")).hexdigest()[:32]
        if (kept := self.client.terms.ledger.find(name)) is not None and kept.vector is not None:
            return tuple(kept.vector)
        if name not in self._asked:
            self._asked[name] = asyncio.ensure_future(self._ask(name, request))
        try:
            return await asyncio.shield(self._asked[name])
        finally:
            if name in self._asked and self._asked[name].done():
                del self._asked[name]

    async def _ask(self, name: str, request: EmbedRequest) -> tuple[float, ...]:
        pieces = chunk(request.text, PIECE, lambda text: len(text.encode()))
        answered = await self.client.ask("/embeddings", {"model": self.name, "input": pieces}, vectors)
        found, used = answered.value
        if len(found) != len(pieces):
            raise Refused(f"server {answered.server}: {len(found)} vectors for {len(pieces)} texts")
        vector = weighted_mean([unit(one) for one in found], [max(1, len(piece.encode())) for piece in pieces])
        if not all(map(math.isfinite, vector)):
            raise Refused(f"server {answered.server}: its vector is not finite")
        self._keep(name, request.key, answered, used, len(request.text.encode("utf-8", "replace")), vector=list(vector))
        return vector


def vectors(found: Any) -> tuple[list[list[float]], Usage]:
    """The vectors of an answer, in the order of the texts."""
    rows = sorted(found["data"], key=lambda row: row["index"])
    return [[float(number) for number in row["embedding"]] for row in rows], usage(found)
