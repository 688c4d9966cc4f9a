"""Runs below a folder, and what their files say at a glance: of a file only its ends are read, and a damaged one makes less known."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expertchat.folder.jsonl import as_number, read_json
from expertchat.folder.lock import HEARTBEAT
from expertchat.folder.reader import MARKS, NOTHING, Ends, RunReader
from expertchat.folder.submission import PLACE, Submission, last_lines, read_submission

DEEPEST = 5  # folders below the one that was named
COUNTED = 1 << 23  # events files up to this size are counted where live.json says nothing


@dataclass
class Seen:
    """What the files of one run say, as they are."""

    run: RunReader
    names: frozenset[str]
    submission: Submission | None = None
    task: int | None = None
    ends: Ends = NOTHING
    beat: Mapping[str, Any] = field(default_factory=dict)
    began: float = 0.0

    @property
    def done(self) -> bool:
        """Whether all of its work is done, whatever came of it."""
        return "summary.json" in self.names

    @property
    def job(self) -> str:
        """The job that has it: that of the writer, else the last one it was given to, else the one that began it last."""
        if "job" in self.beat and not (self.submission and as_number(self.beat.get("time")) < self.submission.submitted):
            return str(self.beat["job"] or "")
        submitted = self.submission.job(self.task) if self.submission else ""
        return str(submitted or self.ends.start.get("job") or self.ends.first.get("job") or "")

    @property
    def never_began(self) -> bool:
        """Whether nothing was written since it was last submitted."""
        last = self.ends.last
        return not last or (self.submission is not None and as_number(last.get("time")) < self.submission.submitted)

    @property
    def command(self) -> str:
        return self.run.kind or (self.submission.command if self.submission else "")

    def log(self) -> list[str]:
        return last_lines(self.submission.log(self.task), 20) if self.submission else []

    def progress(self) -> tuple[int | None, int | None, str]:
        """How much is done of how much; None where that is not known."""
        first = self.ends.first
        rounds = int(as_number(first.get("rounds")))
        if rounds or "rounds" in self.names:
            return self.run.last_round, rounds or None, "rounds"
        judgements = int(as_number(first.get("judgements")))
        chooses = bool(first.get("candidates"))
        unit = "judgements" if judgements else "prompts" if chooses else "conversations"
        total = judgements or int(as_number(first.get("conversations"))) or None
        if self.done:
            return total, total, unit
        told = (read_json(self.run.folder / "live.json") or {}).get("progress") if "live.json" in self.names else None
        if isinstance(told, dict) and isinstance(told.get("finished"), int):
            return told["finished"], total or int(as_number(told.get("total"))) or None, unit
        return None if judgements else self._told("candidate_chosen" if chooses else "conversation_judged"), total, unit

    def _told(self, kind: str) -> int | None:
        """Dialogues or prompts that are done, counted where that is quick; a text cannot look like the mark, for its quotes are escaped."""
        path = self.run.path("events")
        try:
            return path.read_bytes().count(f'"kind":"{kind}"'.encode()) if path.stat().st_size <= COUNTED else None
        except OSError:
            return None if path.name in self.names else 0


def below(folder: Path, depth: int = 0) -> Iterator[list[Seen]]:
    """Runs at and below a folder, each alone, or an array's tasks with what they were merged into. Nothing is looked for inside a run,
    nor where scripts of jobs lie (a study's have a provenance.json, as runs do)."""
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
            inside = [one.name for one in entries if not one.name.startswith(".") and one.name != PLACE.parent.name and one.is_dir()]
    except OSError:
        return
    names = frozenset(entry.name for entry in entries)
    if not names.isdisjoint(MARKS) or ("submission" in names and (folder / PLACE).is_file()):
        yield _seen(folder, names)
    elif depth < DEEPEST:
        for name in inside:
            yield from below(folder / name, depth + 1)


def _seen(folder: Path, names: frozenset[str]) -> list[Seen]:
    """The run, or the tasks of an array and what they were merged into."""
    submission = read_submission(folder) if "submission" in names else None
    if submission is None or submission.tasks is None:
        return [see(folder, names, submission)]
    found = [see(folder / f"task-{i}", _names(folder / f"task-{i}"), submission, i) for i in range(submission.tasks)]
    if "merged" in names:
        found.append(see(folder / "merged", _names(folder / "merged")))
    return found


def _names(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()


def see(folder: Path, names: frozenset[str], submission: Submission | None = None, task: int | None = None) -> Seen:
    """A run at a glance. `names`: what lies in its folder. What cannot be read is as if it were not there."""
    seen = Seen(RunReader(folder), names, submission, task)
    if "events.jsonl" in names:
        seen.ends = seen.run.ends()
    if HEARTBEAT in names:
        seen.beat = read_json(folder / HEARTBEAT) or {}
    own = as_number(seen.ends.first.get("time")) or as_number(seen.ends.last.get("time"))
    seen.began = (submission.submitted if submission else 0.0) or own or changed(folder)
    return seen


def changed(path: Path) -> float:
    """When a file or folder was changed last; 0 where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
