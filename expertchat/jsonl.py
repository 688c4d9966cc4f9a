"""Append-only files of one JSON object a line: whole lines only, a torn end is cut off, a full disk tears nothing."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from expertchat.config import ConfigError

_BLOCK = 1 << 16


class WriteError(Exception):
    """The run folder cannot be written any more; what was written stays readable."""


class Log:
    """One file that lines are appended to. Its torn end, if it has one, is cut off when it is opened.

    Each line is written inside `writing`, which may raise where the file is no longer this process's to write.
    """

    def __init__(self, path: Path, writing: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext) -> None:
        self.path, self._writing = path, writing
        cut_torn_end(path)
        self._fd: int | None = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
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
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise WriteError(f"cannot write {self.path}: {error.strerror}; what was written before stays readable") from None
        self._size += size
        self._synced = False

    def sync(self) -> None:
        """Make what was appended survive a power cut."""
        if self._fd is not None and not self._synced:
            try:
                os.fsync(self._fd)
            except OSError as error:
                raise WriteError(f"cannot write {self.path}: {error.strerror}; what was written before stays readable") from None
            self._synced = True

    def close(self) -> None:
        if self._fd is not None:
            with contextlib.suppress(WriteError):
                self.sync()
            os.close(self._fd)
            self._fd = None


def cut_torn_end(path: Path) -> int:
    """Cut a file back to its last whole line of JSON; returns how many bytes were cut."""
    if not path.exists():
        return 0
    with open(path, "r+b") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end:
            start = _line_start(file, end)
            file.seek(start)
            if _object(file.read(end - start)) is not None:
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


def _object(line: bytes) -> dict[str, Any] | None:
    """What a line says; None where it is not whole."""
    if not line.endswith(b"\n"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number (from 1) and object of every line; a torn last line is left out, no file is an empty one.

    Raises ConfigError for a broken line in the middle: that is damage, not a torn end.
    """
    if not path.exists():
        return
    with open(path, "rb") as file:
        broken: int | None = None
        for n, line in enumerate(file, 1):
            if broken is not None:
                raise ConfigError(f"{path}, line {broken} is not a JSON object: the file is damaged; restore it or name another run.dir")
            if (found := _object(line)) is not None:
                yield n, found
            else:
                broken = n
