"""What is kept: the records of a run, one JSON object a line in the run folder's files.

A `Message` is model-facing (role and text); a `Turn` is neutral (speaker and text). Who is "assistant" and who is
"user" is each expert's own view of a transcript and is decided in one place, `expertchat.experts.base`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

Speaker = Literal["a", "b"]
Role = Literal["system", "user", "assistant"]

StopReason = Literal["turns", "nothing_new", "loop", "context_full", "token_limit"]


def other(speaker: Speaker) -> Speaker:
    """The partner's letter."""
    return "b" if speaker == "a" else "a"


class Message(NamedTuple):
    """One model-facing message."""

    role: Role
    content: str


class Record(BaseModel):
    """Base of all records: a stable `id`, a `schema` number, nothing unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    id: str
    schema_: int = Field(default=1, alias="schema")

    def to_json(self) -> str:
        """One line of JSON, without the newline."""
        return self.model_dump_json(by_alias=True)


class Turn(BaseModel):
    """One turn: `tokens` new tokens in `seconds` of wall time (shared by the batch it ran in)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    speaker: Speaker
    text: str
    tokens: int = 0
    seconds: float = 0.0
    cut: bool = False  # the token limit of a turn ended it, not the model
    note: str | None = None  # e.g. "2 oldest turns not shown: context full"


class ExpertRef(BaseModel):
    """Which model spoke: enough to find it again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    model: str
    revision: str | None = None
    policy_version: int = 0


class Topic(Record):
    """A topic and where it came from ("list", "file", or the proposing expert "a" / "b")."""

    text: str
    source: str


class Transcript(Record):
    """A finished dialogue."""

    topic: str
    experts: dict[Speaker, ExpertRef]
    turns: list[Turn]
    seed: int
    stop_reason: StopReason


class Rating(Record):
    """One judge's rating of one subject in one category.

    `value` is an integer 1..10 read from sampled text, `expected` the probability-weighted mean over the ten options;
    each is None where that form was not asked for or failed, and then `problem` says why.
    """

    transcript: str
    turn: int | None = None
    candidate: str | None = None
    judge: str
    subject: Speaker
    category: str
    value: int | None = Field(default=None, ge=1, le=10)
    expected: float | None = Field(default=None, ge=1, le=10)
    raw: str = ""
    problem: str | None = None

    @property
    def number(self) -> float | None:
        """The number that enters a reward: `expected` where there is one, else `value`, else None."""
        return self.expected if self.expected is not None else self.value


class Wim(Record):
    """What Is Missing: the judge's text and its score, cosine(reply, text); an empty text scores by config."""

    transcript: str
    turn: int | None = None
    candidate: str | None = None
    judge: str
    subject: Speaker
    text: str
    analysis: str = ""
    cosine: float | None = None
    empty: bool = False
    problem: str | None = None


class Reward(Record):
    """(1 - z) R + z WIM of one subject, or None with the problem."""

    transcript: str
    turn: int | None = None
    candidate: str | None = None
    judge: str
    subject: Speaker
    rating: float | None = None  # weighted mean rating, 1..10
    wim: float | None = None
    value: float | None = None
    problem: str | None = None
