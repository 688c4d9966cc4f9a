"""Doubles for tests of the flow: a backend and an embedder from plain functions, a sink that collects, and a small config."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from expertchat.backends.base import (
    Completion,
    Embedding,
    EmbedRequest,
    GenerateRequest,
    ModelInfo,
    ScoreRequest,
    Scores,
)
from expertchat.command.compose import load
from expertchat.events import AnyEvent
from expertchat.records import Message
from expertchat.talk.config import ConverseConfig

WORDS = (
    "amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "juniper",
    "kelp", "lichen", "maple", "nectar", "otter", "pine", "quartz", "reed", "spruce", "tide",
)


def hashed(key: str) -> int:
    """The same number for the same key in every process."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")


def babble(request: GenerateRequest) -> str:
    """Text that depends on the key and the prompt only: ten words for a turn, two for a topic, a rating for a category, a WIM."""
    prompt = "|".join(m.content for m in request.messages)
    number = hashed(request.key + prompt)
    if "-by-" in request.key and not request.key.endswith(("/analysis", "/wim")):
        return f" {number % 10 + 1}"
    if "/topic/" in request.key:
        return f"{WORDS[number % len(WORDS)]} {WORDS[number // len(WORDS) % len(WORDS)]}"
    return " ".join(WORDS[(number >> i) % len(WORDS)] for i in range(10)) + f" {number}."


class Double:
    """A backend that answers with `reply(request)`. Records its batches as lists of keys."""

    def __init__(
        self,
        reply: Callable[[GenerateRequest], str] = babble,
        score: Callable[[ScoreRequest], Sequence[float]] | None = None,
        context_length: int = 100_000,
        seconds: float = 0.0,
        tokens: int | None = None,
    ) -> None:
        self.info = ModelInfo(name="double", context_length=context_length)
        self.reply, self.options, self.seconds, self.tokens = reply, score, seconds, tokens
        self.finish: Literal["stop", "length"] = "stop"
        self.batches: list[list[str]] = []
        self.requests: list[GenerateRequest | ScoreRequest] = []

    def generate(self, requests: Sequence[GenerateRequest], on_text: Any = None) -> list[Completion]:
        self._seen(requests)
        done = []
        for i, request in enumerate(requests):
            text = self.reply(request)
            if on_text is not None:
                on_text(i, text[: len(text) // 2])
            tokens = len(text.split()) if self.tokens is None else self.tokens
            done.append(Completion(text, tokens, 0.0, self.finish))
        return done

    def score(self, requests: Sequence[ScoreRequest]) -> list[Scores]:
        self._seen(requests)
        if self.options is not None:
            return [Scores(tuple(self.options(r))) for r in requests]
        found = []
        for request in requests:
            best = hashed(request.key + request.messages[-1].content + request.prefix) % 10
            found.append(Scores(tuple(math.log(0.91 if i == best else 0.01) for i in range(10))))
        return found

    def count_tokens(self, messages: Sequence[Message]) -> int:
        return sum(len(m.content.split()) for m in messages)

    def _seen(self, requests: Sequence[GenerateRequest | ScoreRequest]) -> None:
        self.batches.append([r.key for r in requests])
        self.requests += requests
        if self.seconds:
            time.sleep(self.seconds)

    def asked(self) -> list[str]:
        return [key for batch in self.batches for key in batch]


class BagOfWords:
    """Embeds a text as its word counts over 64 hash buckets, unit length: texts with the same words have cosine 1."""

    name = "bag"

    def __init__(self) -> None:
        self.keys: list[str] = []

    def embed(self, requests: Sequence[EmbedRequest]) -> list[Embedding]:
        self.keys += [r.key for r in requests]
        found = []
        for request in requests:
            counts = [0.0] * 64
            for word in request.text.lower().split():
                counts[hashed(word.strip(".,!?")) % 64] += 1
            norm = math.sqrt(sum(c * c for c in counts)) or 1.0
            found.append(Embedding(tuple(c / norm for c in counts)))
        return found


class Collect:
    """A sink that keeps what it is sent."""

    def __init__(self) -> None:
        self.events: list[AnyEvent] = []
        self.closed = 0

    def send(self, event: AnyEvent) -> None:
        self.events.append(event)

    def close(self) -> None:
        self.closed += 1

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@lru_cache(maxsize=64)
def config_of(*overrides: str) -> ConverseConfig:
    """The composed default config with overrides."""
    config = load("converse", ["view=none", "topics=list", "topics.list=[bees,tides,volcanoes]", *overrides])
    assert isinstance(config, ConverseConfig)
    return config


def run(folder: Path | str, *overrides: str, double: Double | None = None, sink: Collect | None = None, b: Double | None = None) -> int:
    """`run_converse` with doubles in place of models."""
    from expertchat.talk.converse import run_converse

    double = double or Double()
    config = config_of(f"run.dir={folder}", *overrides)
    backends = {seat: double for seat in (*config.experts.seats, "third", "moderator")} | {"b": b or double}
    return run_converse(config, ["expertchat", "converse"], sink or Collect(), backends=backends, embedder=BagOfWords())


