"""What servers have answered, kept as it comes: a run that goes on asks no server anything twice, and knows what it has spent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from expertchat.folder.jsonl import read_lines, read_records
from expertchat.folder.run_folder import RunFolder
from expertchat.records import Served

FILE = "served"
REMEDY = "remove the file, and servers are asked again"


class Ledger:
    """The answers of the servers of one run, by the digest of what was asked; without a run's folder they last as long as the process.

    It is written from the thread that asks, so that an answer is on disk before anybody hears of it.
    """

    def __init__(self, run: RunFolder | None = None) -> None:
        self._run, self._lock = run, Lock()
        self._there: dict[str, Served] | None = None
        self._tries, self._cost = 0, 0.0

    def find(self, name: str) -> Served | None:
        """The answer to a request, where there is one. Raises ConfigError for a damaged file."""
        with self._lock:
            return self._read().get(name)

    def keep(self, record: Served) -> None:
        """Append an answer. Raises WriteError."""
        with self._lock:
            there = self._read()
            if record.id in there:
                return
            if self._run is not None:
                self._run.append(FILE, record)
            there[record.id] = record
            self._count(record)

    @property
    def spent(self) -> tuple[int, float]:
        """Requests that were sent for what is kept, and what that has cost as far as it is known."""
        with self._lock:
            self._read()
            return self._tries, self._cost

    def _count(self, record: Served) -> None:
        self._tries, self._cost = self._tries + record.tries, self._cost + (record.cost or 0.0)

    def _read(self) -> dict[str, Served]:
        if self._there is None:
            found = [] if self._run is None else read_records(self._run.folder / f"{FILE}.jsonl", Served, REMEDY)
            self._there = {record.id: record for record in found}
            for record in self._there.values():
                self._count(record)
        return self._there


def figures(*folders: Path) -> Mapping[str, Any]:
    """What the servers of a run, or of several together, were asked and have cost, for its summary; nothing of runs without any."""
    lines = [line for folder in folders for _, line in read_lines(folder / f"{FILE}.jsonl")]
    if not lines:
        return {}
    costs = [line["cost"] for line in lines if line.get("cost") is not None]
    return {
        "served": {
            "answers": len(lines),
            "requests": sum(line["tries"] for line in lines),
            "prompt_tokens": sum(line["prompt_tokens"] or 0 for line in lines),
            "completion_tokens": sum(line["completion_tokens"] or 0 for line in lines),
            "cost": round(sum(costs), 6) if costs else None,
        }
    }
