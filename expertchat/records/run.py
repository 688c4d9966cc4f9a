"""What is kept: the records of a run, one JSON object a line in the run folder's files.

A `Message` is model-facing (role and text); a `Turn` is neutral (speaker and text). Who is "assistant" and who is
"user" is each expert's own view of a transcript and is decided in one place, `expertchat.experts.base`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, StringConstraints, model_serializer, model_validator
from pydantic_core import PydanticSerializationError, to_json

from expertchat.text.sentences import writable

SEAT = r"[a-z][a-z0-9_]{0,23}"
Speaker = Annotated[str, StringConstraints(pattern=f"^{SEAT}$")]
"""The name of an expert, which is its seat in a dialogue: a and b, or what the config calls them."""
SEATS: tuple[Speaker, ...] = ("a", "b")
Role = Literal["system", "user", "assistant"]

OF_A_SEED = re.compile(r"s\d+/")  # before the ids of a run that was merged of several seeds
_ROUND = re.compile(rf"(?:{OF_A_SEED.pattern})?r([0-9]+)/")

StopReason = Literal["turns", "nothing_new", "loop", "blank", "context_full", "token_limit"]


def other(speaker: Speaker) -> Speaker:
    """The partner's letter."""
    return "b" if speaker == "a" else "a"


def round_of(transcript: str) -> int | None:
    """The round in which a dialogue was held, by its id: "r0003/c0001" -> 3, "s1/r0003/c0001" of a merged run too; "r0003" is a row."""
    found = _ROUND.match(transcript)
    return int(found[1]) if found else None


def as_line(kept: BaseModel) -> str:
    """A record or event as one line of JSON, without the newline. What cannot be written (half of a character) becomes U+FFFD."""
    try:
        return kept.model_dump_json(by_alias=True)
    except PydanticSerializationError:
        return to_json(_writable(kept.model_dump(by_alias=True))).decode()


def _writable(value: Any) -> Any:
    if isinstance(value, dict):
        return {_writable(key): _writable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(one) for one in value]
    return writable(value) if isinstance(value, str) else value


class Message(NamedTuple):
    """One model-facing message."""

    role: Role
    content: str


def finite(values: Any) -> Any:
    """The same values (mappings and lists of them too), None in place of every number that is not finite: JSON has none."""
    if isinstance(values, float):
        return values if math.isfinite(values) else None
    if isinstance(values, Mapping):
        return {key: finite(value) for key, value in values.items()}
    return [finite(value) for value in values] if isinstance(values, list) else values


class Record(BaseModel):
    """Base of all records: a stable `id`, a `schema` number, nothing unknown. A number that is not finite is None from the beginning."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    id: str
    schema_: int = Field(default=1, alias="schema")

    @model_validator(mode="before")
    @classmethod
    def _finite(cls, values: Any) -> Any:
        return finite(values)

    def to_json(self) -> str:
        """One line of JSON, without the newline."""
        return as_line(self)


class Turn(BaseModel):
    """One turn: `tokens` new tokens in `seconds` of wall time (shared by the batch it ran in)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    speaker: Speaker
    text: str
    tokens: int = 0
    seconds: float = 0.0
    cut: bool = False  # the token limit of a turn ended it, not the model
    note: str | None = None  # e.g. "2 oldest turns not shown: context full"
    thinking: str | None = None  # what the model thought before it spoke; nobody else is shown it
    beyond: str | None = None  # what it said in the partner's name, cut off where that began
    hand: Literal["edited", "injected"] | None = None  # a person has changed it, or has written it in the speaker's place
    was: str | None = None  # what the speaker had said before it was edited

    @model_serializer(mode="wrap")
    def _short(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in whole(self).items() if name not in ("hand", "was") or value is not None}


class ExpertRef(BaseModel):
    """Which model spoke: enough to find it again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    model: str
    revision: str | None = None
    policy_version: int = 0
    trained: str | None = None  # what it was trained with before: a run, or a round of one

    @model_serializer(mode="wrap")
    def _short(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in whole(self).items() if name != "trained" or value is not None}


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


class Candidate(Record):
    """One of several replies that the actor sampled from the same history: the turns of `transcript` before `turn`.

    `ids` are the tokens as they were drawn, with the end token where the model drew one (`ended`); None where they are not known (of a
    backend without tokens, or of an older version). `altered`: what the ids hold that `text` does not show as it is: "markup" (role tokens
    or control characters, made harmless), "special" (special tokens), "stop" (a stop string), "thinking", "beyond" (see Turn). Such a reply
    enters no pair.
    """

    transcript: str
    round: int
    turn: int
    index: int
    speaker: Speaker
    text: str
    tokens: int = 0
    cut: bool = False  # the token limit ended it, not the model
    ids: list[int] | None = None
    ended: bool | None = None
    altered: Literal["markup", "special", "stop", "thinking", "beyond"] | None = None
    thinking: str | None = None  # as in Turn
    beyond: str | None = None
    policy_version: int
    continued: bool = False  # the dialogue went on with this one


class Answer(Record):
    """What a model answered to one request (`id` is its key), kept before anything is made of it: a run that goes on asks nothing twice.

    `finish`: "stop", or "length" where the token limit ended it. `of`: a digest of the request and of who was asked; None: of an older
    version. `logprobs`: of a request that scored options, whose id ends with ":options". `prompt` to `seconds` are kept where they are
    needed (training): see expertchat.backends.base.Completion.
    """

    transcript: str
    text: str
    tokens: int = 0
    finish: Literal["stop", "length"] = "stop"
    of: str | None = None
    logprobs: list[float] | None = None
    prompt: list[int] = Field(default_factory=list)
    ids: list[int] = Field(default_factory=list)
    ended: bool = False
    unshown: Literal["special", "stop"] | None = None
    seconds: float = 0.0

    @model_serializer(mode="wrap")
    def _short(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what is not there: there are many of these."""
        always = ("id", "schema", "schema_", "transcript", "text", "tokens", "finish")
        return {name: value for name, value in whole(self).items() if value or name in always}


