"""What Slurm says of jobs: one squeue for all of them, then sacct for those that squeue has forgotten.

Nothing here raises for a cluster that does not answer: then less is known, and the answer says why.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

TIMEOUT = 10.0  # seconds after which a command is given up
LOCAL = "pid:"  # what the id of a job without a scheduler begins with
# The reason comes last, for it alone is free text; the sizes cut nothing that is looked at.
_SQUEUE = ("JobArrayID:40", "State:24", "RestartCnt:12", "TimeUsed:24", "TimeLeft:24", "TimeLimit:24", "exit_code:16", "MinMemory:24",
           "StartTime:32", "Reason:200")  # fmt: skip
_SACCT = ("JobID", "State", "Elapsed", "Timelimit", "ExitCode", "ReqMem", "Reason")
_TASKS = re.compile(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]")  # sacct's name for the tasks of an array that have not begun
WAITING = ("pending", "requeued")
ALIVE = (*WAITING, "running", "completing", "configuring", "suspended", "stopped", "resizing", "signaling", "stage_out")
REASONS = {
    "Priority": "waits for its turn",
    "Resources": "waits for free GPUs or cores",
    "Dependency": "waits for another job",
    "DependencyNeverSatisfied": "will never begin: the job that it waits for did not end well",
    "BeginTime": "waits for its begin time",
    "JobHeldUser": "is held: scontrol release lets it go",
    "JobHeldAdmin": "is held by an administrator",
    "JobArrayTaskLimit": "waits until fewer tasks of its array run",
    "Reservation": "waits for a reservation",
    "ReqNodeNotAvail": "waits for nodes that are not available",
    "NodeDown": "waits for a node that is down",
    "PartitionTimeLimit": "will never begin: it asks for more time than the partition gives",
    "PartitionNodeLimit": "will never begin: it asks for more nodes than the partition has",
    "BadConstraints": "will never begin: no node has what it asks for",
    "Cleaning": "is being put back into the queue",
    "None": "was just submitted",
    "": "was just submitted",
}
ENDINGS = {
    "completed": "ended with exit code 0",
    "node_fail": "lost its node",
    "boot_fail": "did not begin: the node failed to boot",
    "preempted": "made room for another job",
    "deadline": "could not end before its deadline",
    "revoked": "was moved to another cluster",
    "gone": "is no longer running",
}


class Said(NamedTuple):
    """What a command printed; None where it failed, with the reason as `problem`."""

    text: str | None
    problem: str = ""


Run = Callable[[Sequence[str]], Said]


@dataclass(frozen=True)
class JobState:
    """One job. `state` is Slurm's word in small letters, or "requeued" for one that began before and waits again."""

    job: str
    state: str
    reason: str = ""
    restarts: int = 0
    elapsed: float | None = None  # seconds, as the others
    left: float | None = None
    limit: float | None = None
    exit_code: int | None = None
    killed_by: int | None = None  # a signal's number
    memory: str = ""  # asked for, as Slurm writes it
    start: float | None = None  # of a waiting job: when it may begin

    @property
    def alive(self) -> bool:
        """Whether it runs or waits to run."""
        return self.state in ALIVE

    @property
    def waiting(self) -> bool:
        return self.state in WAITING

    @property
    def out_of_memory(self) -> str:
        """What is said where the log knows that it ran out of memory; Slurm may only know of the signal that ended it."""
        return f"ran out of memory{f' ({self.memory} asked for)' if self.memory else ''}"

    @property
    def words(self) -> str:
        """What it does or how it ended, to be put behind its name: "waits for its turn (Priority)"."""
        match self.state:
            case "pending" | "requeued":
                begins = f", expected {_clock(self.start)}" if self.start is not None and self.start > time.time() else ""
                again = "was requeued and " if self.state == "requeued" else ""
                return f"{again}{pending_reason(self.reason)}{begins}"
            case "failed" if self.killed_by:
                return f"was killed by {_signal(self.killed_by)}"
            case "failed":
                named = f" ({_signal(self.exit_code - 128)})" if self.exit_code and self.exit_code > 128 else ""  # as a shell gives it
                return f"failed with exit code {self.exit_code}{named}" if self.exit_code else "failed"
            case "out_of_memory":
                return self.out_of_memory
            case "timeout":
                return f"reached its time limit{f' of {_duration(self.limit)}' if self.limit else ''}"
            case "cancelled":
                return "was cancelled"
            case "running":
                of = f" of {_duration(self.limit)}" if self.limit else ""
                return f"runs{f', {_duration(self.elapsed)}{of}' if self.elapsed is not None else ''}"
        return ENDINGS.get(self.state, f"is {self.state.replace('_', ' ')}")


