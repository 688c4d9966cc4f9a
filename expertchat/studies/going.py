"""A study as it goes: its steps in order, each in a process of its own; what is done is not done again, and the same command goes on.

study.json in its folder says which study it is, logs/STEP.json of each step what it was run with (`mark`) and how it ended. A step whose
words have changed, or whose files, or a step that it reads, is run again, in a new folder: the old one lies under superseded/. Several
processes may work in one folder, as jobs do, each at a step of its own: a step is locked, the study is not.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from expertchat.command.table import COMMANDS, find
from expertchat.config import ConfigError
from expertchat.folder.children import ends_with_its_parent
from expertchat.folder.embedded import others
from expertchat.folder.jsonl import read_json
from expertchat.folder.lock import FolderLock
from expertchat.folder.writing import replace, saving
from expertchat.studies.written import Step

DONE, FAILED, WRONG, STOPPED = 0, 1, 2, 3
STATE, OLD, LOGS, LOCKS = "study.json", "superseded", "logs", ".locks"
LARGEST = 64 << 20  # bytes of a file whose content is looked at; of a larger one size and time must do
LOOK_SECONDS = 0.5
LAST_LINES = 12  # of a step's log, shown where it has failed
STALE_SECONDS, BEAT_SECONDS = 120.0, 10.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # USR1: a job's time is nearly over


class Watcher(Protocol):
    """Who is told how a study goes."""

    def begins(self, steps: Sequence[Step], left: Mapping[str, str]) -> None:
        """All steps, and for each that is to be run why: "" for one that is new."""
        ...

    def doing(self, step: Step, seconds: float, line: str) -> None:
        """A step runs, for so long; the last line that it said."""
        ...

    def did(self, step: Step, code: int, seconds: float) -> None: ...

    def says(self, text: str) -> None: ...


@dataclass(frozen=True)
class State:
    """What is kept of a study's steps, each in a file of its own."""

    place: Path

    def of(self, step: Step) -> Mapping[str, Any]:
        return read_json(self._file(step)) or {}

    def done(self, step: Step, mark: str) -> bool:
        """Whether it is done as it is to be run, and what it has left is there."""
        before = self.of(step)
        return before.get("mark") == mark and before.get("code") == DONE and step.folder.is_dir()

    def keep(self, step: Step, **values: Any) -> None:
        with saving(self._file(step)):
            self._file(step).parent.mkdir(exist_ok=True)
            replace(self._file(step), json.dumps({**self.of(step), **values}, indent=1) + "\n", sync=True)

    def _file(self, step: Step) -> Path:
        return self.place / LOGS / f"{step.name}.json"


Run = Callable[[Step, Path, Callable[[float, str], None]], int]
"""Runs a step: it, its log, and who hears of it (seconds, last line); the exit code."""


def run_study(
    name: str, size: str, place: Path, steps: Sequence[Step], watcher: Watcher, run: Run | None = None, only: Sequence[str] = ()
) -> int:
    """Run what is not done; 0 when all of it is, else the code of the step that ended it: 3 where it was stopped and can go on.

    `run`: in the place of a process a step. `only`: these steps alone, by their own names or those of the file. Raises ConfigError for a
    folder that is another study's, a step that is being run by another process, and for one of `only` that reads what is not done.
    """
    state, marks = opened(name, size, place), marks_of(steps)
    wanted = set(chosen(steps, only)) if only else marks.keys()
    left = left_of(steps, marks, state)
    if problem := of_other_models(steps, marks, state, left):
        raise ConfigError(problem)
    left = {step: why for step, why in left.items() if step in wanted}
    if only and (lacking := [name for step in steps if step.name in left for name in step.after if name not in left
                             and not state.done(next(one for one in steps if one.name == name), marks[name])]):  # fmt: skip
        raise ConfigError(f"--only {','.join(only)}: reads {', '.join(dict.fromkeys(lacking))}, not done yet: name these too")
    watcher.begins([step for step in steps if step.name in wanted], left)
    for step in steps:
        if step.name in left and (code := _alone(step, marks[step.name], state, watcher, run or in_a_process)) != DONE:
            return code
    return DONE


def chosen(steps: Sequence[Step], only: Sequence[str]) -> list[str]:
    """The steps that `only` names. Raises ConfigError for a name that no step has."""
    if strange := [name for name in only if not any(name in (step.name, step.of) for step in steps)]:
        raise ConfigError([f"--only {name}: there is no such step; there are {', '.join(step.name for step in steps)}" for name in strange])
    return [step.name for step in steps if {step.name, step.of} & {*only}]


