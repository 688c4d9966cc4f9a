"""`expertchat runs [FOLDER ...]`: the runs there with their states, from the ends of their files and from what Slurm says of their jobs.

Of a file only its end is read (and the beginning of the events), and a damaged file makes less known of its run.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expertchat.config import ConfigError
from expertchat.folder.lock import BEAT_SECONDS, HEARTBEAT, STALE_SECONDS
from expertchat.folder.summary import is_failed, read_summary
from expertchat.slurm.queue import Answer, JobState, Run, states
from expertchat.views.submission import PLACE, Submission, last_lines, problem_of, ran_out_of_memory, read_submission, spoken
from expertchat.views.words import age, event_in_words, stopped_by

SUFFIXES = (".json", ".csv")
MARKS = {"events.jsonl", HEARTBEAT, "provenance.json", "live.json"}  # one of these makes a folder a run
DEEPEST = 5  # folders below the one that was named
END, WHOLE = 1 << 16, 1 << 20  # bytes of the events that are read, and where no line ends in these
COUNTED = 1 << 23  # events files up to this size are counted where live.json says nothing
STATES = ("running", "queued", "stopped", "failed", "done")
Row = dict[str, Any]


@dataclass
class Seen:
    """What the files of one run say, as they are."""

    folder: Path
    names: frozenset[str]
    submission: Submission | None = None
    task: int | None = None
    first: Mapping[str, Any] = field(default_factory=dict)  # the first run_started
    last: Mapping[str, Any] = field(default_factory=dict)  # the last event
    start: Mapping[str, Any] = field(default_factory=dict)  # the last run_started, if it is near the end
    end: Mapping[str, Any] = field(default_factory=dict)  # run_finished, if no start follows it
    beat: Mapping[str, Any] = field(default_factory=dict)
    began: float = 0.0

    @property
    def done(self) -> bool:
        """Whether all of its work is done, whatever came of it."""
        return "summary.json" in self.names

    @property
    def job(self) -> str:
        """The job that has it: that of the writer, else the last one it was given to, else the one that began it last."""
        if "job" in self.beat and not (self.submission and _number(self.beat.get("time")) < self.submission.submitted):
            return str(self.beat["job"] or "")
        submitted = self.submission.job(self.task) if self.submission else ""
        return str(submitted or self.start.get("job") or self.first.get("job") or "")

    @property
    def never_began(self) -> bool:
        """Whether nothing was written since it was last submitted."""
        return not self.last or (self.submission is not None and _number(self.last.get("time")) < self.submission.submitted)

    def log(self) -> list[str]:
        return last_lines(self.submission.log(self.task), 20) if self.submission else []


def run_runs(arguments: Sequence[str], show: Callable[..., None]) -> int:
    """Show the list, and write it where --out says. Raises ConfigError."""
    import argparse

    parser = argparse.ArgumentParser("expertchat runs", description="The runs of a folder with their states, newest first.")
    where = "a folder of runs, or a run (default: $EXPERTCHAT_RUNS, else runs/)"
    parser.add_argument("folder", type=Path, nargs="*", metavar="FOLDER", help=where)
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"write the whole list as {' or '.join(SUFFIXES)} too")
    parser.add_argument("--all", action="store_true", help="show old runs and every task of large arrays too")
    options = parser.parse_args(list(arguments))
    out: Path | None = options.out
    wrong = [f"--out {out}: must end in {' or '.join(SUFFIXES)}"] if out is not None and out.suffix not in SUFFIXES else []
    folders = options.folder or [Path(os.environ.get("EXPERTCHAT_RUNS") or "runs")]
    missing = [folder for folder in options.folder if not folder.expanduser().is_dir()]
    if problems := [*(f"{folder}: no such folder; name a run or a folder of runs" for folder in missing), *wrong]:
        raise ConfigError(problems)
    found = runs(folders)
    if out is not None:
        text = as_csv(found["runs"]) if out.suffix == ".csv" else json.dumps(found, indent=1, ensure_ascii=False) + "\n"
        try:
            out.expanduser().write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--out {out}: cannot be written ({error.strerror or error}); name another file") from None
    show(found, everything=options.all)
    return 0


def runs(folders: Sequence[Path], run: Run | None = None) -> dict[str, Any]:
    """All runs below `folders` as plain values, newest first. `run` runs Slurm's commands."""
    found: list[tuple[str, list[Seen]]] = []
    for folder in folders:
        place = folder.expanduser()
        for path, names in _run_folders(place):
            inside = os.path.relpath(path, place)
            found.append((inside if inside != "." else str(folder), _seen(path, names)))
    wanted = [one.job for _, group in found for one in group if one.job and not one.done]
    answer = states(wanted, run) if wanted else Answer()
    rows = [_group(name, group, answer) for name, group in found]
    rows.sort(key=lambda row: -row["began"])
    return {"schema": 1, "runs": rows, "notes": [answer.note] if answer.note else []}


