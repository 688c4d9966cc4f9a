"""What stands in a model's place where a person sits: it computes nothing, and knows no limit. Who types is the terminal's matter."""

from __future__ import annotations

from collections.abc import Sequence

from expertchat.backends.base import Backend, Completion, GenerateRequest, ModelInfo, OnText, ScoreRequest, Scores
from expertchat.config import ConfigError
from expertchat.records import Message

CONTEXT = 1_000_000  # words that a person may be shown


class Person(Backend):
    """Asked by nothing: whoever asks it for a reply or for probabilities is told so."""

    def __init__(self) -> None:
        self.info = ModelInfo("a person", CONTEXT)

    def generate(self, requests: Sequence[GenerateRequest], on_text: OnText | None = None) -> list[Completion]:
        raise ConfigError("backend=human: a person types in `expertchat converse` and its branches, and is asked for nothing else")

    def score(self, requests: Sequence[ScoreRequest]) -> list[Scores]:
        raise ConfigError("backend=human: a person gives no probabilities")

    def count_tokens(self, messages: Sequence[Message]) -> int:
        return sum(len(message.content.split()) for message in messages)
