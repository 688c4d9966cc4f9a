"""What a run looks like so far: a pure state fed by events, which every view draws from. Nothing here prints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from expertchat import events
from expertchat.records import ExpertRef, Rating, Reward, Speaker, Turn, Wim
from expertchat.text.in_words import line
from expertchat.views.sides import (
    FORMS,
    MEAN_FORM,
    TWO,
    Judged,
    Row,
    Seats,
    Side,
    Table,
    cell_of,
    figure_of,
    is_whole,
    number_cell,
    side_of,
    table_of,
)
from expertchat.views.training import Told, Training, is_training

Stage = Literal["talking", "judging", "judged"]
OfDialogue = (
    events.ConversationStarted | events.TextStreamed | events.TurnFinished | events.CandidatesJudged | events.ConversationFinished
    | events.ConversationJudged
)  # fmt: skip
OfJudge = events.RatingGiven | events.WimGiven | events.RewardGiven


def record_of(event: OfJudge) -> Judged:
    match event:
        case events.RatingGiven():
            return event.rating
        case events.WimGiven():
            return event.wim
    return event.reward


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
    judgements: dict[tuple[str, str], Judged] = field(default_factory=dict)  # by kind and id
    candidates: dict[int, events.CandidatesJudged] = field(default_factory=dict)  # of the trained turns, by turn
    asked: Speaker | None = None  # whose turn the models are at, where that is known
    unfold: bool = False  # show what was thought, not only how much

    @property
    def name(self) -> str:
        """The id as it is shown."""
        return line(self.id)

    @property
    def seats(self) -> Seats:
        return tuple(self.experts) or TWO

    @property
    def turns(self) -> list[Turn]:
        return [self.by_index[i] for i in sorted(self.by_index)]

    @property
    def stage(self) -> Stage:
        return "judged" if self.judged else "talking" if self.stop_reason is None else "judging"

    @property
    def next_speaker(self) -> Speaker | None:
        """Whose turn it is while nothing of it is seen yet: the opener's, and of two experts the other one's.

        Of more, the one whom the models are asked for; None where nobody has said it: they need not take turns.
        """
        if not self.by_index:
            return self.opener
        last = self.by_index[max(self.by_index)].speaker
        if len(self.seats) > 2:
            return self.asked
        return next((seat for seat in self.seats if seat != last), None)

    def whole(self) -> list[Judged]:
        """The judgements of the whole dialogue."""
        return [record for record in self.judgements.values() if is_whole(record)]

    def table(self) -> Table | None:
        """The judgements of the whole dialogue, or None while there are none."""
        return table_of({(figure_of(record)[0], side_of(record)): cell_of(record) for record in self.whole()}, self.seats)

    def whole_wims(self) -> dict[Side, Wim]:
        """The WIM responses to the whole dialogue."""
        return {side_of(record): record for record in self.whole() if isinstance(record, Wim)}

    def whole_rewards(self) -> dict[Side, Reward]:
        return {side_of(record): record for record in self.whole() if isinstance(record, Reward)}

    def mean_rewards(self) -> dict[Speaker, float | None]:
        """Of each expert, the mean over those who judged the whole dialogue and gave a number; None where none did."""
        means: dict[Speaker, Mean] = {}
        for (_, subject), reward in self.whole_rewards().items():
            means.setdefault(subject, Mean()).add(reward.value)
        return {seat: means[seat].value for seat in self.seats if seat in means}

    def turn_rewards(self, turn: int) -> list[Reward]:
        """The rewards of a single turn, one by each of its judges; none where turns are not judged."""
        rewards = (record for record in self.judgements.values() if isinstance(record, Reward))
        return [reward for reward in rewards if reward.turn == turn and reward.candidate is None]

    def problems(self) -> list[str]:
        """What could not be read of the judgements of the whole dialogue, one line each."""
        ratings = [record for record in self.whole() if isinstance(record, Rating) and record.problem]
        found = [f"{side_of(rating).title}, {line(rating.category)}: {line(rating.problem or '')}" for rating in ratings]
        found += [f"{side.title}, WIM: {line(w.problem)}" for side, w in self.whole_wims().items() if w.problem]
        # A reward model gives nothing but a reward; other rewards lack what is said above.
        rewards = [one for one in self.whole() if isinstance(one, Reward) and one.problem and one.judge == "reward_model"]
        return found + [f"{side_of(one).title}, reward: {line(one.problem or '')}" for one in rewards]


@dataclass
class Mean:
    """A running mean."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float | None) -> None:
        """Take a number in, if it is one."""
        if value is not None:
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
    means: dict[tuple[Row, Side], Mean] = field(default_factory=dict)  # of whole dialogues

    def take(self, record: Judged) -> None:
        """Count a record that was not seen before."""
        row, number = figure_of(record)
        match record:
            case Rating():
                self.ratings += 1
                self.ratings_none += number is None
            case Wim():
                self.wims += 1
                self.wims_empty += record.empty
                self.wims_none += number is None
        if is_whole(record) and number is not None:
            self.means.setdefault((row, side_of(record)), Mean()).add(number)


