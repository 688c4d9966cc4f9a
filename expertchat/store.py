"""The run folder: what a run writes, and what a run that goes on finds there.

Records are appended to their own files before the event that announces them, and whoever asks for an id twice gets it written once.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from expertchat.config import ConfigError
from expertchat.events import (
    EVENT,
    TRANSIENT,
    AnyEvent,
    ConversationFinished,
    ConversationJudged,
    ConversationStarted,
    Progress,
    RatingGiven,
    RewardGiven,
    TextStreamed,
    TurnFinished,
    WimGiven,
)
from expertchat.jsonl import Log, WriteError, cut_torn_end, read_lines
from expertchat.lock import HEARTBEAT, LOCK, FolderLock, replace
from expertchat.provenance import provenance, versions
from expertchat.records import Rating, Reward, Speaker, Topic, Transcript, Turn, Wim

LIVE_SECONDS = 0.25  # live.json is replaced at most this often
SYNC_SECONDS = 5.0
BOOKKEEPING = {LOCK, HEARTBEAT, "provenance.json"}  # a folder that holds no more than these has not begun
NOT_COMPARED = ("view", "engine", "run.dir", "models_dir")  # config keys that do not change what a run writes
RECORDS: dict[str, type[Rating] | type[Wim] | type[Reward]] = {"ratings": Rating, "wim": Wim, "rewards": Reward}
Judged = Rating | Wim | Reward
Expected = Callable[[Sequence[Speaker]], tuple[int, int, int]]
"""The speakers of a finished dialogue -> how many ratings, WIM responses and rewards it gets."""


@dataclass
class Saved:
    """What an earlier start of the run left of one unfinished conversation."""

    transcript: Transcript | None = None
    turns: dict[int, Turn] = field(default_factory=dict)
    records: dict[str, Judged] = field(default_factory=dict)
    events: set[str] = field(default_factory=set)

    def done_turns(self) -> list[Turn]:
        """The turns from the first on, without a gap."""
        if self.transcript is not None:
            return list(self.transcript.turns)
        done: list[Turn] = []
        while len(done) in self.turns:
            done.append(self.turns[len(done)])
        return done


class Store:
    """A run folder that this process writes. It is a Sink; `keep` takes the records that no event carries.

    Opening checks and locks the folder but leaves no run in it before `begin`. Raises ConfigError for a folder that is another run's, is no
    run, cannot be written, or is being written by another process.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], command_line: list[str]) -> None:
        self.folder, self.config, self.command_line = folder, config, command_line
        self.notes: list[str] = []
        self.summary: dict[str, Any] | None = None  # of a run that is done
        self.done: set[str] = set()  # conversations that are complete on disk
        self._saved: dict[str, Saved] = {}
        self._topics: list[Topic] = []
        self._topic_ids: set[str] = set()
        self._logs: dict[str, Log] = {}
        self._early: list[AnyEvent] = []
        self._begun = self.resumed = False
        self._live = _Live(folder / "live.json")
        self._synced = time.monotonic()
        try:
            self._made = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(folder)
        except OSError as error:
            raise ConfigError(f"run.dir: cannot write {folder}: {error.strerror}; name another folder") from None
        try:
            self._check()
        except BaseException:
            self.close()
            raise
        if self._lock.note:
            self.notes.append(self._lock.note)

    # -- beginning --------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        names = {path.name for path in self.folder.iterdir() if not path.name.endswith(".new")}
        self.resumed = "config.yaml" in names
        if not self.resumed:
            if strange := sorted(names - BOOKKEEPING):
                shown = ", ".join(strange[:5]) + (", ..." if len(strange) > 5 else "")
                raise ConfigError(f"run.dir: {self.folder} is not a run folder (it holds {shown}); name a new or empty folder")
            return
        before = _read_config(self.folder / "config.yaml")
        if differing := differences(before, self.config):
            remedy = "give its values again or name another folder; these differ:"
            raise ConfigError([f"run.dir: {self.folder} is a run of another config; {remedy}", *differing])
        self.notes += _changed_packages(self.folder / "provenance.json")
        if (self.folder / "summary.json").exists():
            self.summary = _read_summary(self.folder / "summary.json")

    def begin(self, expected: Expected) -> None:
        """Make the folder a run's, or find what there is of it. From here on everything that is sent is written."""
        try:
            if self.resumed:
                self._load(expected)
            else:
                replace(self.folder / "provenance.json", json.dumps(provenance(self.command_line), indent=2) + "\n")
                replace(self.folder / "config.yaml", yaml.safe_dump(dict(self.config), sort_keys=False, allow_unicode=True), sync=True)
            for name in ("events", "topics", "transcripts", *RECORDS):
                self._logs[name] = Log(self.folder / f"{name}.jsonl")
        except OSError as error:
            raise ConfigError(f"run.dir: cannot write {self.folder}: {error.strerror}; name another folder") from None
        self._begun = True
        early, self._early = self._early, []
        for event in early:
            self.send(event)

    def _load(self, expected: Expected) -> None:
        """Find the complete conversations by counting, then read what there is of the others."""
        for path in self.folder.glob("*.jsonl"):
            cut_torn_end(path)
        counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
        wanted: dict[str, tuple[int, int, int, int]] = {}
        for index, name in enumerate(RECORDS):
            for _, line in read_lines(self.folder / f"{name}.jsonl"):
                counts[line.get("transcript", "")][index] += 1
        for _, line in read_lines(self.folder / "events.jsonl"):
            if conversation := _conversation_of(line):
                counts[conversation][3] += 1
        for _, line in read_lines(self.folder / "transcripts.jsonl"):
            speakers = [turn["speaker"] for turn in line["turns"]]
            records = expected(speakers)
            wanted[line["id"]] = (*records, sum(records) + len(speakers) + 3)  # started, each turn, finished, judged
        self.done = {name for name, numbers in wanted.items() if tuple(counts[name]) == numbers}
        for path, n, line in self._lines("topics", "transcripts", *RECORDS, "events"):
            try:
                self._take(path.stem, line)
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
        conversation = line["id"] if name == "transcripts" else line["transcript"] if name in RECORDS else _conversation_of(line)
        if conversation is None or conversation in self.done:
            return
        saved = self._saved.setdefault(conversation, Saved())
        if name == "transcripts":
            saved.transcript = Transcript.model_validate(line)
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

    def saved(self, conversation: str) -> Saved:
        """What there is of a conversation that is not in `done`."""
        return self._saved.setdefault(conversation, Saved())

    # -- writing ----------------------------------------------------------------------------------------------------

    def keep(self, record: Topic | Transcript) -> None:
        """Append a record, unless it is there."""
        if isinstance(record, Topic):
            if record.id not in self._topic_ids:
                self._topic_ids.add(record.id)
                self._topics.append(record)
                self._append("topics", record)
            return
        saved = self.saved(record.id)
        if saved.transcript is None:
            self._append("transcripts", record)
            saved.transcript = record

    def send(self, event: AnyEvent) -> None:
        """Write an event and the record it carries, each once."""
        if not self._begun:
            self._early.append(event)
            return
        if event.kind in TRANSIENT:
            self._live.send(event)
            return
        conversation, key = _event_conversation(event), _event_key(event)
        if conversation is None or key is None:
            self._append("events", event)
            return
        if conversation in self.done:
            return
        saved = self.saved(conversation)
        if isinstance(event, RatingGiven | WimGiven | RewardGiven):
            name, record = _record_of(event)
            if record.id not in saved.records:
                self._append(name, record)
                saved.records[record.id] = record
        if key not in saved.events:
            self._append("events", event)
            saved.events.add(key)
        self._live.send(event)
        if isinstance(event, ConversationJudged):
            self.done.add(conversation)
            del self._saved[conversation]
            if time.monotonic() - self._synced > SYNC_SECONDS:
                self.sync()

    def _append(self, name: str, what: BaseModel) -> None:
        if self._lock.lost:
            raise WriteError(f"another process has taken {self.folder} over; this one stops")
        self._logs[name].append(what.model_dump_json(by_alias=True))

    def sync(self) -> None:
        """Make everything so far survive a power cut."""
        for log in self._logs.values():
            log.sync()
        self._synced = time.monotonic()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json, last of all. The run is done."""
        self.sync()
        try:
            replace(self.folder / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n", sync=True)
        except OSError as error:
            raise WriteError(f"cannot write {self.folder / 'summary.json'}: {error.strerror}; the records are complete") from None

    def close(self) -> None:
        """Close the files and give the folder back. A folder in which nothing has begun is left as it was. May be called twice."""
        for log in self._logs.values():
            log.close()
        self._live.close()
        self._lock.release()
        if not self._begun and not self.resumed:
            with contextlib.suppress(OSError):
                (self.folder / LOCK).unlink(missing_ok=True)
                if self._made:
                    self.folder.rmdir()


class _Live:
    """live.json: the texts of the turns that are being written, and the progress."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._turns: dict[str, TextStreamed] = {}
        self._progress: Progress | None = None
        self._written = 0.0

    def send(self, event: AnyEvent) -> None:
        match event:
            case TextStreamed():
                self._turns[event.conversation] = event
            case Progress():
                self._progress = event
            case TurnFinished() | ConversationFinished():
                self._turns.pop(event.conversation, None)
            case _:
                return
        if time.monotonic() - self._written >= LIVE_SECONDS:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        turns = [event.model_dump(include={"conversation", "turn", "speaker", "text"}) for event in self._turns.values()]
        progress = self._progress.model_dump(exclude={"kind", "time"}) if self._progress else None
        try:
            replace(self.path, json.dumps({"time": time.time(), "turns": turns, "progress": progress}))
        except OSError:
            return  # only a view; a full disk is reported by the records

    def close(self) -> None:
        self._turns.clear()
        if self._written:
            self._write()


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each key in which two configs differ, those aside that do not change what a run writes."""
    one, two = dict(_flat(before)), dict(_flat(now))
    keys = [key for key in {**one, **two} if not any(key == skip or key.startswith(f"{skip}.") for skip in NOT_COMPARED)]
    return [f"{key}: was {one.get(key)!r}, is {two.get(key)!r}" for key in keys if one.get(key) != two.get(key)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"run.dir: cannot read {path}: {str(error).splitlines()[0]}; name another folder") from None
    if not isinstance(config, dict):
        raise ConfigError(f"run.dir: {path} is not the config of a run; name another folder")
    return config


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        summary = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"run.dir: cannot read {path}: {error}; remove it and the run goes on") from None
    return summary if isinstance(summary, dict) else {}


def _changed_packages(path: Path) -> list[str]:
    try:
        before = json.loads(path.read_bytes())["packages"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    now = versions()
    changed = [f"{name} {before[name]} -> {now.get(name)}" for name in before if before[name] != now.get(name)]
    return [f"packages have changed since the run began: {', '.join(changed)}; texts may differ from an unbroken run"] if changed else []


def _record_of(event: RatingGiven | WimGiven | RewardGiven) -> tuple[str, Judged]:
    if isinstance(event, RatingGiven):
        return "ratings", event.rating
    return ("wim", event.wim) if isinstance(event, WimGiven) else ("rewards", event.reward)


def _event_conversation(event: AnyEvent) -> str | None:
    if isinstance(event, RatingGiven | WimGiven | RewardGiven):
        return _record_of(event)[1].transcript
    return getattr(event, "conversation", None)


def _event_key(event: AnyEvent) -> str | None:
    """What makes an event of a conversation the same event; None for events of the whole run."""
    match event:
        case TurnFinished():
            return f"{event.kind}/{event.index}"
        case ConversationStarted() | ConversationFinished() | ConversationJudged():
            return event.kind
        case RatingGiven() | WimGiven() | RewardGiven():
            return _record_of(event)[1].id
        case _:
            return None


def _conversation_of(line: Mapping[str, Any]) -> str | None:
    """The conversation of an event as it stands in the file."""
    for name in ("rating", "wim", "reward"):
        if name in line:
            return str(line[name]["transcript"])
    found = line.get("conversation")
    return None if found is None else str(found)
