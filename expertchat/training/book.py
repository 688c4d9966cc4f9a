"""The run folder of a training run: bundles as they come, records in order at the end of a round, checkpoints that are there or not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from expertchat.config import ConfigError
from expertchat.events import TRANSIENT, AnyEvent
from expertchat.folder import RunFolder
from expertchat.jsonl import Log, cut_torn_end, read_lines
from expertchat.lock import replace
from expertchat.records import Metrics, PreferencePair, Rating, Record, Reward, Score, Topic, Wim
from expertchat.training.rollout import Bundle

DONE = "DONE"
STATE = "state.json"


def round_name(number: int) -> str:
    """The beginning of all ids of a round: r0003."""
    return f"r{number:04d}"


class Bundles:
    """The finished dialogues of the round that is at work, one line each; every process has a file of its own."""

    def __init__(self, book: RunFolder, rank: int = 0) -> None:
        self.book, self.folder, self.rank = book, book.folder, rank
        self._log: Log | None = None

    def found(self, number: int) -> dict[str, Bundle]:
        """What an earlier start has finished of a round, by id, whichever process it was."""
        found: dict[str, Bundle] = {}
        for path in sorted(self._place(number).glob("bundles-*.jsonl")):
            cut_torn_end(path)
            for n, line in read_lines(path):
                try:
                    bundle = Bundle.model_validate(line)
                except ValidationError as error:
                    why = str(error).splitlines()[0]
                    raise ConfigError(f"{path}, line {n} is no dialogue of this version ({why}); remove it") from None
                found.setdefault(bundle.id, bundle)
        return found

    def keep(self, number: int, bundle: Bundle) -> None:
        """Write a finished dialogue, whole or not at all. Raises WriteError, also where another start has taken the folder over."""
        path = self._place(number) / f"bundles-{self.rank}.jsonl"
        with self.book.writing():
            if self._log is None or self._log.path != path:
                self.close()
                path.parent.mkdir(parents=True, exist_ok=True)
                self._log = Log(path)
            self._log.append(bundle.to_json())

    def close(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    def _place(self, number: int) -> Path:
        return self.folder / "rounds" / f"{number:06d}"


class Book(RunFolder):
    """What one process writes for all: events, records, pairs, metrics, checkpoints. Every record is written once."""

    logs = ("events", "topics", "transcripts", "candidates", "ratings", "wim", "rewards", "scores", "pairs", "metrics")

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        command_line: list[str],
        say: Callable[[str], None] = lambda text: None,
        writes: bool = True,
    ) -> None:
        super().__init__(folder, config, command_line, say, writes)
        self.metrics: dict[str, Metrics] = {}
        self.topics: list[Topic] = []
        self.last = 0  # the last round whose checkpoint is whole
        self._there: dict[str, set[str]] = {name: set() for name in self.logs}  # ids of the records of later rounds

    def find(self) -> None:
        self.last = last_round(self.folder)
        for name in self.logs[1:]:
            for n, line in read_lines(self.folder / f"{name}.jsonl"):
                try:
                    self._take(name, line)
                except (ValidationError, KeyError) as error:
                    where = f"{self.folder / name}.jsonl, line {n}"
                    raise ConfigError(f"{where} is no record of this version ({str(error).splitlines()[0]}); restore it") from None

    def _take(self, name: str, line: Mapping[str, Any]) -> None:
        if name == "metrics":
            one = Metrics.model_validate(line)
            self.metrics[one.id] = one
        elif name == "topics":
            self.topics.append(Topic.model_validate(line))
        elif str(line["id"]) > round_name(self.last + 1):
            self._there[name].add(line["id"])

    def send(self, event: AnyEvent) -> None:
        if not self.writes:
            return
        if not self._begun:
            self._early.append(event)
            return
        if event.kind not in TRANSIENT:
            self.append("events", event)
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
        return self.folder / "rounds" / f"{number:06d}"

    def checkpoint(self, number: int, state: Mapping[str, Any], write: Callable[[Path], None], keep: Sequence[int]) -> None:
        """Let `write` fill the round's folder; DONE, written last, makes it count. Older rounds but those of `keep` are removed.

        Raises WriteError where another process has taken the folder over.
        """
        if self.writes:
            with self.writing():
                self._checkpoint(number, state, write, keep)
        self.last = number

    def _checkpoint(self, number: int, state: Mapping[str, Any], write: Callable[[Path], None], keep: Sequence[int]) -> None:
        place = self.place(number)
        place.mkdir(parents=True, exist_ok=True)
        write(place)
        replace(place / STATE, json.dumps(state, indent=2) + "\n", sync=True)
        self.sync()
        replace(place / DONE, f"{number}\n", sync=True)
        for known in self._there.values():
            known.clear()
        for path in place.glob("bundles-*.jsonl"):
            path.unlink()
        for other in sorted((self.folder / "rounds").iterdir()):
            if other.name.isdigit() and int(other.name) < number and int(other.name) not in keep:
                _remove(other)

    def state(self, number: int) -> dict[str, Any]:
        """What `checkpoint` kept. Raises ConfigError."""
        try:
            state = json.loads((self.place(number) / STATE).read_bytes())
            assert isinstance(state, dict)
            return state
        except (OSError, ValueError, AssertionError):
            where = self.place(number)
            raise ConfigError(f"{where / STATE} cannot be read; remove {where} and the run goes on from the round before") from None


def last_round(folder: Path) -> int:
    """The last round whose checkpoint is whole; 0 where there is none."""
    done = [int(path.parent.name) for path in (folder / "rounds").glob(f"*/{DONE}") if path.parent.name.isdigit()]
    return max(done, default=0)


def _remove(folder: Path) -> None:
    """DONE goes first: a folder that is half removed never counts."""
    (folder / DONE).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def put(source: Path, target: Path) -> None:
    """Copy a folder whole: under another name first, then renamed into place."""
    work = target.with_name(f".{target.name}.new")
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(source, work)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(work, target)
