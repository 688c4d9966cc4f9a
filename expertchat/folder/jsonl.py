"""Files of JSON: append-only ones of an object a line (whole lines only, a torn end is cut off, a full disk tears nothing), small ones read
whole."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from expertchat.config import ConfigError
from expertchat.folder.writing import NO_LINK, WriteError, cannot_write
from expertchat.text.sentences import first_line

M = TypeVar("M", bound=BaseModel)

_BLOCK = 1 << 16


class Log:
    """One file that lines are appended to. Its torn end, if it has one, is cut off when it is opened. Opening raises OSError.

    Each line is written inside `writing`, which may raise where the file is no longer this process's to write.
    """

    def __init__(self, path: Path, writing: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext) -> None:
        self.path, self._writing = path, writing
        cut_torn_end(path)
        self._fd: int | None = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | NO_LINK, 0o644)
        self._size = os.fstat(self._fd).st_size
        self._synced = True

    def append(self, line: str) -> None:
        """Write one line whole, or raise WriteError and leave the file as it was."""
        if self._fd is None:
            raise WriteError(f"{self.path} is closed")
        rest = memoryview((line + "\n").encode())
        size = len(rest)
        try:
            with self._writing():
                while rest:
                    rest = rest[os.write(self._fd, rest) :]
            removed = not os.fstat(self._fd).st_nlink
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise cannot_write(self.path, error) from None
        if removed:
            raise WriteError(f"{self.path} was removed while the run was writing it; this process stops")
        self._size += size
        self._synced = False

    def sync(self) -> None:
        """Make what was appended survive a power cut."""
        if self._fd is not None and not self._synced:
            try:
                os.fsync(self._fd)
            except OSError as error:
                raise cannot_write(self.path, error) from None
            self._synced = True

    def close(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            with contextlib.suppress(OSError):  # a network disk may report here what it could not write
                if not self._synced:
                    os.fsync(fd)
            with contextlib.suppress(OSError):
                os.close(fd)


def cut_torn_end(path: Path) -> int:
    """Cut a file back to its last whole line of JSON; returns how many bytes were cut."""
    try:
        fd = os.open(path, os.O_RDWR | NO_LINK)
    except FileNotFoundError:
        return 0
    with open(fd, "r+b") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end:
            start = _line_start(file, end)
            file.seek(start)
            if _line(file.read(end - start)) is not None:
                break
            end = start
        if end < size:
            file.truncate(end)
    return size - end


def _line_start(file: Any, end: int) -> int:
    """Where the last line that ends at `end` begins; its own newline does not count."""
    position = end - 1
    while position > 0:
        begin = max(0, position - _BLOCK)
        file.seek(begin)
        found = file.read(position - begin).rfind(b"\n")
        if found >= 0:
            return int(begin + found + 1)
        position = begin
    return 0


def _object(text: bytes) -> dict[str, Any] | None:
    """What a text says; None where it is no whole object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _line(line: bytes) -> dict[str, Any] | None:
    """What a line says; None where it is not whole."""
    return _object(line) if line.endswith(b"\n") else None


def read_json(path: Path) -> dict[str, Any] | None:
    """The object that a small file holds; None where the file is not there, cannot be read, or holds none."""
    try:
        return _object(path.read_bytes())
    except OSError:
        return None


def as_number(value: object) -> float:
    """What stands in a file where a number belongs: a time, a count; 0 for whatever cannot be one."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15 else 0.0


def read_records(path: Path, model: type[M], remedy: str) -> Iterator[M]:
    """The lines of a file as records. Raises ConfigError as read_lines does, and for a line that is none, with what to do."""
    for n, line in read_lines(path):
        try:
            yield model.model_validate(line)
        except ValidationError as error:
            raise ConfigError(f"{path}, line {n} is no record of this version ({first_line(error)}); {remedy}") from None


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number (from 1) and object of every line; a torn last line is left out, no file is an empty one.

    Raises ConfigError for a broken line in the middle, which is damage and no torn end, and for a file that cannot be read.
    """
    try:
        opened = open(path, "rb")  # noqa: SIM115 (closed below; what goes wrong inside is no matter of opening)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; restore it or name another run.dir") from None
    with opened as file:
        broken: int | None = None
        for n, line in enumerate(file, 1):
            if broken is not None:
                raise ConfigError(f"{path}, line {broken} is not a JSON object: the file is damaged; restore it or name another run.dir")
            if (found := _line(line)) is not None:
                yield n, found
            else:
                broken = n