class Answer(dict[str, JobState]):
    """Jobs by id. `note` says why Slurm could not be asked; without one, a job that is not here is one that Slurm does not know."""

    note: str = ""


def states(jobs: Sequence[str], run: Run | None = None) -> Answer:
    """What is known of jobs: ids ("123"), tasks of arrays ("123_4"), or "123" for all tasks of an array, which come as "123_0", ...

    "pid:4711.123" is a process of this machine. Never raises for a cluster that does not answer.
    """
    run = run or ask
    answer = Answer({job: _process(job) for job in jobs if job.startswith(LOCAL)})
    wanted = list(dict.fromkeys(job for job in jobs if re.fullmatch(r"\d+(_\d+)?", job)))
    if not wanted:
        return answer
    # Asked for one job that it has forgotten, squeue fails; asked for several, it leaves that one out.
    doubled = wanted if len(wanted) > 1 else wanted * 2
    fields = "|,".join(_SQUEUE)
    said = run(["squeue", "-h", "-r", "-t", "all", "-j", ",".join(doubled), "-O", fields])
    if said.text is None and "Invalid job id" not in said.problem:
        answer.note = said.problem or "squeue gives no answer"
        return answer
    answer.update((one.job, one) for one in _from_squeue(said.text or ""))
    heads = {job.partition("_")[0] for job in answer}
    forgotten = [job for job in wanted if job not in answer and ("_" in job or job not in heads)]
    if forgotten:
        old = run(["sacct", "-X", "-P", "-n", "-j", ",".join(forgotten), "-o", ",".join(_SACCT)])
        for one in _from_sacct(old.text or ""):
            answer.setdefault(one.job, one)
    return answer


def ask(command: Sequence[str]) -> Said:
    """Run a command of Slurm on this machine."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("SQUEUE_", "SACCT_"))}  # they would hide jobs
    environment = {**own, "SLURM_TIME_FORMAT": "standard"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT, env=environment, check=False)
    except FileNotFoundError:
        return Said(None, "Slurm is not installed here")
    except subprocess.TimeoutExpired:
        return Said(None, f"Slurm gave no answer within {TIMEOUT:.0f} s")
    except OSError as error:
        return Said(None, f"{command[0]} cannot be run: {error.strerror}")
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return Said(None, f"Slurm gives no answer: {lines[-1].strip() if lines else f'exit code {done.returncode}'}")
    return Said(done.stdout)


def pending_reason(reason: str) -> str:
    """Why a job waits, in plain words with Slurm's own word behind them; a reason that nobody explains stays as it is."""
    name = reason.strip("() ").partition(",")[0]
    plain = REASONS.get(name)
    if plain is None:
        return f"waits ({reason.strip('() ')})"
    return f"{plain} ({name})" if name not in ("", "None") else plain


# -- reading ------------------------------------------------------------------------------------------------------------


def _from_squeue(text: str) -> Iterator[JobState]:
    for row in _rows(text, len(_SQUEUE)):
        job, state, restarts, used, left, limit, code, memory, start, reason = row
        times = int(restarts) if restarts.isdigit() else 0
        exit_code, killed_by = _exit(code)
        state = _state(state, times)
        yield JobState(
            job=job, state=state, reason="" if reason == "None" else reason, restarts=times, elapsed=seconds(used), left=seconds(left),
            limit=seconds(limit), exit_code=exit_code, killed_by=killed_by, memory=memory if memory.strip("0MG") else "",
            start=_moment(start) if state in WAITING else None,
        )  # fmt: skip