# -- finding and reading ------------------------------------------------------------------------------------------------


def _run_folders(folder: Path, depth: int = 0) -> Iterator[tuple[Path, frozenset[str]]]:
    """Runs at and below a folder, with the names of what they hold. Nothing is looked for inside a run."""
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
            inside = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except OSError:
        return
    names = frozenset(entry.name for entry in entries)
    if names & MARKS or ("submission" in names and (folder / PLACE).is_file()):
        yield folder, names
    elif depth < DEEPEST:
        for name in inside:
            yield from _run_folders(folder / name, depth + 1)


def _seen(folder: Path, names: frozenset[str]) -> list[Seen]:
    """The run, or the tasks of an array and what they were merged into."""
    submission = read_submission(folder) if "submission" in names else None
    if submission is None or submission.tasks is None:
        return [read_run(folder, names, submission)]
    found = [read_run(folder / f"task-{i}", _names(folder / f"task-{i}"), submission, i) for i in range(submission.tasks)]
    if "merged" in names:
        found.append(read_run(folder / "merged", _names(folder / "merged")))
    return found


def _names(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()


def read_run(folder: Path, names: frozenset[str], submission: Submission | None = None, task: int | None = None) -> Seen:
    """What the files of a run say. What cannot be read is as if it were not there."""
    seen = Seen(folder, names, submission, task)
    if "events.jsonl" in names:
        head, tail = _ends(folder / "events.jsonl")
        seen.first = next((event for event in _events(head) if event["kind"] == "run_started"), {})
        seen.last = next(_events(reversed(tail)), {})
        last = next(_events(line for line in reversed(tail) if b'"run_started"' in line or b'"run_finished"' in line), {})
        seen.start, seen.end = (last if last.get("kind") == kind else {} for kind in ("run_started", "run_finished"))
    if HEARTBEAT in names:
        seen.beat = _json(folder / HEARTBEAT)
    own = _number(seen.first.get("time")) or _number(seen.last.get("time"))
    seen.began = (submission.submitted if submission else 0.0) or own or _changed(folder)
    return seen


def _ends(path: Path) -> tuple[list[bytes], list[bytes]]:
    """The first and the last whole lines of a file."""
    try:
        with path.open("rb") as file:
            head = file.read(END)
            size = os.fstat(file.fileno()).st_size
            tail = head if size <= END else b""
            for length in (END, WHOLE):
                if tail.count(b"\n") < 2 and size > len(tail):
                    file.seek(max(0, size - length))
                    tail = file.read(length)
    except OSError:
        return [], []
    return head.split(b"\n"), tail.split(b"\n")


def _events(lines: Iterable[bytes]) -> Iterator[Mapping[str, Any]]:
    """Those lines that are events; torn ones are left out."""
    for line in lines:
        try:
            event = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and isinstance(event.get("kind"), str):
            yield event


def _changed(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15 else 0.0


def _json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


# -- states -------------------------------------------------------------------------------------------------------------


def state_of(seen: Seen, job: JobState | None, note: str = "") -> tuple[str, str]:
    """The state of a run and its reason; `note` says why Slurm could not be asked."""
    if seen.done:
        summary = read_summary(seen.folder)
        return ("failed", str(summary.get("reason") or "")) if is_failed(summary) else ("done", "")
    if _alive(seen.beat) and (job is None or job.alive):
        return "running", "" if seen.last and not seen.end else "loading"
    if job is not None and job.waiting:
        return "queued", job.words
    if job is not None and job.alive:
        return "running", f"{event_in_words(seen.end)}; its job goes on" if seen.end else _not_yet(seen.log())
    if seen.never_began:
        return _not_begun(seen, job, note)
    if seen.end:
        reason = str(seen.end.get("reason") or "")
        if seen.end.get("status") != "stopped":
            return "failed", reason or "no reason is known"
        ended = f"; its job {job.words}" if job is not None and job.state not in ("completed", "failed", "gone") else ""
        return "stopped", f"{stopped_by(reason)}{ended}"
    return "failed", _killed(seen, job)


def _not_begun(seen: Seen, job: JobState | None, note: str) -> tuple[str, str]:
    """A run whose job has not written anything and does not run."""
    submission, lines = seen.submission, seen.log()
    if submission is None:
        return "failed", _killed(seen, job)
    if not seen.job and not lines:
        return "stopped", "written, not submitted"
    if job is None and note and not lines:
        return "queued", f"submitted {age(time.time() - submission.submitted)} ago; {note}"
    if job is None and note and time.time() - _changed(submission.log(seen.task) or seen.folder) < STALE_SECONDS:
        return "running", _not_yet(lines)
    if job is not None and ran_out_of_memory(lines):
        return "failed", f"before it began: its job {job.out_of_memory}"
    said = f"its job {job.words}" if job is not None else note or f"Slurm knows nothing of job {seen.job} any more"
    return "failed", f"before it began: {problem_of(lines) or said}"


def _not_yet(lines: Sequence[str]) -> str:
    """A job that runs and prepares its run."""
    return f"its job has begun: {spoken(lines[-1])}" if lines else "its job has begun"


def _killed(seen: Seen, job: JobState | None) -> str:
    """What became of a run that has no end."""
    if job is not None and ran_out_of_memory(seen.log()):
        return f"killed: its job {job.out_of_memory}"
    if job is not None and job.state not in ("completed", "gone"):
        return f"killed: its job {job.words}"
    sign = max(_number(seen.beat.get("time")), _number(seen.last.get("time"))) or seen.began
    who = f" (process {seen.beat.get('pid')} on {seen.beat.get('host')})" if seen.beat else ""
    return f"killed: silent since {time.strftime('%Y-%m-%d %H:%M', time.localtime(sign))}{who}"


def _alive(beat: Mapping[str, Any]) -> bool:
    """Whether a heartbeat is that of a living writer."""
    if not beat:
        return False
    old = time.time() - _number(beat.get("time"))
    if beat.get("host") == socket.gethostname() and old > 3 * BEAT_SECONDS:
        try:
            os.kill(int(_number(beat.get("pid"))), 0)
        except ProcessLookupError:
            return False
        except (OSError, OverflowError):
            pass
    return abs(old) < STALE_SECONDS  # a beat of the day after tomorrow says as little as one of yesterday


# -- rows ---------------------------------------------------------------------------------------------------------------


def _group(name: str, group: Sequence[Seen], answer: Answer) -> Row:
    """A run as a row, or an array as one with its tasks."""
    array = group[0].submission if group[0].task is not None else None
    if array is None:
        return row(name, group[0], answer)
    tasks = [row(one.folder.name, one, answer) for one in group]
    own = [one for one in tasks if one["name"] != "merged"]
    counts = Counter(one["state"] for one in own)
    last = max(tasks, key=lambda one: one["last_time"] or 0.0)
    totals = [one["total"] for one in own]
    return {
        **last,
        "name": name,
        "folder": str(array.folder),
        "command": array.command or last["command"],
        "state": next(state for state in STATES if counts[state]),
        "reason": f"{len(own)} tasks: " + ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]),
        "done": sum(one["done"] or 0 for one in own),
        "total": sum(totals) if None not in totals else None,
        "job": array.job(),
        "restarts": sum(one["restarts"] for one in own),
        "resume": resume(group[0]),
        "began": array.submitted or max(one["began"] for one in own),
        "tasks": tasks,
    }


