"""What happens during a run: small typed events, announced to sinks that draw or write them.

Nothing below views/ and cli.py prints. A sink that fails is dropped and the run goes on.
"""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from expertchat.records import ExpertRef, Rating, Reward, Speaker, StopReason, Turn, Wim


class Event(BaseModel):
    """Base of all events; `time` is seconds since the epoch, set by the sender."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    time: float = 0.0


class RunStarted(Event):
    """A run begins (or goes on: `resumed` conversations were finished before)."""

    kind: Literal["run_started"] = "run_started"
    command: str
    folder: str
    conversations: int
    turns: int  # turns of each conversation at most
    resumed: int = 0
    pid: int = 0
    host: str = ""


class Loading(Event):
    """A model is being loaded (`done` False) or is there."""

    kind: Literal["loading"] = "loading"
    what: str
    done: bool = False
    seconds: float = 0.0
    gib: float = 0.0  # size of the weight files; 0 where it is not known


class Note(Event):
    """Something the user should know: an automatic choice with its reason, a warning."""

    kind: Literal["note"] = "note"
    text: str
    level: Literal["info", "warning"] = "info"


class ConversationStarted(Event):
    kind: Literal["conversation_started"] = "conversation_started"
    conversation: str
    topic: str
    source: str = "list"  # "list", "file", or the expert who proposed it
    opener: Speaker
    experts: dict[Speaker, ExpertRef]


class TextStreamed(Event):
    """The text of a turn so far. Throttled; not kept in events.jsonl."""

    kind: Literal["text_streamed"] = "text_streamed"
    conversation: str
    turn: int
    speaker: Speaker
    text: str


class TurnFinished(Event):
    kind: Literal["turn_finished"] = "turn_finished"
    conversation: str
    index: int
    turn: Turn


class ConversationFinished(Event):
    kind: Literal["conversation_finished"] = "conversation_finished"
    conversation: str
    turns: int
    stop_reason: StopReason


class RatingGiven(Event):
    kind: Literal["rating_given"] = "rating_given"
    rating: Rating


class WimGiven(Event):
    kind: Literal["wim_given"] = "wim_given"
    wim: Wim


class RewardGiven(Event):
    kind: Literal["reward_given"] = "reward_given"
    reward: Reward


class ConversationJudged(Event):
    """All ratings and WIM responses of one conversation are on disk: it is done."""

    kind: Literal["conversation_judged"] = "conversation_judged"
    conversation: str


class Progress(Event):
    """Counts so far, a few times a second at most. Not kept in events.jsonl."""

    kind: Literal["progress"] = "progress"
    finished: int
    total: int
    turns: int
    tokens: int
    seconds: float
    waiting: dict[str, int] = Field(default_factory=dict)  # requests that wait or run, by kind ("a", "b", "judge", ...)


class RunFinished(Event):
    """The end of a run; `summary` is what summary.json holds."""

    kind: Literal["run_finished"] = "run_finished"
    status: Literal["done", "stopped", "failed"]
    reason: str | None = None
    summary: dict[str, object] = Field(default_factory=dict)


AnyEvent = Annotated[
    RunStarted | Loading | Note | ConversationStarted | TextStreamed | TurnFinished | ConversationFinished | RatingGiven | WimGiven
    | RewardGiven | ConversationJudged | Progress | RunFinished,
    Field(discriminator="kind"),
]
EVENT: TypeAdapter[AnyEvent] = TypeAdapter(AnyEvent)

TRANSIENT = ("text_streamed", "progress")
"""Kinds that are not kept in events.jsonl; the latest text of each running turn stands in live.json instead."""


class Sink(Protocol):
    """Somebody who draws or writes events. `close` is called once, also after a failure."""

    def send(self, event: AnyEvent) -> None: ...

    def close(self) -> None: ...