def opened(name: str, size: str, place: Path) -> State:
    """The study's folder, made if it is not there. Raises ConfigError where it is something else's."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        strange = {path.name for path in place.iterdir()}
        if not (place / STATE).is_file() and not strange.isdisjoint({"events.jsonl", "config.yaml"}):
            raise ConfigError(f"run.dir: {place} is the folder of a run, not of a study; name another folder")
        values = read_json(place / STATE)
        if values is None:
            replace(place / STATE, json.dumps({"schema": 2, "study": name, "size": size}) + "\n", sync=True)
        elif (values.get("study"), values.get("size")) != (name, size):
            was = f"the study {values.get('study')} at size {values.get('size')}"
            raise ConfigError(f"run.dir: {place} holds {was}; name another folder")
    except OSError as error:
        raise ConfigError(f"run.dir: cannot write {place}: {error.strerror}; name another folder") from None
    return State(place)


def standing(place: Path, steps: Sequence[Step]) -> set[str]:
    """The steps that are done as they are to be run."""
    state, marks = State(place), marks_of(steps)
    return {step.name for step in steps if state.done(step, marks[step.name])}


# -- what is to be done -----------------------------------------------------------------------------------------------------


def marks_of(steps: Sequence[Step]) -> dict[str, str]:
    """For each step a digest of all that it is run with: its words, the files that they name, and the marks of the steps that it reads."""
    marks: dict[str, str] = {}
    for step in steps:
        parts = [step.command, *step.words, *(step.input or ()), *map(_content, _files(step)), *(marks[name] for name in step.after)]
        marks[step.name] = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return marks


def _files(step: Step) -> list[Path]:
    """The files of others that a step's words name."""
    found = []
    for name in (name for word in step.words for name in _values(word)):
        with suppress(OSError, RuntimeError, ValueError):  # what cannot be a file's name is none: too long, the home of nobody
            path = Path(name).expanduser()
            if step.folder.parent not in path.parents and path.is_file():
                found.append(path)
    return found


def _values(word: str) -> list[str]:
    """The value of a word, and of a list each of its own."""
    value = word.rpartition("=")[2].strip()
    listed = value[1:-1].split(",") if value.startswith("[") and value.endswith("]") else []
    return [value, *(one.strip().strip("\"'") for one in listed)]


def _content(path: Path) -> str:
    about = path.stat()
    if about.st_size > LARGEST:
        return f"{about.st_size} {about.st_mtime_ns}"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def left_of(steps: Sequence[Step], marks: Mapping[str, str], state: State) -> dict[str, str]:
    """The steps that are to be run, each with the reason why again; "" for one that was not run yet or not to its end."""
    left: dict[str, str] = {}
    for step in steps:
        before = state.of(step)
        if before.get("mark") != marks[step.name] and before:
            left[step.name] = _changed(step, before, left)
        elif before.get("code") != DONE:
            left[step.name] = ""
        elif not step.folder.is_dir():
            left[step.name] = "its folder is gone"
    return left


def of_other_models(steps: Sequence[Step], marks: Mapping[str, str], state: State, left: Mapping[str, str]) -> str | None:
    """Why what is `left` cannot be run beside what stands: a step of that was begun with other embedded models."""
    for step in steps if left else ():
        stays = step.name not in left or state.of(step).get("mark") == marks[step.name]
        if stays and (problem := others(step.folder)):
            return f"run.dir: {state.place}: its step {step.name} {problem}"
    return None


def _changed(step: Step, before: Mapping[str, Any], left: Mapping[str, str]) -> str:
    """What has changed since a step was run."""
    again = [name for name in step.after if left.get(name)]
    then, now = [list(before.get("words") or ()), list(step.words)]
    if then != now:
        gone, new = [word for word in then if word not in now], [word for word in now if word not in then]
        return f"its words changed: {' '.join(gone) or '(nothing)'} -> {' '.join(new) or '(nothing)'}"
    return f"it reads {', '.join(again)}" if again else "a file that it reads has changed"


# -- a step -----------------------------------------------------------------------------------------------------------------


def _alone(step: Step, mark: str, state: State, watcher: Watcher, run: Run) -> int:
    """Run a step unless another process has done so meanwhile; its exit code. Raises ConfigError where another one is at it."""
    where = state.place / LOCKS / step.name
    with saving(where):
        where.mkdir(parents=True, exist_ok=True)
    try:
        lock = FolderLock(where, STALE_SECONDS, BEAT_SECONDS)
    except ConfigError as error:
        who = re.search(r" \((process .*?)\); ", str(error))
        whose = f" ({who[1]})" if who else ""
        raise ConfigError(f"step {step.name} is being run by another process{whose}; wait for it, or stop it") from None
    try:
        return DONE if state.done(step, mark) else _step(step, mark, state, watcher, run)
    finally:
        lock.release()


