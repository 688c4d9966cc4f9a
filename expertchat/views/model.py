"""What a run looks like so far: a pure state fed by events, which every view draws from. Nothing here prints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from expertchat.events import (
    AnyEvent,
    CandidatesJudged,
    ConversationFinished,
    ConversationJudged,
    ConversationStarted,
    Loading,
    Measured,
    Note,
    PhaseStarted,
    Progress,
    RatingGiven,
    RewardGiven,
    RoundFinished,
    RoundStarted,
    RunFinished,
    RunStarted,
    StepFinished,
    TextStreamed,
    TurnFinished,
    WimGiven,
)
from expertchat.records import ExpertRef, Rating, Reward, Speaker, Turn, Wim, other
from expertchat.views.sides import Cell, Side, Table, in_order, line, number_cell, rating_cell
from expertchat.views.training import Told, Training, is_training

Stage = Literal["talking", "judging", "judged"]


@dataclass
class Streaming:
    """The text so far of a turn that is being written."""

    turn: int
    speaker: Speaker
    text: str
    thinking: str = ""


@dataclass
class Conversation:
    """One dialogue and its judgements. Records are kept by id, so that an event seen twice counts once."""

    id: str
    topic: str = ""
    source: str = "list"
    opener: Speaker = "a"
    experts: dict[Speaker, ExpertRef] = field(default_factory=dict)
    by_index: dict[int, Turn] = field(default_factory=dict)
    streaming: Streaming | None = None
    stop_reason: str | None = None
    judged: bool = False
    ratings: dict[str, Rating] = field(default_factory=dict)
    wims: dict[str, Wim] = field(default_factory=dict)
    rewards: dict[str, Reward] = field(default_factory=dict)
    candidates: dict[int, CandidatesJudged] = field(default_factory=dict)  # of the trained turns, by turn
    unfold: bool = False  # show what was thought, not only how much

    @property
    def name(self) -> str:
        """The id as it is shown."""
        return line(self.id)

    @property
    def turns(self) -> list[Turn]:
        return [self.by_index[i] for i in sorted(self.by_index)]

    @property
    def stage(self) -> Stage:
        return "judged" if self.judged else "talking" if self.stop_reason is None else "judging"

    @property
    def next_speaker(self) -> Speaker:
        """Whose turn it is while nothing of it is seen yet."""
        return other(self.by_index[max(self.by_index)].speaker) if self.by_index else self.opener

    def sides(self, turn: int | None = None) -> list[Side]:
        records: Sequence[Rating | Wim | Reward] = [*self.ratings.values(), *self.wims.values(), *self.rewards.values()]
        return in_order(Side(r.judge, r.subject) for r in records if r.turn == turn and r.candidate is None)

    def table(self) -> Table | None:
        """The judgements of the whole dialogue, or None while there are none."""
        sides = self.sides()
        if not sides:
            return None
        ratings = [r for r in self.ratings.values() if r.turn is None and r.candidate is None]
        given = {(line(r.category), Side(r.judge, r.subject)): r for r in ratings}
        categories = list(dict.fromkeys(line(r.category) for r in ratings))
        rows = [(c, [rating_cell(given.get((c, s))) for s in sides]) for c in categories]
        bars = len(rows)
        wims, rewards = self.whole_wims(), self.whole_rewards()
        if wims:
            rows.append(("WIM score", [number_cell(wims[s].cosine) if s in wims else Cell("") for s in sides]))
        if rewards:
            rows.append(("reward", [number_cell(rewards[s].value, "+.2f") if s in rewards else Cell("") for s in sides]))
        return Table(sides, rows, bars)

    def whole_wims(self) -> dict[Side, Wim]:
        """The WIM responses to the whole dialogue."""
        return {Side(w.judge, w.subject): w for w in self.wims.values() if w.turn is None and w.candidate is None}

    def whole_rewards(self) -> dict[Side, Reward]:
        return {Side(r.judge, r.subject): r for r in self.rewards.values() if r.turn is None and r.candidate is None}

    def turn_reward(self, turn: int) -> Reward | None:
        """The reward of a single turn, where turns are judged too."""
        return next((r for r in self.rewards.values() if r.turn == turn and r.candidate is None), None)

    def problems(self) -> list[str]:
        """What could not be read of the judgements of the whole dialogue, one line each."""
        found = []
        for rating in self.ratings.values():
            if rating.turn is None and rating.candidate is None and rating.problem:
                found.append(f"{Side(rating.judge, rating.subject).title}, {line(rating.category)}: {line(rating.problem)}")
        found += [f"{side.title}, WIM: {line(w.problem)}" for side, w in self.whole_wims().items() if w.problem]
        return found


@dataclass
class Mean:
    """A running mean."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None