def row(name: str, seen: Seen, answer: Answer) -> Row:
    """One run as plain values."""
    job = answer.get(seen.job)
    state, reason = state_of(seen, job, answer.note)
    done, total, unit = progress(seen)
    return {
        "name": name,
        "folder": str(seen.folder),
        "command": _command(seen),
        "state": state,
        "reason": reason,
        "done": done,
        "total": total,
        "unit": unit,
        "job": seen.job,
        "restarts": max(job.restarts if job else 0, int(_number(seen.beat.get("restarts")))),
        "last_time": _number(seen.last.get("time")) or None,
        "last_event": event_in_words(seen.last) if seen.last else "",
        "left": job.left if job is not None and job.state == "running" else None,
        "resume": resume(seen) if state in ("stopped", "failed") and not seen.done else "",
        "began": seen.began,
        "tasks": [],
    }


def progress(seen: Seen) -> tuple[int | None, int | None, str]:
    """How much is done of how much; None where that is not known."""
    rounds = int(_number(seen.first.get("rounds")))
    if rounds or "rounds" in seen.names:
        done = max((int(path.parent.name) for path in seen.folder.glob("rounds/[0-9]*/DONE") if path.parent.name.isdigit()), default=0)
        return done, rounds or None, "rounds"
    total = int(_number(seen.first.get("conversations"))) or None
    if seen.done:
        return total, total, "conversations"
    told = _json(seen.folder / "live.json").get("progress") if "live.json" in seen.names else None
    if isinstance(told, dict) and isinstance(told.get("finished"), int):
        return told["finished"], total or int(_number(told.get("total"))) or None, "conversations"
    return _judged(seen), total, "conversations"