class Rating(Record):
    """One judge's rating of one subject in one category.

    `value` is an integer 1..10 read from sampled text, `expected` the probability-weighted mean over the ten options;
    each is None where that form was not asked for or failed, and then `problem` says why. `mass`: the share of the probability that the
    ten options hold together.
    """

    transcript: str
    turn: int | None = None
    candidate: str | None = None
    judge: str
    subject: Speaker
    category: str
    value: int | None = Field(default=None, ge=1, le=10)
    expected: float | None = Field(default=None, ge=1, le=10)
    mass: float | None = Field(default=None, ge=0, le=1)
    raw: str = ""
    problem: str | None = None
    fault: str | None = None  # the kind of a null, to be counted: docs/ratings.md has the list

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
    fault: str | None = None  # the kind of a null, to be counted: docs/ratings.md has the list


class _Short(Record):
    """Base of records with fields that few runs have, `rare`: they are written where they hold something."""

    rare: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _short(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in whole(self).items() if name not in self.rare or value not in (None, {})}


class Reward(_Short):
    """(1 - z) R + z WIM: what one judge's ratings and WIM response come to for one subject, or None with the problem.

    Of a reward model there is neither: `score` is its number on its own scale, and `value` what that comes to between -1 and 1.
    """

    rare: ClassVar[tuple[str, ...]] = ("score",)

    transcript: str
    turn: int | None = None
    candidate: str | None = None
    judge: str
    subject: Speaker
    rating: float | None = None  # weighted mean rating, 1..10
    wim: float | None = None
    value: float | None = None
    score: float | None = None
    problem: str | None = None


class Score(_Short):
    """What pairs are made of: the score of one candidate, by its id, and what it comes from. None where there is no number, and why.

    value = sign * (reward + dialogue - length_penalty - repeat_penalty); of a drawn reward (source random) it is the draw alone.
    Where several judged, `judges` has the reward of each, and `combined` says how `reward` was made of them (judging.combine).
    """

    rare: ClassVar[tuple[str, ...]] = ("judges", "combined", "parts")

    transcript: str
    turn: int
    speaker: Speaker
    source: str  # judge, random, functions, or the program's name
    value: float | None = None
    reward: float | None = None  # its judges', the control's in its place, or the program's, between -1 and 1
    measured: float | None = None  # what a program has measured, in its own unit
    dialogue: float = 0.0  # the whole dialogue's part
    length_penalty: float = 0.0
    repeat_penalty: float = 0.0
    sign: int = 1
    judges: dict[str, float | None] = Field(default_factory=dict)
    combined: str | None = None
    parts: dict[str, float | None] = Field(default_factory=dict)  # source functions: what each of them says
    problem: str | None = None


class Verdict(_Short):
    """Which of two replies to one same history a judge prefers: A is the one that it was shown `first`. None: no answer, and why.

    `mass`: the share of the probability that the answers hold together. `principle`: by which it was to choose, if by one.
    """

    rare: ClassVar[tuple[str, ...]] = ("principle", "fault")

    history: str
    judge: str
    first: Literal["base", "policy"]
    verdict: Literal["A", "B", "tie"] | None
    principle: str | None = None
    mass: float | None = Field(default=None, ge=0, le=1)
    raw: str = ""
    problem: str | None = None
    fault: str | None = None  # the kind of a null, as a rating has it; None in a record of an older version

    @property
    def winner(self) -> Literal["base", "policy", "tie"] | None:
        """Who is preferred, whatever the order was."""
        if self.verdict is None or self.verdict == "tie":
            return self.verdict
        return "policy" if (self.verdict == "A") == (self.first == "policy") else "base"


class PairIds(BaseModel):
    """The token ids of a pair: the prompt that the policy was shown, and its two replies as they were drawn, end tokens included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


class PreferencePair(Record):
    """A chosen and a rejected reply to one prompt, in TRL's conversational preference form, with their scores (see Score) and the margin.

    `provenance` says where it comes from: transcript, turn, learner, judge, the two candidates, their tokens, and whether the token limit
    cut them (1 or 0). `ids` is what the update trains on; TRL reads the texts and leaves it alone. None: the texts are all there is.
    """

    prompt: list[dict[str, str]]
    chosen: list[dict[str, str]]
    rejected: list[dict[str, str]]
    score_chosen: float
    score_rejected: float
    margin: float
    round: int
    policy_version: int
    provenance: dict[str, str | int]
    ids: PairIds | None = None


Figure = float | int | str | None


class Metrics(Record):
    """The figures of one round, of one evaluation, or of the base model's evaluation (`kind`), flat: name -> number or None.

    An interval of x stands beside it as x_low and x_high.
    """

    kind: Literal["round", "evaluation"]
    round: int  # of an evaluation: the rounds done before it; 0 is the base
    learner: Speaker
    policy_version: int
    weights_of: int | None = None  # of the final evaluation: the round after which the weights were saved that it was made with
    figures: dict[str, Figure]
