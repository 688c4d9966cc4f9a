"""What `expertchat submit` left in a run folder: the jobs that it was given to, and their logs. A damaged file counts as none."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expertchat.folder.jsonl import read_json
from expertchat.text.sentences import clean

PLACE = Path("submission") / "submission.json"
LOG_END = 1 << 14  # bytes of a log that are looked at
MOST_TASKS = 10_000
_TASK = re.compile(r"task-(\d{1,6})")
_SPOKEN = re.compile(r"^job: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")  # what the scripts of jobs/ put before what they say
_ROUTINE = re.compile(_SPOKEN.pattern + r"(?:starts: |the command has ended|the command is told)")
_PROBLEM = re.compile(_SPOKEN.pattern + r"|error\b|^- |^expertchat: |not found|no such|cannot", re.IGNORECASE)
_MEMORY = re.compile(r"exceeded (?:job )?memory limit|oom[-_ ]kill|out of memory", re.IGNORECASE)


@dataclass(frozen=True)
class Submission:
    """submission.json of a run, or of an array with all its tasks."""

    folder: Path
    command: str
    command_line: tuple[str, ...]
    tasks: int | None
    spread: str | None  # what the tasks share out
    starter: str  # what the script is given to by hand
    jobs: tuple[tuple[str, float], ...]  # ids and times of its submissions, the last one is what counts

    def job(self, task: int | None = None) -> str:
        """The job of the last submission, or that of one task; "" where none was noted. Without Slurm the tasks are one process."""
        last = self.jobs[-1][0] if self.jobs else ""
        return last if task is None or not last.isdigit() else f"{last}_{task}"

    @property
    def submitted(self) -> float:
        return self.jobs[-1][1] if self.jobs else 0.0

    def log(self, task: int | None = None) -> Path | None:
        """The output of the last job, if there is any."""
        place = self.folder / PLACE.parent
        if (named := place / f"slurm-{self.job(task)}.out").is_file():
            return named
        if self.job().isdigit():
            return None
        logs = [path for path in place.glob("slurm-*.out") if path.is_file()]  # without Slurm, or submitted by hand
        return max(logs, key=lambda path: path.stat().st_mtime, default=None)


def read_submission(folder: Path) -> Submission | None:
    """What `folder` was submitted as; None: it was not."""
    content = read_json(folder / PLACE)
    try:
        return _submission(folder, content) if content is not None else None
    except (ValueError, TypeError, OverflowError):
        return None


def _submission(folder: Path, content: dict[str, Any]) -> Submission:
    listed, tasks, words = content.get("jobs"), content.get("tasks"), content.get("command_line")
    jobs = [entry for entry in listed if isinstance(entry, dict) and entry.get("job")] if isinstance(listed, list) else []
    return Submission(
        folder=folder,
        command=clean(str(content.get("command") or "")),
        command_line=tuple(clean(str(word)) for word in words) if isinstance(words, list) else (),
        tasks=min(tasks, MOST_TASKS) if isinstance(tasks, int) and tasks > 0 else None,
        starter="bash" if content.get("scheduler") == "local" else "sbatch",
        spread=str(content["spread"]) if content.get("spread") else None,
        jobs=tuple((clean(str(entry["job"])), float(entry.get("time") or 0.0)) for entry in jobs),
    )


def submission_of(folder: Path) -> tuple[Submission | None, int | None]:
    """The submission of a run, and which task of an array it is."""
    own = read_submission(folder)
    if own is None and (match := _TASK.fullmatch(Path(os.path.abspath(folder)).name)):
        whole = read_submission(Path(os.path.abspath(folder)).parent)
        if whole is not None and whole.tasks is not None and int(match[1]) < whole.tasks:
            return whole, int(match[1])
    return own, None


def last_lines(path: Path | None, count: int) -> list[str]:
    """The last lines of a log that say something."""
    if path is None:
        return []
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_END))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.strip() for line in clean(text).splitlines() if line.strip()][-count:]


def spoken(line: str) -> str:
    """A line of a log without the time that the scripts of jobs/ put before it."""
    return _SPOKEN.sub("", line)


def problem_of(lines: list[str]) -> str:
    """The line of a log's end that says most likely why a job failed: the last one that speaks of an error, else the last one."""
    telling = [line for line in lines if not _ROUTINE.match(line)] or lines
    if not telling:
        return ""
    last = len(telling) - 1
    place = next((i for i in range(last, -1, -1) if _PROBLEM.search(telling[i])), last)
    return " ".join(spoken(line) for line in telling[place : place + (2 if telling[place].endswith(":") else 1)])


def ran_out_of_memory(lines: list[str]) -> bool:
    """Whether Slurm or the kernel says so in the log."""
    return any(_MEMORY.search(line) for line in lines)
