"""What happens during a run: small typed events, announced to sinks that draw or write them.

Nothing below views/ and cli.py prints. A sink that fails is dropped and the run goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from expertchat.records import ExpertRef, Guess, JudgeRef, Metrics, Opinion, Rating, Reward, Selection, Speaker, StopReason, Turn, Wim


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
    rounds: int = 0  # of a training run; `conversations` are those of one round then
    judgements: int = 0  # of `judge`: items times judges times repeats; `resumed` are of these then
    candidates: int = 0  # of each prompt, of `best_of_n`; `conversations` are its prompts then
    pid: int = 0
    host: str = ""
    job: str = ""  # of Slurm, "123" or "123_4"


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
    """The text of a turn so far, and beside it what the speaker thought before it. Throttled; not kept in events.jsonl."""

    kind: Literal["text_streamed"] = "text_streamed"
    conversation: str
    turn: int
    speaker: Speaker
    text: str
    thinking: str = ""


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


class GuessGiven(Event):
    kind: Literal["guess_given"] = "guess_given"
    guess: Guess


class RoundStarted(Event):
    """A round of a training run begins. Its conversations' ids begin with "r0003/"."""

    kind: Literal["round_started"] = "round_started"
    round: int
    rounds: int
    learner: Speaker
    policy_version: int


class PhaseStarted(Event):
    """What a round is at: its stages follow each other in this order (an evaluation is not in every round)."""

    kind: Literal["phase_started"] = "phase_started"
    round: int
    phase: Literal["talking", "pairing", "measuring", "updating", "evaluating", "saving"]


class CandidatesJudged(Event):
    """The candidates of one turn and their rewards (None: not to be had), in order; `continued` is the one that the dialogue took."""

    kind: Literal["candidates_judged"] = "candidates_judged"
    conversation: str
    turn: int
    speaker: Speaker
    texts: list[str]
    rewards: list[float | None]
    ratings: list[float | None]
    wims: list[float | None]
    continued: int


class StepFinished(Event):
    """One optimizer step. Not kept in events.jsonl."""

    kind: Literal["step_finished"] = "step_finished"
    round: int
    step: int
    steps: int
    loss: float


class Measured(Event):
    """The figures of a round or of an evaluation are known."""

    kind: Literal["measured"] = "measured"
    metrics: Metrics


class RoundFinished(Event):
    """A round's checkpoint is on disk: it is done. `seconds` by phase."""

    kind: Literal["round_finished"] = "round_finished"
    round: int
    seconds: dict[str, float] = Field(default_factory=dict)


class ConversationJudged(Event):
    """All ratings and WIM responses of one conversation are on disk: it is done."""

    kind: Literal["conversation_judged"] = "conversation_judged"
    conversation: str


class JudgeCalled(Event):
    """A judge that judges what exists, and how many items are for it."""

    kind: Literal["judge_called"] = "judge_called"
    judge: JudgeRef
    items: int


class OpinionGiven(Event):
    """What such a judge says of an item."""

    kind: Literal["opinion_given"] = "opinion_given"
    opinion: Opinion


class CandidateChosen(Event):
    """A prompt has all its candidates and all that is said of them, and one of them was chosen, or none; `text` is that of the choice."""

    kind: Literal["candidate_chosen"] = "candidate_chosen"
    selection: Selection
    topic: str = ""
    text: str | None = None


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
    | RewardGiven | GuessGiven | ConversationJudged | JudgeCalled | OpinionGiven | CandidateChosen | RoundStarted | PhaseStarted
    | CandidatesJudged | StepFinished | Measured | RoundFinished | Progress | RunFinished,
    Field(discriminator="kind"),
]
EVENT: TypeAdapter[AnyEvent] = TypeAdapter(AnyEvent)

Announce = Callable[[AnyEvent], None]
"""Whom to tell what happens."""

TRANSIENT = ("text_streamed", "progress", "step_finished")
"""Kinds that are not kept in events.jsonl; the latest text of each running turn stands in live.json instead."""


class Sink(Protocol):
    """Somebody who draws or writes events. `close` is called once, also after a failure."""

    def send(self, event: AnyEvent) -> None: ...

    def close(self) -> None: ...
