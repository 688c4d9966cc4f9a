"""A run folder that somebody else may be writing to: the growing events file, the running texts, the heartbeat."""

from __future__ import annotations

import contextlib
import os
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from expertchat.events import EVENT, AnyEvent, Progress, StepFinished, TextStreamed
from expertchat.folder.jsonl import as_number, read_json

CHUNK = 1 << 22  # bytes read at once


@dataclass
class EventTail:
    """The events of events.jsonl, as far as they are written. Each whole line is given once, even if the file is written anew.

    A torn last line is read again until it is whole; a whole line that is no event is counted in `unreadable`. Eight bytes are kept of each
    line that was given.
    """

    path: Path
    unreadable: int = 0
    _offset: int = 0  # of the first line not read yet
    _inode: int | None = None
    _moved: bool = False
    _given: array[int] = field(default_factory=lambda: array("q"))  # a hash of each line read so far
    _again: set[int] = field(default_factory=set)  # those of a file that was replaced or cut, until they come again

    @property
    def begun(self) -> bool:
        """Whether any line was read."""
        return bool(self._given)

    def poll(self) -> Iterator[AnyEvent]:
        """The events that came since the last call, one by one; none if the file is not there."""
        self._moved = True
        while self._moved:
            for text in self._lines():
                if (event := self._event(text)) is not None:
                    yield event

    def _lines(self) -> list[bytes]:
        """The next whole lines."""
        self._moved = False
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._inode, self._offset = status.st_ino, 0
                    self._again = set(self._given)
                file.seek(self._offset)
                chunk = file.read(CHUNK)
        except FileNotFoundError:  # not there yet
            return []
        whole, newline, rest = chunk.rpartition(b"\n")
        if not newline:
            if len(rest) == CHUNK:  # a line as long as this was never written by a run
                self._offset, self._moved = self._offset + CHUNK, True
                self.unreadable += 1
            return []
        self._offset, self._moved = self._offset + len(whole) + 1, True
        return whole.split(b"\n")

    def _event(self, text: bytes) -> AnyEvent | None:
        if not text.strip():
            return None
        key = hash(text)
        if key in self._again:
            self._again.discard(key)
            return None
        self._given.append(key)
        try:
            return EVENT.validate_json(text)
        except ValidationError:
            self.unreadable += 1
            return None


class _LiveTurn(BaseModel):
    """One entry of live.json's "turns"; further keys are ignored."""

    model_config = ConfigDict(extra="ignore")

    conversation: str
    turn: int
    speaker: str
    text: str
    thinking: str = ""


@dataclass
class LiveFile:
    """live.json: the texts of the running turns, the progress and the optimizer step, replaced a few times a second while a run goes on."""

    path: Path
    _stamp: tuple[int, int] | None = None
    _texts: dict[tuple[str, int], tuple[str, str]] = field(default_factory=dict)
    _told: dict[str, object] = field(default_factory=dict)

    def poll(self) -> list[AnyEvent]:
        """What changed since the last call, as the events that the run did not keep."""
        try:
            status = self.path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
        except OSError:  # not there
            return []
        if stamp == self._stamp or (content := read_json(self.path)) is None:  # where it is torn, the next one will do
            return []
        self._stamp = stamp
        return self._changes(content)

    def _changes(self, content: dict[str, object]) -> list[AnyEvent]:
        events: list[AnyEvent] = []
        texts: dict[tuple[str, int], tuple[str, str]] = {}
        when, turns = as_number(content.get("time")), content.get("turns")
        for entry in turns if isinstance(turns, list) else []:
            try:
                turn = _LiveTurn.model_validate(entry)
                event = TextStreamed.model_validate({**turn.model_dump(), "time": when})
            except ValidationError:
                continue
            texts[turn.conversation, turn.turn] = turn.thinking, turn.text
            if self._texts.get((turn.conversation, turn.turn)) != (turn.thinking, turn.text):
                events.append(event)
        self._texts = texts
        for key, kind in (("progress", Progress), ("step", StepFinished)):
            entry = content.get(key)
            if isinstance(entry, dict) and entry != self._told.get(key):
                self._told[key] = entry
                known = {key: value for key, value in entry.items() if key in kind.model_fields}
                with contextlib.suppress(ValidationError):
                    events.append(kind.model_validate({"time": when, **known}))
        return events


@dataclass
class Heartbeat:
    """heartbeat.json {host, pid, time}: a sign of life of the writer. Clocks of two machines are compared only once, at the start.

    A writer takes the file away when it leaves; then the age of `events` counts.
    """

    path: Path
    events: Path
    host: str = ""
    pid: int = 0
    _last: dict[str, Any] | None = None
    _alive_at: float | None = None  # monotonic

    def silence(self) -> float:
        """Seconds since the writer's last sign of life."""
        now = time.monotonic()
        content = read_json(self.path)
        if content is not None and content != self._last:
            self.host, self.pid = str(content.get("host", "")), int(as_number(content.get("pid")))
            written = as_number(content.get("time"))
            age = time.time() - written if self._last is None and written else 0.0
            self._last, self._alive_at = content, now - max(0.0, age)
        elif self._alive_at is None:
            self._alive_at = now - self._events_age()
        return max(0.0, now - self._alive_at)

    def _events_age(self) -> float:
        try:
            return max(0.0, time.time() - self.events.stat().st_mtime)
        except OSError:
            return 0.0

    @property
    def writer(self) -> str:
        return f"the writer (process {self.pid} on {self.host})" if self.host else "the writer"
