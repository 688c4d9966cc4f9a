"""The job of a watched run, as its queue sees it. The queue is a function, for views know of no scheduler."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from expertchat.folder.reader import RunReader
from expertchat.folder.submission import last_lines, problem_of, ran_out_of_memory, spoken, submission_of
from expertchat.text.in_words import age


class Job(Protocol):
    """What a queue says of a job (expertchat.slurm.queue.JobState)."""

    @property
    def alive(self) -> bool: ...
    @property
    def waiting(self) -> bool: ...
    @property
    def words(self) -> str: ...
    @property
    def out_of_memory(self) -> str: ...


class Jobs(Protocol):
    """The answer of a queue; `note` says why it could not be asked."""

    note: str

    def get(self, job: str, /) -> Job | None: ...


Queue = Callable[[Sequence[str]], Jobs]
ASK_EVERY, PATIENT = 5.0, 30.0  # seconds between two questions to the queue: at first, and
PATIENT_AFTER = 120.0  # from here on: a cluster's staff does not like to be asked much
LINES = 10  # of the log of a job that failed


class Desk:
    """Knows which job has the run, and asks after it now and then."""

    def __init__(self, folder: Path, queue: Queue | None = None) -> None:
        self.folder, self.queue = folder, queue
        self.note = ""
        self.job = ""
        self.seen: Job | None = None
        self._asked: float | None = None
        self._since = time.monotonic()
        self.refresh()

    def refresh(self) -> None:
        """Read the submission again: the run may have been submitted again."""
        self.submission, self.task = submission_of(self.folder)
        self.job = (self.submission.job(self.task) if self.submission else "") or self.job

    def ask(self) -> Job | None:
        """What the queue says of the job; an answer a few seconds old will do."""
        now = time.monotonic()
        every = ASK_EVERY if now - self._since < PATIENT_AFTER else PATIENT
        if self._asked is None or now - self._asked >= every:
            self.refresh()
            self.seen = self._answer()
            self._asked = time.monotonic()
        return self.seen

    def again(self) -> None:
        """Ask anew and often for a while: something has changed."""
        self._asked, self._since = None, time.monotonic()

    def _answer(self) -> Job | None:
        if self.queue is None or not self.job:
            return None
        jobs = self.queue([self.job])
        self.note = jobs.note
        return jobs.get(self.job)

    @property
    def ended(self) -> bool:
        """Whether the job is over, as far as the queue can be asked: what it has forgotten is over too."""
        if self.queue is None or not self.job:
            return False
        return not self.seen.alive if self.seen is not None else not self.note

    @property
    def submitted(self) -> float:
        return self.submission.submitted if self.submission else 0.0

    @property
    def name(self) -> str:
        return f"job {self.job}" if not self.job.startswith("pid:") else f"process {self.job.removeprefix('pid:').partition('.')[0]}"

    def log(self, count: int = LINES) -> list[str]:
        return last_lines(self.submission.log(self.task), count) if self.submission else []

    # -- in words ---------------------------------------------------------------------------------------------------

    def before(self) -> str:
        """What is waited for before the run begins."""
        seen = self.ask()
        at = f", submitted {age(time.time() - self.submitted)} ago" if self.submitted else ""
        if not self.job:
            script = shlex.quote(str(self.folder / "submission" / "job.sh"))
            return f"written, not submitted: {self.submission.starter if self.submission else 'sbatch'} {script}"
        if seen is None:
            return f"{self.name} has not begun{at}" + (f" ({self.note})" if self.note else "")
        if seen.waiting:
            return f"queued: {self.name} {seen.words}{at}"
        lines = self.log(1)
        return f"{self.name} {seen.words}, the run has not begun" + (f": {spoken(lines[-1])}" if lines else "")

    def how_it_ended(self) -> str:
        """ "job 123 ran out of memory (16G asked for)"."""
        if self.seen is None:
            return f"the queue knows nothing of {self.name} any more"
        return f"{self.name} {self.seen.out_of_memory if ran_out_of_memory(self.log()) else self.seen.words}"

    def failure(self) -> str:
        """Why the run has never begun."""
        problem = problem_of(self.log())
        return f"the run did not begin: {self.how_it_ended()}" + (f": {problem}" if problem else "")


def tasks_in_words(desk: Desk) -> list[str]:
    """What to watch of an array: a line for each task."""
    submission = desk.submission
    assert submission is not None and submission.tasks is not None
    ids = [submission.job(i) for i in range(submission.tasks)]
    jobs = desk.queue([job for job in ids if job]) if desk.queue is not None else None
    folders = [desk.folder / f"task-{i}" for i in range(submission.tasks)]
    width = max(len(shlex.quote(str(folder))) for folder in folders)
    lines = [f"{desk.folder} is an array of {len(ids)} tasks ({desk.name}); watch one of them:"]
    for folder, job in zip(folders, ids, strict=True):
        seen = jobs.get(job) if jobs is not None else None
        begun = "has begun" if (folder / "events.jsonl").exists() else "has not begun"
        said = _end(folder) or (seen.words if seen is not None else begun)
        lines.append(f"  expertchat watch {shlex.quote(str(folder)):<{width}}  {said}")
    return [*lines, f"all of them at a glance: expertchat runs {shlex.quote(str(desk.folder))}"]


def _end(folder: Path) -> str:
    """What a task at its end has come to; "" before."""
    run = RunReader(folder)
    return "" if not run.done else "done" if run.failure is None else "failed"
