"""The run folder: what a run writes, and what a run that goes on finds there.

Records are appended to their own files before the event that announces them, and whoever asks for an id twice gets it written once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from expertchat.config import ConfigError
from expertchat.events import (
    EVENT,
    AnyEvent,
    ConversationFinished,
    ConversationJudged,
    ConversationStarted,
    GuessGiven,
    RatingGiven,
    RewardGiven,
    TurnFinished,
    WimGiven,
)
from expertchat.folder.jsonl import read_lines
from expertchat.folder.run_folder import RunFolder
from expertchat.records import Answer, Guess, Rating, Reward, Speaker, Topic, Transcript, Turn, Wim

Judged = Rating | Wim | Reward | Guess
RECORDS: dict[str, type[Judged]] = {"ratings": Rating, "wim": Wim, "rewards": Reward, "guesses": Guess}
Expected = Callable[[Sequence[Speaker]], tuple[int, ...]]
"""The speakers of a finished dialogue -> how many records of each kind (RECORDS) it gets; those that are not named: none."""
OfJudge = RatingGiven | WimGiven | RewardGiven | GuessGiven
CARRIED = ("rating", "wim", "reward", "guess")  # the fields of such events


@dataclass
class Saved:
    """What an earlier start of the run left of one unfinished conversation."""

    transcript: Transcript | None = None
    turns: dict[int, Turn] = field(default_factory=dict)
    records: dict[str, Judged] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    events: set[str] = field(default_factory=set)

    def done_turns(self) -> list[Turn]:
        """The turns from the first on, without a gap."""
        if self.transcript is not None:
            return list(self.transcript.turns)
        done: list[Turn] = []
        while len(done) in self.turns:
            done.append(self.turns[len(done)])
        return done


class Store(RunFolder):
    """A run folder that this process writes. It is a Sink; `keep` takes the records that no event carries.

    Opening checks and locks the folder but leaves no run in it before `begin`. Raises ConfigError as RunFolder does.
    """

    logs = ("events", "topics", "transcripts", "answers", *RECORDS)

    def __init__(
        self, folder: Path, config: Mapping[str, Any], command_line: list[str], say: Callable[[str], None] = lambda text: None
    ) -> None:
        super().__init__(folder, config, command_line, say)
        self.done: set[str] = set()  # conversations that are complete on disk
        self._saved: dict[str, Saved] = {}
        self._topics: list[Topic] = []
        self._topic_ids: set[str] = set()
        self._expected: Expected | None = None

    # -- beginning --------------------------------------------------------------------------------------------------

    def begin(self, expected: Expected) -> None:
        """`open`, with what a finished dialogue must have."""
        self._expected = expected
        self.open()

    def find(self) -> None:
        """Find the complete conversations by counting, then read what there is of the others."""
        assert self._expected is not None
        counts: dict[str, list[int]] = defaultdict(lambda: [0] * (len(RECORDS) + 1))
        wanted: dict[str, tuple[int, ...]] = {}
        places = {name: index for index, name in enumerate(RECORDS)}

        def count(name: str, line: dict[str, Any]) -> None:
            if name in places:
                counts[line.get("transcript", "")][places[name]] += 1
            elif name == "events":
                if conversation := _conversation_of(line):
                    counts[conversation][-1] += 1
            else:
                speakers = [turn["speaker"] for turn in line["turns"]]
                records = expected(speakers)
                none = [0] * (len(RECORDS) - len(records))
                wanted[line["id"]] = (*records, *none, sum(records) + len(speakers) + 3)  # started, each turn, finished, judged

        expected = self._expected
        self._each(count, *RECORDS, "events", "transcripts")
        self.done = {name for name, numbers in wanted.items() if tuple(counts[name]) == numbers}
        self._each(self._take, "topics", "transcripts", "answers", *RECORDS, "events")

    def _each(self, take: Callable[[str, dict[str, Any]], None], *names: str) -> None:
        """Give `take` the name of the file and each line. Raises ConfigError with the place of a line that is no record."""
        for path, n, line in self._lines(*names):
            try:
                take(path.stem, line)
            except (ValidationError, KeyError, TypeError) as error:
                why = str(error).splitlines()[0]
                raise ConfigError(f"{path}, line {n} is no record of this version ({why}); restore it or name another run.dir") from None

    def _lines(self, *names: str) -> Iterator[tuple[Path, int, dict[str, Any]]]:
        for name in names:
            path = self.folder / f"{name}.jsonl"
            for n, line in read_lines(path):
                yield path, n, line

    def _take(self, name: str, line: dict[str, Any]) -> None:
        if name == "topics":
            topic = Topic.model_validate(line)
            self._topics.append(topic)
            self._topic_ids.add(topic.id)
            return
        conversation = _conversation_of(line) if name == "events" else line["id" if name == "transcripts" else "transcript"]
        if conversation is None or conversation in self.done:
            return
        saved = self._saved.setdefault(conversation, Saved())
        if name == "transcripts":
            saved.transcript = Transcript.model_validate(line)
        elif name == "answers":
            answer = Answer.model_validate(line)
            saved.answers[answer.id] = answer
        elif name in RECORDS:
            record = RECORDS[name].model_validate(line)
            saved.records[record.id] = record
        else:
            event = EVENT.validate_python(line)
            saved.events.add(_event_key(event) or "")
            if isinstance(event, TurnFinished):
                saved.turns[event.index] = event.turn

    def topics(self) -> list[Topic]:
        """The topics kept so far, from the first conversation's on, without a gap."""
        return list(self._topics)

    def answers(self) -> dict[str, Answer]:
        """The answers of all conversations that are not in `done`, by id."""
        return {answer.id: answer for saved in self._saved.values() for answer in saved.answers.values()}

    def saved(self, conversation: str) -> Saved:
        """What there is of a conversation that is not in `done`."""
        return self._saved.setdefault(conversation, Saved())

    # -- writing ----------------------------------------------------------------------------------------------------

    def keep(self, record: Topic | Transcript | Answer) -> None:
        """Append a record, unless it is there."""
        if isinstance(record, Answer):
            answers = self.saved(record.transcript).answers
            if record.id not in answers:
                self.append("answers", record)
                answers[record.id] = record
            return
        if isinstance(record, Topic):
            if record.id not in self._topic_ids:
                self._topic_ids.add(record.id)
                self._topics.append(record)
                self.append("topics", record)
            return
        saved = self.saved(record.id)
        if saved.transcript is None:
            self.append("transcripts", record)
            saved.transcript = record

    def send(self, event: AnyEvent) -> None:
        """Write an event and the record it carries, each once."""
        if self.passes(event):
            return
        conversation, key = _event_conversation(event), _event_key(event)
        if conversation is None or key is None:
            self.append("events", event)
            return
        if conversation in self.done:
            return
        saved = self.saved(conversation)
        if isinstance(event, OfJudge):
            name, record = _record_of(event)
            if record.id not in saved.records:
                self.append(name, record)
                saved.records[record.id] = record
        if key not in saved.events:
            self.append("events", event)
            saved.events.add(key)
        self._live.send(event)
        if isinstance(event, ConversationJudged):
            self.done.add(conversation)
            del self._saved[conversation]
            self.sync_now_and_then()


