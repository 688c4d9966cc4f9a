"""What any reward model is shown of what was said, and what its number comes to. No torch here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from expertchat.backends.base import Valued
from expertchat.config import RewardModelConfig
from expertchat.records import Message


def shorter(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """The messages, ever less of them from the oldest on: each begins with a user's; of the last one at least its last line is left."""
    for first, message in enumerate(messages):
        if message.role == "user":
            yield messages[first:]
    lines = messages[-1].content.split("\n")
    for first in range(1, len(lines)):
        yield [messages[-1]._replace(content="\n".join(lines[first:]))]


def valued(score: float, config: RewardModelConfig) -> Valued:
    """A score with the reward that it comes to."""
    if not math.isfinite(score):
        return Valued(None, None, "the score is not a number")
    return Valued(score, math.tanh((score - config.center) / config.scale))
