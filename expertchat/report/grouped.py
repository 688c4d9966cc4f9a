"""The lines of a file by what they belong to, read where they are wanted: of a file of any size only the places are kept."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from expertchat.folder.reader import RunReader

Line = dict[str, Any]


class Grouped:
    """Lines of a file by their `key`, in their order ("provenance.transcript": a key within what stands at a key).

    A line that is whole but no object is counted in `unreadable`; a torn end is not.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.unreadable = 0
        self._file: BinaryIO | None = None
        self._places: dict[str, array[int]] = {}
        try:
            self._file = path.open("rb")
        except OSError:
            return
        for place, line in self._lines(self._file):
            of: Any = line
            for part in key.split("."):
                of = of.get(part) if isinstance(of, dict) else None
            self._places.setdefault(str(of), array("q")).append(place)

    def _lines(self, file: BinaryIO) -> Iterator[tuple[int, Line]]:
        place = 0
        for text in file:
            line = _read(text)
            if line is not None:
                yield place, line
            elif text.endswith(b"\n") and text.strip():
                self.unreadable += 1
            place += len(text)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return sum(map(len, self._places.values()))

    def of(self, key: str) -> list[Line]:
        """What belongs to one."""
        if self._file is None:
            return []
        found = []
        for place in self._places.get(key, ()):
            self._file.seek(place)
            if (line := _read(self._file.readline())) is not None:
                found.append(line)
        return found

    def each(self) -> Iterator[tuple[str, list[Line]]]:
        """All of them, in the order in which each came first."""
        return ((key, self.of(key)) for key in self._places)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class Files:
    """The files of a run that say something of a dialogue, by it."""

    def __init__(self, run: RunReader, name: str, warnings: list[str]) -> None:
        self._named, self._warnings = name, warnings
        keys = {"transcripts": "id", "candidates": "transcript", "ratings": "transcript", "wim": "transcript", "rewards": "transcript",
                "scores": "transcript", "prompts": "id", "selections": "id", "items": "id", "opinions": "item",
                "pairs": "provenance.transcript", "demonstrations": "id", "preferences": "id", "rows": "id", "picks": "row",
                "written": "place"}  # fmt: skip
        self.files = {file: Grouped(run.path(file), key) for file, key in keys.items()}

    def of(self, file: str, key: str) -> list[Line]:
        return self.files[file].of(key)

    def last(self, file: str, key: str) -> Line:
        return next(iter(self.of(file, key)[-1:]), {})

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        for name, file in self.files.items():
            file.close()
            if file.unreadable:
                self._warnings.append(f"{self._named}: {name}.jsonl: lines that are damaged and left out: {file.unreadable}")


def by_key(path: Path, key: str) -> Iterator[tuple[str, list[Line]]]:
    """The lines of a file, as a Grouped has them."""
    grouped = Grouped(path, key)
    try:
        yield from grouped.each()
    finally:
        grouped.close()


def _read(text: bytes) -> Line | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