def _record_of(event: OfJudge) -> tuple[str, Judged]:
    match event:
        case RatingGiven():
            return "ratings", event.rating
        case WimGiven():
            return "wim", event.wim
        case RewardGiven():
            return "rewards", event.reward
    return "guesses", event.guess


def _event_conversation(event: AnyEvent) -> str | None:
    if isinstance(event, OfJudge):
        return _record_of(event)[1].transcript
    return getattr(event, "conversation", None)


def _event_key(event: AnyEvent) -> str | None:
    """What makes an event of a conversation the same event; None for events of the whole run."""
    match event:
        case TurnFinished():
            return f"{event.kind}/{event.index}"
        case ConversationStarted() | ConversationFinished() | ConversationJudged():
            return event.kind
        case RatingGiven() | WimGiven() | RewardGiven() | GuessGiven():
            return _record_of(event)[1].id
        case _:
            return None


def _conversation_of(line: Mapping[str, Any]) -> str | None:
    """The conversation of an event as it stands in the file."""
    for name in CARRIED:
        if name in line:
            return str(line[name]["transcript"])
    found = line.get("conversation")
    return None if found is None else str(found)


# -- ids ----------------------------------------------------------------------------------------------------------------

IDS = frozenset({"id", "transcript", "candidate", "history", "conversation"})  # fields of records and events that name a record
KEYED = {"provenance": frozenset({"transcript", "chosen", "rejected"})}  # and keys in fields that are mappings
EVENTS: dict[str, type[BaseModel]] = {kind.model_fields["kind"].default: kind for kind in get_args(get_args(AnyEvent)[0])}


def prefixed(model: type[BaseModel], line: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """A record or event as it stands in a file, with `prefix` before every id in it."""
    found = dict(line)
    for name, inner in _named(model):
        value = found.get(name)
        if name in KEYED and isinstance(value, Mapping):
            found[name] = {key: prefix + one if key in KEYED[name] else one for key, one in value.items()}
        elif inner is not None and isinstance(value, Mapping):
            found[name] = prefixed(inner, value, prefix)
        elif inner is not None and isinstance(value, list):
            found[name] = [prefixed(inner, one, prefix) for one in value]
        elif isinstance(value, str):
            found[name] = prefix + value
    return found


@lru_cache(maxsize=64)
def _named(model: type[BaseModel]) -> list[tuple[str, type[BaseModel] | None]]:
    """The fields of a model that are ids, or hold models that have some."""
    found: list[tuple[str, type[BaseModel] | None]] = []
    for name, info in model.model_fields.items():
        if name in IDS or name in KEYED:
            found.append((name, None))
        elif inner := next((one for one in _models(info.annotation) if _named(one)), None):
            found.append((name, inner))
    return found


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models in a type: Verdict of list[Verdict]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [one for part in get_args(annotation) for one in _models(part)]