def _from_sacct(text: str) -> Iterator[JobState]:
    for job, state, used, limit, code, memory, reason in _rows(text, len(_SACCT)):
        exit_code, killed_by = _exit(code)
        for one in _tasks(job):
            yield JobState(
                job=one, state=_state(state, 0), reason="" if reason == "None" else reason, elapsed=seconds(used), limit=seconds(limit),
                exit_code=exit_code, killed_by=killed_by, memory=memory if memory.strip("0MGnc") else "",
            )  # fmt: skip


def _rows(text: str, count: int) -> Iterable[list[str]]:
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|", count - 1)]
        if len(cells) == count and re.match(r"\d+(_|$)", cells[0]):
            yield cells


def _state(word: str, restarts: int) -> str:
    """ "CANCELLED by 1000", "CANCELLED+" -> "cancelled"; what waits after a start is requeued."""
    state = (word.split() or ["unknown"])[0].rstrip("+").lower()
    if state in ("requeued", "requeue_hold", "special_exit", "requeue_fed") or (state == "pending" and restarts):
        return "requeued"
    return state


def _exit(code: str) -> tuple[int | None, int | None]:
    """Exit code and signal: squeue gives a wait status (1280 is exit code 5, 9 is signal 9), sacct "5:0"."""
    exit_code, colon, number = code.partition(":")
    if not exit_code.isdigit():
        return None, None
    if colon:
        return int(exit_code), int(number) if number.isdigit() and int(number) else None
    return int(exit_code) >> 8, (int(exit_code) & 0x7F) or None


def _tasks(job: str) -> list[str]:
    """ "7_[2-3,5%2]" -> 7_2, 7_3, 7_5."""
    if not (match := _TASKS.fullmatch(job)):
        return [job]
    found = []
    for part in match[2].split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit():
            found += [f"{match[1]}_{i}" for i in range(int(first), min(int(last or first), int(first) + 10_000) + 1)]
    return found


def seconds(text: str) -> float | None:
    """Slurm's [days-][hours:]minutes:seconds; None for UNLIMITED, N/A and the like."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)(?:\.\d+)?", text)
    if not match:
        return None
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60.0 + rest


def _moment(text: str) -> float | None:
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return None


def _process(job: str) -> JobState:
    """A process of this machine as a job."""
    number, _, began = job.removeprefix(LOCAL).partition(".")
    try:
        os.kill(int(number), 0)
    except PermissionError:
        pass
    except (OSError, ValueError, OverflowError):
        return JobState(job, "gone")
    now = _began(int(number)) if began else ""
    return JobState(job, "running" if began == now or not now else "gone")


def process_id(number: int) -> str:
    """The job id of a process of this machine: its number, and when it began, for numbers are given out again."""
    began = _began(number)
    return f"{LOCAL}{number}.{began}" if began else f"{LOCAL}{number}"


def _began(number: int) -> str:
    """When a process began, in ticks since the machine did; "" where the system does not tell."""
    try:
        with open(f"/proc/{number}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[19]  # field 22; the name, in brackets, may hold anything
    except (OSError, IndexError):
        return ""


# -- words --------------------------------------------------------------------------------------------------------------


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _clock(moment: float) -> str:
    """The time of a day, with the day where it is not today."""
    there, now = time.localtime(moment), time.localtime()
    return time.strftime("%H:%M" if there[:3] == now[:3] else "%Y-%m-%d %H:%M", there)


def _duration(length: float | None) -> str:
    """ "0:42", "1:02:03", "7 days"."""
    minutes, rest = divmod(int(length or 0), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} days" + (f" {hours % 24} h" if hours % 24 else "")
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
