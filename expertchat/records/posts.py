"""What `expertchat posts` keeps: every post that was written, with what became of it."""

from __future__ import annotations

from typing import Literal

from expertchat.records.run import Record

Fault = Literal["blank", "refusal", "cut", "altered", "language", "near"]


class Post(Record):
    """A post as it was written (`id` = sNNNN/aN: the place that it was for, and which attempt).

    `fault`: why it is not taken; None: it is. `near`: the taken post whose embedding is nearest, and `similarity` the cosine of the two.
    """

    place: int
    language: str
    persona: str
    topic: str
    text: str
    tokens: int = 0
    fault: Fault | None = None
    near: str | None = None
    similarity: float | None = None