def _step(step: Step, mark: str, state: State, watcher: Watcher, run: Run) -> int:
    """Run one step, or go on with it; its exit code."""
    place, before = state.place, state.of(step)
    log = place / LOGS / f"{step.name}.log"
    if before and before.get("mark") != mark:
        _put_away(step, log, place / OLD)
    with saving(log):
        log.parent.mkdir(exist_ok=True)
    if not COMMANDS[step.command].resumes:
        step.folder.mkdir(exist_ok=True)
    earlier = float(before.get("seconds") or 0.0) if before.get("mark") == mark else 0.0
    state.keep(step, mark=mark, command=step.command, words=list(step.words), code=None, seconds=earlier, began=time.time())
    began = time.monotonic()
    code = run(step, log, lambda seconds, line: watcher.doing(step, seconds, line))
    seconds = time.monotonic() - began
    state.keep(step, code=code, seconds=round(earlier + seconds, 1))
    watcher.did(step, code, seconds)
    if code in (FAILED, WRONG):
        watcher.says(f"step {step.name} ended with exit code {code}: expertchat {step.command} {' '.join(step.words)}\n{_last(log)}")
    return code


def _put_away(step: Step, log: Path, old: Path) -> None:
    """Move what a step had made out of the way; nothing is removed."""
    known = re.compile(rf"{re.escape(step.name)}\.(\d+)(\.log)?")
    number = 1 + max((int(found[1]) for path in old.glob("*") if (found := known.fullmatch(path.name))), default=0)
    with saving(step.folder):
        old.mkdir(exist_ok=True)
        if step.folder.exists():
            os.replace(step.folder, old / f"{step.name}.{number}")
        if log.exists():
            os.replace(log, old / f"{step.name}.{number}.log")


def _last(log: Path) -> str:
    with suppress(OSError):
        return "\n".join(log.read_text("utf-8", "replace").splitlines()[-LAST_LINES:])
    return ""


def words_of(step: Step) -> list[str]:
    """The words that a step is run with: plain lines go into a log."""
    entry = COMMANDS[step.command]
    drawn = entry.config is not None and "view" in find(entry.config).model_fields
    return [*step.words, *(["view=plain"] if drawn and not any(word.startswith("view=") for word in step.words) else [])]


def in_a_process(step: Step, log: Path, heard: Callable[[float, str], None]) -> int:
    """A step as a process of its own, which ends in order when this one is stopped, or is no more."""
    command = [sys.executable, "-m", "expertchat.cli", step.command, *words_of(step)]
    with outlets(step, log) as (given, out, said):
        child = subprocess.Popen(
            command,
            stdin=given,
            stdout=out,
            stderr=said,
            preexec_fn=ends_with_its_parent,
            start_new_session=True,  # Ctrl-C comes through us alone
        )
        before = {number: signal.signal(number, lambda signum, _: child.send_signal(signum)) for number in SIGNALS}
        try:
            return _waited(child, log, heard)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def outlets(step: Step, log: Path) -> Iterator[tuple[IO[bytes], IO[bytes], IO[bytes]]]:
    """A step's standard input, output and error: its lines if it has any, what it answers to them, and its log."""
    with tempfile.TemporaryFile() as given, open(log, "ab") as said:
        if step.input is None:
            yield given, said, said
            return
        given.write("".join(f"{line}\n" for line in step.input).encode())
        given.seek(0)
        with open(step.folder / "answers.txt", "wb") as out:
            yield given, out, said


def _waited(child: subprocess.Popen[bytes], log: Path, heard: Callable[[float, str], None]) -> int:
    began = time.monotonic()
    while True:
        try:
            code = child.wait(LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            heard(time.monotonic() - began, _last(log).rpartition("\n")[2])
            continue
        return ended(code)


def ended(code: int) -> int:
    """The exit code of a process as a study takes it; below 0 a signal ended it."""
    return code if code in (DONE, WRONG, STOPPED) else STOPPED if -code in SIGNALS else FAILED


def seconds_of(place: Path, steps: Sequence[Step]) -> dict[str, float]:
    """How long each step took, over all of its starts."""
    return {step.name: float(State(place).of(step).get("seconds") or 0.0) for step in steps}
