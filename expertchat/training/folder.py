"""The run folder of a training run: records in order at the end of a round, every event once, checkpoints that are there or not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from expertchat.config import ConfigError
from expertchat.events import (
    EVENT,
    AnyEvent,
    CandidatesJudged,
    ConversationFinished,
    ConversationJudged,
    ConversationStarted,
    Measured,
    RoundFinished,
    TurnFinished,
)
from expertchat.folder.jsonl import read_lines
from expertchat.folder.run_folder import RunFolder
from expertchat.preferences.candidates import Bundle
from expertchat.records import Metrics, PreferencePair, Rating, Record, Reward, Score, Topic, Wim
from expertchat.training.at_work import remove, round_folder, rounds_of
from expertchat.training.checkpoints import last_round, read_state, write_checkpoint

OF_RUN = "run/"  # the beginning of the keys of events of the whole run
KEYED = {
    kind.model_fields["kind"].default
    for kind in (ConversationStarted, TurnFinished, CandidatesJudged, ConversationFinished, ConversationJudged, Measured, RoundFinished)
}


def round_name(number: int) -> str:
    """The beginning of all ids of a round: r0003."""
    return f"r{number:04d}"


class TrainingFolder(RunFolder):
    """What one process writes for all: events, records, pairs, metrics, checkpoints. Every record is written once."""

    logs: tuple[str, ...] = ("events", "topics", "transcripts", "candidates", "ratings", "wim", "rewards", "scores", "pairs", "metrics")

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        command_line: list[str],
        say: Callable[[str], None] = lambda text: None,
        writes: bool = True,
    ) -> None:
        self.folders = ("rounds", "evaluations", "adapter", *(f"adapter_{seat}" for seat in config.get("experts", ())))
        super().__init__(folder, config, command_line, say, writes)
        self.metrics: dict[str, Metrics] = {}
        self.topics: list[Topic] = []
        self.last = 0  # the last round whose checkpoint is whole
        self._said: set[str] = set()  # what events.jsonl tells of those rounds, and of the run
        self._there: dict[str, set[str]] = {name: set() for name in self.logs}  # ids of the records of later rounds

    def find(self) -> None:
        self.last = last_round(self.folder)
        if shorter := self._shorter():
            raise ConfigError(shorter)
        self._read()

    def _sizes(self) -> dict[str, int]:
        """Bytes of each file of records."""
        paths = {name: self.folder / f"{name}.jsonl" for name in self.logs}
        return {name: path.stat().st_size if path.is_file() else 0 for name, path in paths.items()}

    def _shorter(self) -> list[str]:
        """Files of records that have lost something of the rounds that are done: nobody would write it again."""
        try:
            then = read_state(self.folder, self.last).get("records", {}) if self.last else {}  # older versions kept no sizes
        except ConfigError:  # a damaged checkpoint is told of later, or passed over
            return []
        now = self._sizes()
        return [
            f"{self.folder / name}.jsonl has {now[name]} bytes, but {size} were written by the end of round {self.last}: records of rounds "
            "that are done are lost; restore the file, or name another run.dir"
            for name, size in then.items()
            if now.get(name, size) < size and not (self.folder / f"{name}.jsonl").is_dir()  # which is told where it is read
        ]

    def _read(self) -> None:
        """What the files hold of the rounds after the last checkpoint, and of the whole run."""
        self.metrics.clear()
        self.topics.clear()
        for known in self._there.values():
            known.clear()
        self._said = set(self._events())
        for name in self.logs[1:]:
            for n, line in read_lines(self.folder / f"{name}.jsonl"):
                try:
                    self._take(name, line)
                except (ValidationError, KeyError) as error:
                    raise ConfigError(_no_record(self.folder / f"{name}.jsonl", n, error)) from None

    def _events(self) -> Iterator[str]:
        """The keys of the events that may come again."""
        first = round_name(self.last + 1)
        for n, line in read_lines(self.folder / "events.jsonl"):
            if line.get("kind") in KEYED and str(line.get("conversation", OF_RUN)) >= first:
                try:
                    key = _event_key(EVENT.validate_python(line))
                except ValidationError as error:
                    raise ConfigError(_no_record(self.folder / "events.jsonl", n, error)) from None
                if key is not None:
                    yield key

    def _take(self, name: str, line: Mapping[str, Any]) -> None:
        if name == "metrics":
            one = Metrics.model_validate(line)
            self.metrics[one.id] = one
        elif name == "topics":
            self.topics.append(Topic.model_validate(line))
        elif str(line["id"]) > round_name(self.last + 1):
            self._there[name].add(line["id"])

    def send(self, event: AnyEvent) -> None:
        if not self.writes or self.passes(event):
            return
        key = _event_key(event)
        if key is None or key not in self._said:
            self.append("events", event)
            if key is not None:
                self._said.add(key)
        self._live.send(event)

    def keep(self, record: Topic | Metrics) -> None:
        """Append a topic or metrics, unless they are there."""
        if isinstance(record, Metrics):
            if record.id not in self.metrics:
                self.append("metrics", record)
                self.metrics[record.id] = record
        elif all(topic.id != record.id for topic in self.topics):
            self.append("topics", record)
            self.topics.append(record)

    def keep_round(self, bundles: Sequence[Bundle], scores: Sequence[Score], pairs: Sequence[PreferencePair]) -> None:
        """Append all records of a round in the order of its dialogues; what a killed start has written of them stays as it is."""
        for bundle in bundles:
            self._once("transcripts", [bundle.transcript])
            for one in bundle.sampled:
                self._once("candidates", one.candidates)
                self._judged(one.ratings, one.wims, one.rewards)
            self._judged(bundle.ratings, bundle.wims, bundle.whole)
        self._once("scores", scores)
        self._once("pairs", pairs)
        self.sync()

    def _judged(self, ratings: Sequence[Rating], wims: Sequence[Wim], rewards: Sequence[Reward]) -> None:
        self._once("ratings", ratings)
        self._once("wim", wims)
        self._once("rewards", rewards)

    def _once(self, name: str, records: Sequence[Record]) -> None:
        for record in records:
            if record.id not in self._there[name]:
                self.append(name, record)

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def place(self, number: int) -> Path:
        return round_folder(self.folder, number)

    def checkpoint(self, number: int, state: Mapping[str, Any], write: Callable[[Path], None], keep: Sequence[int]) -> None:
        """Let `write` fill the round's folder, which counts when everything is in it. Older rounds but those of `keep` are removed.

        Raises WriteError, also where another process has taken the folder over.
        """
        if self.writes:
            with self.writing():
                self.sync()
                write_checkpoint(self.folder, number, {**state, "records": self._sizes()}, write, keep)
            later = round_name(number + 1)  # rounds that an earlier start had made, where all checkpoints were lost
            for name, known in self._there.items():
                self._there[name] = {one for one in known if one > later}
            self._said = {key for key in self._said if key >= later or key.startswith(OF_RUN)}
        self.last = number

    def state(self, number: int) -> dict[str, Any]:
        """What `checkpoint` kept. Raises ConfigError."""
        return read_state(self.folder, number)

    def go_back(self, number: int) -> None:
        """Go on after an older checkpoint than the last one."""
        self.last = number
        self._read()

    def tidy(self) -> None:
        """At the end of a run: remove what was kept for a restart alone."""
        if self.writes:
            with self.writing():
                for _, place in rounds_of(self.folder):
                    remove(place, "answers", "bundles")


def _event_key(event: AnyEvent) -> str | None:
    """What makes an event the same event; None for those that belong to a start, or say when something was begun again."""
    match event:
        case ConversationStarted() | ConversationFinished() | ConversationJudged():
            return f"{event.conversation}/{event.kind}"
        case TurnFinished():
            return f"{event.conversation}/{event.kind}/{event.index}"
        case CandidatesJudged():
            return f"{event.conversation}/{event.kind}/{event.turn}"
        case Measured():
            return f"{OF_RUN}{event.kind}/{event.metrics.id}"
        case RoundFinished():
            return f"{OF_RUN}{event.kind}/{event.round}"
        case _:
            return None


def _no_record(path: Path, n: int, error: Exception) -> str:
    return f"{path}, line {n} is no record of this version ({str(error).splitlines()[0]}); restore it"


def put(source: Path, target: Path) -> None:
    """Copy a folder whole: under another name first, then renamed into place."""
    work = target.with_name(f".{target.name}.new")
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(source, work)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(work, target)
