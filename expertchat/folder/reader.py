"""A run folder as one finds it: what kind of run it is, who talks and learns in it, how far it is, and its records, typed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from expertchat.config import ConfigError
from expertchat.events import EVENT, AnyEvent
from expertchat.folder.following import EventTail, Heartbeat, LiveFile
from expertchat.folder.jsonl import read_json, read_lines, read_records
from expertchat.folder.lock import HEARTBEAT
from expertchat.records import (
    SEATS,
    Answer,
    Candidate,
    Demonstration,
    Guess,
    Item,
    JudgeRef,
    Metrics,
    Opinion,
    PreferencePair,
    Rating,
    Record,
    Reward,
    Score,
    Speaker,
    Step,
    Topic,
    Transcript,
    Wim,
)
from expertchat.text.sentences import first_line

R = TypeVar("R", bound=Record)

ALONE = "model"  # who learns from rows

# The files of records of a run, NAME.jsonl each.
FILES: dict[str, type[Record]] = {
    "topics": Topic, "transcripts": Transcript, "candidates": Candidate, "answers": Answer, "ratings": Rating, "wim": Wim,
    "rewards": Reward, "scores": Score, "pairs": PreferencePair, "metrics": Metrics, "items": Item, "opinions": Opinion, "judges": JudgeRef,
    "demonstrations": Demonstration, "steps": Step, "guesses": Guess,
}  # fmt: skip
MARKS = ("events.jsonl", HEARTBEAT, "live.json", "provenance.json")  # one of these makes a folder a run
TRAINS = frozenset({"online_dpo", "rloo", "grpo", "sft", "dpo"})  # the commands whose runs learn, round by round
JUDGES = frozenset({"judge"})  # and those whose runs hold opinions of what was there before
MAKES_JUDGES = frozenset({"reward_model"})  # and those whose runs make a judge of a model
CHOOSES = frozenset({"best_of_n"})  # and those whose runs choose among candidates
SERVES = frozenset({"serve"})  # and those whose runs answer others
END, WHOLE = 1 << 16, 1 << 20  # bytes of the events that are read for their ends, and where no line ends in these
_COMMAND = re.compile("[a-z][a-z_]*")
Event = Mapping[str, Any]


class Ends(NamedTuple):
    """What the beginning and the end of a run's events say, as it stands there; empty where it is not to be had."""

    first: Event  # the first run_started
    last: Event  # the last event of all
    start: Event  # the last run_started, if it is near the end and no run_finished follows it
    end: Event  # run_finished, if no start follows it


NOTHING = Ends({}, {}, {}, {})