def _judged(seen: Seen) -> int | None:
    """Dialogues that are done, counted where that is quick; a text cannot look like the mark, for its quotes are escaped."""
    path = seen.folder / "events.jsonl"
    try:
        return path.read_bytes().count(b'"kind":"conversation_judged"') if path.stat().st_size <= COUNTED else None
    except OSError:
        return None if "events.jsonl" in seen.names else 0


def _command(seen: Seen) -> str:
    known = seen.first.get("command") or (seen.submission.command if seen.submission else "")
    if not known and "provenance.json" in seen.names:
        words = _json(seen.folder / "provenance.json").get("command_line")
        known = words[1] if isinstance(words, list) and len(words) > 1 else ""
    return str(known)


def resume(seen: Seen) -> str:
    """The command line that goes on with a run; "" where it is not known."""
    if seen.submission is not None:
        words, folder = list(seen.submission.command_line), seen.submission.folder
    else:
        listed = _json(seen.folder / "provenance.json").get("command_line")
        words, folder = [str(word) for word in listed] if isinstance(listed, list) else [], seen.folder
    if len(words) < 2:
        return ""
    if seen.submission is not None and not seen.submission.jobs:  # of a dry run
        return shlex.join([seen.submission.starter, str(folder / PLACE.parent / "job.sh")])
    named = any(re.match(r"\+*run\.dir=", word) for word in words)
    return shlex.join(words if named else [*words, f"run.dir={folder}"])


def as_csv(rows: Sequence[Row]) -> str:
    """A line for each run, those of an array's tasks behind it."""
    out = io.StringIO()
    keys = [key for key in row("", Seen(Path(), frozenset()), Answer()) if key != "tasks"]
    writer = csv.DictWriter(out, keys, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for one in rows:
        writer.writerow(one)
        writer.writerows({**task, "name": f"{one['name']}/{task['name']}"} for task in one["tasks"])
    return out.getvalue()
