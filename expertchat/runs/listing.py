"""`expertchat runs [FOLDER ...]`: the runs there with their states, from the ends of their files and from what Slurm says of their jobs."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypedDict

from expertchat.config import ConfigError
from expertchat.folder.jsonl import as_number
from expertchat.folder.submission import PLACE
from expertchat.folder.writing import write_out
from expertchat.runs.seen import Seen, below
from expertchat.runs.states import STATES, state_of
from expertchat.slurm.queue import Answer, Run, states
from expertchat.text.cells import csv_cell
from expertchat.text.in_words import event_in_words

SUFFIXES = (".json", ".csv")


class Row(TypedDict):
    """One run, or an array with its tasks, as plain values."""

    name: str
    folder: str
    command: str
    state: str
    reason: str
    done: int | None
    total: int | None
    unit: str
    job: str
    restarts: int
    last_time: float | None
    last_event: str
    left: float | None  # seconds that its job has left
    resume: str  # the command line that goes on with it
    began: float
    tasks: list[Any]


class Show(Protocol):
    """Who draws the list, the old runs and every task too where `everything` is asked for."""

    def __call__(self, values: Mapping[str, Any], *, everything: bool) -> None: ...


def run_runs(arguments: Sequence[str], show: Show) -> int:
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
        write_out(f"--out {out}", out, text)
    show(found, everything=options.all)
    return 0


def runs(folders: Sequence[Path], run: Run | None = None) -> dict[str, Any]:
    """All runs below `folders` as plain values, newest first. `run` runs Slurm's commands."""
    found: list[tuple[str, list[Seen]]] = []
    for folder in folders:
        place = folder.expanduser()
        for group in below(place):
            path = group[0].submission.folder if group[0].submission is not None else group[0].run.folder
            inside = os.path.relpath(path, place)
            found.append((inside if inside != "." else str(folder), group))
    wanted = [one.job for _, group in found for one in group if one.job and not one.done]
    answer = states(wanted, run) if wanted else Answer()
    rows = [_group(name, group, answer) for name, group in found]
    rows.sort(key=lambda row: -row["began"])
    return {"schema": 1, "runs": rows, "notes": [answer.note] if answer.note else []}


# -- rows ---------------------------------------------------------------------------------------------------------------


def _group(name: str, group: Sequence[Seen], answer: Answer) -> Row:
    """A run as a row, or an array as one with its tasks."""
    array = group[0].submission if group[0].task is not None else None
    if array is None:
        return row(name, group[0], answer)
    tasks = [row(one.run.folder.name, one, answer) for one in group]
    own = [one for one in tasks if one["name"] != "merged"]
    counts = Counter(one["state"] for one in own)
    last = max(tasks, key=lambda one: one["last_time"] or 0.0)
    known = [one["total"] for one in own if one["total"] is not None]
    return {
        **last,
        "name": name,
        "folder": str(array.folder),
        "command": array.command or last["command"],
        "state": next(state for state in STATES if counts[state]),
        "reason": f"{len(own)} tasks: " + ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]),
        "done": sum(one["done"] or 0 for one in own),
        "total": sum(known) if len(known) == len(own) else None,
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
    done, total, unit = seen.progress()
    return {
        "name": name,
        "folder": str(seen.run.folder),
        "command": seen.command,
        "state": state,
        "reason": reason,
        "done": done,
        "total": total,
        "unit": unit,
        "job": seen.job,
        "restarts": max(job.restarts if job else 0, int(as_number(seen.beat.get("restarts")))),
        "last_time": as_number(seen.ends.last.get("time")) or None,
        "last_event": event_in_words(seen.ends.last) if seen.ends.last else "",
        "left": job.left if job is not None and job.state == "running" else None,
        "resume": resume(seen) if state in ("stopped", "failed") and not seen.done else "",
        "began": seen.began,
        "tasks": [],
    }


def resume(seen: Seen) -> str:
    """The command line that goes on with a run; "" where it is not known."""
    if seen.submission is not None:
        words, folder = list(seen.submission.command_line), seen.submission.folder
    else:
        words, folder = seen.run.command_line, seen.run.folder
    if len(words) < 2:
        return ""
    if seen.submission is not None and not seen.submission.jobs:  # of a dry run
        return shlex.join([seen.submission.starter, str(folder / PLACE.parent / "job.sh")])
    named = any(re.match(r"\+*run\.dir=", word) for word in words)
    if named:
        return shlex.join(words)
    from expertchat.command.overrides import corrected  # Hydra's grammar, which few need

    word = f"run.dir={folder}"
    return f"{shlex.join(words)} {corrected(word) or shlex.quote(word)}"


def as_csv(rows: Sequence[Row]) -> str:
    """A line for each run, those of an array's tasks behind it."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [key for key in Row.__annotations__ if key != "tasks"], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for one in rows:
        tasks = ({**task, "name": f"{one['name']}/{task['name']}"} for task in one["tasks"])
        writer.writerows({name: csv_cell(value) for name, value in line.items()} for line in (one, *tasks))
    return out.getvalue()