@dataclass
class RunState:
    """Everything a view shows of a run. `apply` takes one event, in constant time."""

    run: events.RunStarted | None = None
    finished: events.RunFinished | None = None
    loading: dict[str, events.Loading] = field(default_factory=dict)
    progress: events.Progress | None = None
    seats: Seats = TWO
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
    def most_turns(self) -> int:
        """Turns of a conversation at most; 0 where nobody has said it."""
        return self.run.turns if self.run else 0

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
        means = self.counts.means.items()
        return table_of({key: number_cell(mean.value, FORMS.get(key[0], MEAN_FORM)) for key, mean in means}, self.seats)

    # -- events -----------------------------------------------------------------------------------------------------

    def apply(self, event: events.AnyEvent) -> None:
        """Take one event in. An event for a released conversation changes nothing."""
        self.time = max(self.time, event.time)
        if self.training is None and is_training(event):
            self.training = Training()
        self.told = self.training.apply(event) if self.training is not None else []
        match event:
            case events.RunStarted():
                self._start(event)
            case events.RoundStarted():
                self._begin_round(event.round)
            case events.PhaseStarted():
                if event.phase != "talking":  # no dialogue of an earlier phase goes on
                    for name in list(self.conversations):
                        self.release(name)
            case (
                events.Note() | events.StepFinished() | events.Measured() | events.RoundFinished()
                | events.JudgeCalled() | events.OpinionGiven() | events.CandidateChosen()  # of runs that have a view of their own
                | events.GuessGiven()
            ):  # fmt: skip
                pass
            case events.Loading():
                self.loading[event.what] = event
            case events.Progress():
                self.progress = event
                self._ask(event)
            case events.RunFinished():
                self.finished = event
            case events.RatingGiven() | events.WimGiven() | events.RewardGiven():
                self._judgement(event)
            case _:
                self._dialogue(event)

    def release(self, conversation: str) -> None:
        """Forget the texts of a conversation; the counts keep it."""
        if self.conversations.pop(conversation, None) is not None:
            self.released.add(conversation)

    def _start(self, event: events.RunStarted) -> None:
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

    def _ask(self, event: events.Progress) -> None:
        """A dialogue that is alone: its word has the one for whom the models work. Of several, nobody knows whose the requests are."""
        if len(self.conversations) == 1:
            (conversation,) = self.conversations.values()
            asked = [seat for seat in conversation.seats if event.waiting.get(seat)]
            conversation.asked = asked[0] if len(asked) == 1 else None

    def _dialogue(self, event: OfDialogue) -> None:
        conversation = self._conversation(event.conversation)
        if conversation is None:
            return
        match event:
            case events.ConversationStarted():
                conversation.topic, conversation.source = line(event.topic), line(event.source)
                conversation.opener, conversation.experts = event.opener, event.experts
                conversation.streaming = None
                self._seat(conversation.seats)
            case events.TextStreamed():
                if event.turn not in conversation.by_index and conversation.stop_reason is None:
                    conversation.streaming = Streaming(event.turn, event.speaker, event.text, event.thinking)
            case events.TurnFinished():
                if event.index not in conversation.by_index:
                    self.counts.turns += 1
                    self.counts.tokens += event.turn.tokens
                conversation.by_index[event.index] = event.turn
                conversation.asked = None
                if conversation.streaming is not None and conversation.streaming.turn <= event.index:
                    conversation.streaming = None
            case events.CandidatesJudged():
                conversation.candidates[event.turn] = event
            case events.ConversationFinished():
                conversation.stop_reason, conversation.streaming = event.stop_reason, None
            case events.ConversationJudged():
                conversation.judged = True
                self.judged.add(event.conversation)
                if self.training is not None:
                    self.release(event.conversation)

    def _seat(self, seats: Seats) -> None:
        self.seats = seats
        if self.training is not None:
            self.training.seats = seats

    def _judgement(self, event: OfJudge) -> None:
        record = record_of(event)
        conversation = self._conversation(record.transcript)
        if conversation is None:
            return
        key = event.kind, record.id
        if key not in conversation.judgements:
            self.counts.take(record)
        conversation.judgements[key] = record
