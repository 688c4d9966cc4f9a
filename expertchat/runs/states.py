"""The state of a run: from what its files say, and from what Slurm says of its job."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from expertchat.folder.jsonl import as_number
from expertchat.folder.lock import BEAT_SECONDS, STALE_SECONDS
from expertchat.folder.submission import problem_of, ran_out_of_memory, spoken
from expertchat.runs.seen import Seen, changed
from expertchat.slurm.queue import JobState
from expertchat.text.in_words import age, event_in_words, stopped_by

STATES = ("running", "queued", "stopped", "failed", "done")


def state_of(seen: Seen, job: JobState | None, note: str = "") -> tuple[str, str]:
    """The state of a run and its reason; `note` says why Slurm could not be asked."""
    if seen.done:
        failure = seen.run.failure
        return ("done", "") if failure is None else ("failed", failure)
    if _alive(seen.beat) and (job is None or job.alive):
        return "running", "" if seen.ends.last and not seen.ends.end else "loading"
    if job is not None and job.waiting:
        return "queued", job.words
    if job is not None and job.alive:
        return "running", f"{event_in_words(seen.ends.end)}; its job goes on" if seen.ends.end else _not_yet(seen.log())
    if seen.never_began:
        return _not_begun(seen, job, note)
    if seen.ends.end:
        reason = str(seen.ends.end.get("reason") or "")
        if seen.ends.end.get("status") != "stopped":
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
    if job is None and note and time.time() - changed(submission.log(seen.task) or seen.run.folder) < STALE_SECONDS:
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
    sign = max(as_number(seen.beat.get("time")), as_number(seen.ends.last.get("time"))) or seen.began
    who = f" (process {seen.beat.get('pid')} on {seen.beat.get('host')})" if seen.beat else ""
    return f"killed: silent since {time.strftime('%Y-%m-%d %H:%M', time.localtime(sign))}{who}"


def _alive(beat: Mapping[str, Any]) -> bool:
    """Whether a heartbeat is that of a living writer."""
    if not beat:
        return False
    old = time.time() - as_number(beat.get("time"))
    if beat.get("host") == socket.gethostname() and old > 3 * BEAT_SECONDS:
        try:
            os.kill(int(as_number(beat.get("pid"))), 0)
        except ProcessLookupError:
            return False
        except (OSError, OverflowError):
            pass
    return abs(old) < STALE_SECONDS  # a beat of the day after tomorrow says as little as one of yesterday