@dataclass
class Counts:
    """Sums over all conversations; they stay when a conversation is released."""

    turns: int = 0
    tokens: int = 0
    ratings: int = 0
    ratings_none: int = 0
    wims: int = 0
    wims_empty: int = 0
    wims_none: int = 0
    means: dict[tuple[str, Side], Mean] = field(default_factory=dict)  # of whole dialogues

    def mean(self, name: str, side: Side, value: float | None) -> None:
        if value is not None and math.isfinite(value):
            self.means.setdefault((name, side), Mean()).add(value)


WIM_ROW, REWARD_ROW = "WIM score", "reward"


@dataclass
class RunState:
    """Everything a view shows of a run. `apply` takes one event, in constant time."""

    run: RunStarted | None = None
    finished: RunFinished | None = None
    loading: dict[str, Loading] = field(default_factory=dict)
    progress: Progress | None = None
    conversations: dict[str, Conversation] = field(default_factory=dict)
    judged: set[str] = field(default_factory=set)
    released: set[str] = field(default_factory=set)
    counts: Counts = field(default_factory=Counts)
    time: float = 0.0  # of the newest event
    training: Training | None = None  # of a run in rounds
    told: list[Told] = field(default_factory=list)  # what the newest event finished
    unfold: bool = False  # show what is thought, not only how much
    _round: int | None = None  # whose conversations are shown
    _unseen: int = 0  # conversations finished before this view began
    _tokens_before: int = 0  # tokens of earlier, broken-off runs in the same folder
    _turns_before: int = 0

    # -- what is shown ----------------------------------------------------------------------------------------------

    @property
    def done(self) -> int:
        """Conversations that are talked and judged, those of an earlier start of the same run included."""
        return self._unseen + len(self.judged)

    @property
    def total(self) -> int:
        return max(self.run.conversations if self.run else 0, self.done)

    @property
    def seconds(self) -> float:
        """Seconds of work so far, by the run's own count or else by the events' times."""
        if (counted := self._summary("seconds")) is not None:
            return counted
        if self.progress is not None:
            return self.progress.seconds
        return max(0.0, self.time - self.run.time) if self.run else 0.0

    @property
    def turns(self) -> int:
        """Turns since the run was (last) started."""
        return max(self.progress.turns if self.progress else 0, self.counts.turns - self._turns_before)

    @property
    def tokens(self) -> int:
        """Tokens since the run was (last) started."""
        return max(self.progress.tokens if self.progress else 0, self.counts.tokens - self._tokens_before)

    @property
    def tokens_per_second(self) -> float | None:
        if (counted := self._summary("tokens_per_second")) is not None:
            return counted
        tokens = self.progress.tokens if self.progress else self.tokens
        return tokens / self.seconds if self.seconds > 0 and tokens else None

    def _summary(self, key: str) -> float | None:
        value = self.finished.summary.get(key) if self.finished else None
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    def means(self) -> Table | None:
        """Mean ratings, WIM scores and rewards over all dialogues."""
        means = self.counts.means
        if not means:
            return None
        sides = in_order(side for _, side in means)
        names = list(dict.fromkeys(name for name, _ in means))
        ratings = [n for n in names if n not in (WIM_ROW, REWARD_ROW)]
        forms = {WIM_ROW: ".2f", REWARD_ROW: "+.2f"}
        rows = []
        for name in [*ratings, *(n for n in (WIM_ROW, REWARD_ROW) if n in names)]:
            found = [means.get((name, side)) for side in sides]
            rows.append((name, [number_cell(m.value, forms.get(name, ".1f")) if m else Cell("") for m in found]))
        return Table(sides, rows, len(ratings))

    # -- events -----------------------------------------------------------------------------------------------------

    def apply(self, event: AnyEvent) -> None:
        """Take one event in. An event for a released conversation changes nothing."""
        self.time = max(self.time, event.time)
        if self.training is None and is_training(event):
            self.training = Training()
        self.told = self.training.apply(event) if self.training is not None else []
        match event:
            case RunStarted():
                self._start(event)
            case RoundStarted():
                self._begin_round(event.round)
            case PhaseStarted():
                if event.phase != "talking":  # no dialogue of an earlier phase goes on
                    for name in list(self.conversations):
                        self.release(name)
            case Note() | StepFinished() | Measured() | RoundFinished():
                pass
            case Loading():
                self.loading[event.what] = event
            case Progress():
                self.progress = event
            case RunFinished():
                self.finished = event
            case RatingGiven() | WimGiven() | RewardGiven():
                self._judgement(event)
            case _:
                self._dialogue(event)

    def release(self, conversation: str) -> None:
        """Forget the texts of a conversation; the counts keep it."""
        if self.conversations.pop(conversation, None) is not None:
            self.released.add(conversation)

    def _start(self, event: RunStarted) -> None:
        self.run, self.finished, self.progress = event, None, None
        self._unseen = max(0, event.resumed - len(self.judged))
        self._tokens_before, self._turns_before = self.counts.tokens, self.counts.turns
        self.loading.clear()
        for conversation in self.conversations.values():
            conversation.streaming = None

    def _begin_round(self, number: int) -> None:
        """Forget the conversations of the round before, names and all: a long run has many. One that was broken off goes on."""
        if number == self._round:
            return
        self._round = number
        self.conversations.clear()
        self.released.clear()
        self.judged.clear()

    def _conversation(self, name: str) -> Conversation | None:
        if name in self.released:
            return None
        if name not in self.conversations:
            self.conversations[name] = Conversation(name, unfold=self.unfold)
        return self.conversations[name]

    def _dialogue(
        self, event: ConversationStarted | TextStreamed | TurnFinished | ConversationFinished | ConversationJudged | CandidatesJudged
    ) -> None:
        conversation = self._conversation(event.conversation)
        if conversation is None:
            return
        match event:
            case ConversationStarted():
                conversation.topic, conversation.source = line(event.topic), line(event.source)
                conversation.opener, conversation.experts = event.opener, event.experts
                conversation.streaming = None
            case TextStreamed():
                if event.turn not in conversation.by_index and conversation.stop_reason is None:
                    conversation.streaming = Streaming(event.turn, event.speaker, event.text, event.thinking)
            case TurnFinished():
                if event.index not in conversation.by_index:
                    self.counts.turns += 1
                    self.counts.tokens += event.turn.tokens
                conversation.by_index[event.index] = event.turn
                if conversation.streaming is not None and conversation.streaming.turn <= event.index:
                    conversation.streaming = None
            case CandidatesJudged():
                conversation.candidates[event.turn] = event
            case ConversationFinished():
                conversation.stop_reason, conversation.streaming = event.stop_reason, None
            case ConversationJudged():
                conversation.judged = True
                self.judged.add(event.conversation)
                if self.training is not None:
                    self.release(event.conversation)

    def _judgement(self, event: RatingGiven | WimGiven | RewardGiven) -> None:
        record = event.rating if isinstance(event, RatingGiven) else event.wim if isinstance(event, WimGiven) else event.reward
        conversation = self._conversation(record.transcript)
        if conversation is None:
            return
        counts, side, whole = self.counts, Side(record.judge, record.subject), record.turn is None and record.candidate is None
        match record:
            case Rating():
                if record.id not in conversation.ratings:
                    counts.ratings += 1
                    counts.ratings_none += record.number is None
                    if whole:
                        counts.mean(line(record.category), side, record.number)
                conversation.ratings[record.id] = record
            case Wim():
                if record.id not in conversation.wims:
                    counts.wims += 1
                    counts.wims_empty += record.empty
                    counts.wims_none += record.cosine is None
                    if whole:
                        counts.mean(WIM_ROW, side, record.cosine)
                conversation.wims[record.id] = record
            case Reward():
                if whole and record.id not in conversation.rewards:
                    counts.mean(REWARD_ROW, side, record.value)
                conversation.rewards[record.id] = record