class RunReader:
    """A run folder, read: nothing before it is asked for, the config and the other small files once.

    A small file that is damaged counts as empty, but for the config, which raises ConfigError, and so does a damaged line of records; both
    say what to do (`remedy`). A torn last line is left out.
    """

    def __init__(self, folder: Path, remedy: str = "leave this run out") -> None:
        self.folder, self.remedy = folder, remedy

    def path(self, name: str) -> Path:
        """Where the records called `name` stand."""
        return self.folder / f"{name}.jsonl"

    # -- what it is -------------------------------------------------------------------------------------------------

    @cached_property
    def config(self) -> dict[str, Any]:
        """As it was written. Raises ConfigError."""
        return read_config(self.folder / "config.yaml", self.remedy)

    @cached_property
    def provenance(self) -> dict[str, Any]:
        return read_json(self.folder / "provenance.json") or {}

    @cached_property
    def kind(self) -> str:
        """The command whose run it is, of a merged run that of its sources; "" where nothing says it.

        The first event tells it. A run that has told nothing yet has its command line in provenance.json. Where both are lost, as in a
        folder that was copied in part, the config must do: with rounds and a learner it is that of a training, by its method, with a
        conversation converse's.
        """
        told = _events(self._head())
        first = next((event for event in told if event["kind"] == "run_started"), {})
        if _is_command(said := first.get("command")):
            return str(said)
        words = self.command_line
        if len(words) > 1 and "merged" not in self.provenance and _is_command(words[1]):
            return words[1]
        try:
            keys = self.config.keys()
        except ConfigError:
            return ""
        if {"rounds", "learner"} <= keys:
            method = str(self.config.get("train", {}).get("update"))
            return method if method in TRAINS else "online_dpo"
        return "converse" if "conversation" in keys else ""

    @property
    def command_line(self) -> list[str]:
        """The words that began the run; empty where they are not known."""
        words = self.provenance.get("command_line")
        return [str(word) for word in words] if isinstance(words, list) else []

    @property
    def trains(self) -> bool:
        """Whether somebody learns in it, round by round."""
        return self.kind in TRAINS

    @property
    def judges_only(self) -> bool:
        """Whether it holds opinions of what was there before, and nobody talks in it."""
        return self.kind in JUDGES

    @property
    def makes_judge(self) -> bool:
        """Whether a model learns in it to give texts a number."""
        return self.kind in MAKES_JUDGES

    @property
    def chooses(self) -> bool:
        """Whether it holds candidates of prompts, one of which was chosen, and nobody talks in it."""
        return self.kind in CHOOSES

    @property
    def serves(self) -> bool:
        """Whether it is a server, which other runs ask."""
        return self.kind in SERVES

    @property
    def seats(self) -> tuple[Speaker, ...]:
        """Who talks, by the names of the config, in the order of their turns."""
        experts = self.config.get("experts")
        return tuple(experts) if isinstance(experts, dict) and experts else SEATS

    @property
    def learners(self) -> tuple[Speaker, ...]:
        """Who learns, in the order of their rounds; one policy that plays all is the first."""
        learner = self.config.get("learner")
        if learner is None and "train" in self.config and "model" in self.config:
            return (ALONE,)
        if learner in ("all", "both"):
            return self.seats
        return () if learner is None else self.seats[:1] if learner == "one" else (str(learner),)

    def evaluation(self, learner: Speaker, what: str) -> Path:
        """A file of evaluations/ by its name, {} in it for the learner's seat in held-out dialogues: who learns alone has the first."""
        return self.folder / "evaluations" / what.format(SEATS[0] if learner == ALONE else learner)

    @property
    def rounds(self) -> int:
        """The rounds that are to be made; 0 where there are none."""
        rounds, train = self.config.get("rounds"), self.config.get("train")
        if rounds is None and isinstance(train, dict) and isinstance(parts := self.config.get("rounds_per_epoch"), int):
            rounds = parts * train["epochs"] if isinstance(train.get("epochs"), int) else 0
        return rounds if isinstance(rounds, int) else 0

    @property
    def seed(self) -> int | None:
        """None: of a run that was merged of several seeds."""
        run = self.config.get("run")
        seed = run.get("seed") if isinstance(run, dict) else None
        return seed if isinstance(seed, int) else None

    # -- how far it is ----------------------------------------------------------------------------------------------

    @property
    def begun(self) -> bool:
        return (self.folder / "config.yaml").is_file()

    @property
    def done(self) -> bool:
        """Whether it has gone through all of its work, whatever came of it."""
        return (self.folder / "summary.json").is_file()

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What it has come to at its end; empty before."""
        return read_json(self.folder / "summary.json") or {}

    @property
    def failure(self) -> str | None:
        """Why a run that did all its work could not do what it is for; None where that is not so."""
        return str(self.summary.get("reason") or "") if is_failed(self.summary) else None

    @property
    def last_round(self) -> int:
        """The last round that has a checkpoint; 0 where there is none."""
        done = (path.parent.name for path in self.folder.glob("rounds/[0-9]*/DONE"))
        return max((int(name) for name in done if name.isdigit()), default=0)

    # -- records and events -----------------------------------------------------------------------------------------

    def lines(self, name: str) -> Iterator[dict[str, Any]]:
        """Records (or events) as they stand in NAME.jsonl: to count many of them quickly."""
        return (line for _, line in read_lines(self.path(name)))

    def topics(self) -> Iterator[Topic]:
        return self._records("topics", Topic)

    def transcripts(self) -> Iterator[Transcript]:
        return self._records("transcripts", Transcript)

    def candidates(self) -> Iterator[Candidate]:
        return self._records("candidates", Candidate)

    def answers(self) -> Iterator[Answer]:
        return self._records("answers", Answer)

    def ratings(self) -> Iterator[Rating]:
        return self._records("ratings", Rating)

    def wims(self) -> Iterator[Wim]:
        return self._records("wim", Wim)

    def guesses(self) -> Iterator[Guess]:
        return self._records("guesses", Guess)

    def rewards(self) -> Iterator[Reward]:
        return self._records("rewards", Reward)

    def scores(self) -> Iterator[Score]:
        return self._records("scores", Score)

    def pairs(self) -> Iterator[PreferencePair]:
        return self._records("pairs", PreferencePair)

    def metrics(self) -> Iterator[Metrics]:
        return self._records("metrics", Metrics)

    def demonstrations(self) -> Iterator[Demonstration]:
        return self._records("demonstrations", Demonstration)

    def steps(self) -> Iterator[Step]:
        return self._records("steps", Step)

    def items(self) -> Iterator[Item]:
        return self._records("items", Item)

    def opinions(self) -> Iterator[Opinion]:
        return self._records("opinions", Opinion)

    def judges(self) -> Iterator[JudgeRef]:
        return self._records("judges", JudgeRef)

    def _records(self, name: str, model: type[R]) -> Iterator[R]:
        return read_records(self.path(name), model, self.remedy)

    def events(self) -> Iterator[AnyEvent]:
        """What happened, from the beginning."""
        path = self.path("events")
        for n, line in read_lines(path):
            try:
                yield EVENT.validate_python(line)
            except ValidationError as error:
                raise ConfigError(f"{path}, line {n} is no event of this version ({first_line(error)}); {self.remedy}") from None

    def ends(self) -> Ends:
        """What is told at the beginning and at the end of the events, however long they are. Nothing here raises."""
        head, tail = self._head(), self._tail()
        first = next((event for event in _events(head) if event["kind"] == "run_started"), {})
        last = next(_events(reversed(tail)), {})
        marked = (line for line in reversed(tail) if b'"run_started"' in line or b'"run_finished"' in line)
        mark = next((event for event in _events(marked) if event["kind"] in ("run_started", "run_finished")), {})
        start, end = (mark if mark.get("kind") == kind else {} for kind in ("run_started", "run_finished"))
        return Ends(first, last, start, end)

    def _head(self) -> list[bytes]:
        """The first lines of the events."""
        try:
            with self.path("events").open("rb") as file:
                return file.read(END).split(b"\n")
        except OSError:
            return []

    def _tail(self) -> list[bytes]:
        """The last lines of the events, the last two whole ones at least where they are not too long."""
        text = b""
        try:
            with self.path("events").open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                for length in (END, WHOLE):
                    if text.count(b"\n") < 2 and size > len(text):
                        file.seek(max(0, size - length))
                        text = file.read(length)
        except OSError:
            return []
        return text.split(b"\n")

    # -- while it is written ----------------------------------------------------------------------------------------

    def tail(self) -> EventTail:
        """The events as they come."""
        return EventTail(self.path("events"))

    def live(self) -> LiveFile:
        """What the events do not keep: the texts that are being written."""
        return LiveFile(self.folder / "live.json")

    def heartbeat(self) -> Heartbeat:
        """Whether somebody writes it."""
        return Heartbeat(self.folder / HEARTBEAT, self.path("events"))


def is_failed(summary: Mapping[str, Any]) -> bool:
    """Whether a summary is that of a run that did all its work but could not do what it is for; then it has a `reason` too."""
    return summary.get("status") == "failed"


def read_config(path: Path, remedy: str) -> dict[str, Any]:
    """A run's config as it was written. Raises ConfigError, which says what to do, where it cannot be read or is none."""
    import yaml  # a list of runs reads none

    try:
        config = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read ({first_line(error)}); {remedy}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: is not the config of a run; {remedy}")
    return config


def _events(lines: Iterable[bytes]) -> Iterator[Event]:
    """Those lines that are events; torn ones are left out."""
    for line in lines:
        try:
            event = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and isinstance(event.get("kind"), str):
            yield event


def _is_command(word: object) -> bool:
    return isinstance(word, str) and _COMMAND.fullmatch(word) is not None


def called(learner: Speaker) -> str:
    """A learner in words."""
    return "the model" if learner == ALONE else f"expert {learner}"
