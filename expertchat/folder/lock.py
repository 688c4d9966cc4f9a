"""One writer for each run folder: a file lock where the file system has one, and a heartbeat that other machines can read.

A second writer is refused, but for one: the next start of a Slurm job whose node failed finds the folder held by its own earlier start
(the same job, fewer restarts), which nobody has told that it was replaced. The new start writes a claim; the old one sees it at its next
beat, writes no more, and lets go. Where the old one is dead, the new one waits until its heartbeat is stale. What can go wrong, and what
is done about it:

- One host: flock decides. It ends with its process, so after a kill the folder is free at once, and a process id that was given to
  somebody else holds nothing.
- Several hosts: flock may be known on one host alone, or not at all, so a fresh heartbeat of another host counts whatever flock says.
- What the old start is writing when the claim comes is finished first: records and checkpoints are written inside `held`, and the folder
  is let go of under the same mutex, the heartbeat first and flock after it. Later nothing is written, for `held` asks before each write.
- The old start is frozen (a hung node) until its heartbeat is stale, and thaws when another one writes, or has ended already: `held` looks
  at the heartbeat before a write if the own beat is old. A freeze just between that look and the write is the gap that is left: one line,
  with an id that the other start writes too. If the thawed one renews its heartbeat once more, the start with more restarts takes it back.
- Another job finds a writer on another node that may be dead: it waits until that one is stale, and is refused as soon as it beats.
- Two later starts wait for one folder: the one with more restarts goes on waiting, the other is refused.
- Somebody else takes the folder when the old start lets go: the new one is refused then, like any second writer.
- Clocks: at the first look at another host's heartbeat that clock may be behind by less than STALE_SECONDS. One that is further ahead says
  nothing: then, and whenever a start waits, it sees by its own clock whether the heartbeat still changes.
- The folder is removed or moved under its writer: seen at the next beat, or the next line that is written; the process stops.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from expertchat.config import ConfigError
from expertchat.folder.here import Place, place
from expertchat.folder.jsonl import as_number, read_json
from expertchat.folder.writing import NO_LINK, WriteError, replace

try:
    import fcntl
except ImportError:  # no POSIX locks on this system: the heartbeat alone decides
    fcntl = None  # type: ignore[assignment]

LOCK, HEARTBEAT, CLAIM = ".lock", "heartbeat.json", "claim.json"
BEAT_SECONDS = 5.0
STALE_SECONDS = 120.0  # a heartbeat this old belongs to a writer that is gone; clocks of a cluster differ by less
Beat = dict[str, Any]


class FolderLock:
    """Holds `folder` for this process until `release`. Raises ConfigError where another live process holds it.

    `here`: the Slurm job of this process (unset: of its environment). Where an earlier start of that job holds the folder, it is asked to
    let go and waited for, which `say` is told. `note` says whose lock was taken over, `lost` who has taken over this one.
    """

    def __init__(
        self,
        folder: Path,
        stale_seconds: float = STALE_SECONDS,
        beat_seconds: float = BEAT_SECONDS,
        *,
        here: Place | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.folder, self.stale_seconds, self.beat_seconds = folder, stale_seconds, beat_seconds
        self.here, self.say = here or place(), say
        self.note: str | None = None
        self.lost: str | None = None
        self.token = uuid.uuid4().hex
        self._mutex, self._depth = threading.RLock(), 0
        self._renewed = time.monotonic()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._fd: int | None = self._open()
        try:
            self._acquire()
            self._thread.start()
        except BaseException:
            if (read_json(folder / CLAIM) or {}).get("token") == self.token:
                self._unlink(CLAIM)
            self._closing.set()
            if (read_heartbeat(folder) or {}).get("token") == self.token:  # a signal came when it had been taken
                self._let_go(remove=True)
            else:
                os.close(self._fd)
            raise

    def _open(self) -> int:
        return os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | NO_LINK, 0o644)

    # -- taking it --------------------------------------------------------------------------------------------------

    def _acquire(self) -> None:
        rival = self._try()
        if rival == {}:  # in the middle of coming or going
            time.sleep(min(0.2, self.stale_seconds / 4))
            rival = self._try()
        if rival is not None:
            elsewhere = rival.get("host") not in (None, socket.gethostname())
            if self._earlier(rival):
                self._wait_for(rival)
            elif elsewhere and (self.here is not None or -_age(rival) > self.stale_seconds):
                self._outlast(rival)
            else:
                raise ConfigError(self._refusal(rival))
        claim = read_json(self.folder / CLAIM)
        if claim is not None and not self._later(claim):  # this start's, or left behind
            self._unlink(CLAIM)

    def _try(self, silent: bool | None = None) -> Beat | None:
        """Take the folder, or say who holds it ({}: nobody knows).

        `silent`: whether a heartbeat of another host is stale; None: its time says so.
        """
        locked, beat = self._flock(), read_heartbeat(self.folder)
        if locked is False or (beat is not None and self._alive(beat, locked is True, silent)):
            return beat or {}
        if beat is not None:
            self.note = f"the writer {_writer(beat)} is gone; its lock was taken over"
        self._write()
        if locked is None:  # without a file lock two writers may have looked at the same moment: the last one wins, the other sees it
            time.sleep(min(0.2, self.stale_seconds / 4))
            beat = read_heartbeat(self.folder)
            if (beat or {}).get("token") != self.token:
                self.note = None
                return beat or {}
        return None

    def _flock(self) -> bool | None:
        """True: locked; False: somebody else holds it; None: there are no locks on this file system."""
        if fcntl is None or self._fd is None:
            return None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _same(self._fd, self.folder / LOCK):  # whoever had it has removed the file, and somebody may lock a new one
                os.close(self._fd)
                self._fd = self._open()
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return None
        return True

    def _alive(self, beat: Beat, locked: bool, silent: bool | None) -> bool:
        if beat.get("token") == self.token:
            return False
        if beat.get("host") == socket.gethostname():
            # On one machine the file lock is certain, and a process id may have been given to somebody else meanwhile.
            return not locked and is_running(int(as_number(beat.get("pid"))))
        return _age(beat) < self.stale_seconds if silent is None else not silent

    def _wait_for(self, orphan: Beat) -> None:
        """Ask an earlier start of this job to let go; wait until it has, or until its heartbeat has not changed for `stale_seconds`."""
        begun = time.monotonic()
        end = begun + 2 * self.stale_seconds  # it may be in the middle of a checkpoint
        since = begun - min(max(0.0, _age(orphan)), self.stale_seconds - min(3 * self.beat_seconds, self.stale_seconds))
        last: Beat = orphan
        left = self.stale_seconds - (begun - since)
        whose = f"{_writer(orphan)}, an earlier start of this job"
        self.say(f"{self.folder} is still held by {whose}: it is asked to let go, and taken for dead if it is silent for {left:.0f} s more")
        while (rival := self._try(silent=time.monotonic() - since >= self.stale_seconds)) is not None:
            claim = read_json(self.folder / CLAIM)
            if (rival and not self._earlier(rival)) or (claim is not None and self._later(claim)):
                raise ConfigError(self._refusal(rival or claim or {}))
            if time.monotonic() > end:
                raise ConfigError(f"{self._refusal(rival)} (it was asked to let go {2 * self.stale_seconds:.0f} s ago)")
            if rival != last:
                last, since = rival, time.monotonic()
            if claim is None or claim.get("token") != self.token:
                replace(self.folder / CLAIM, json.dumps(self._who()))
            time.sleep(min(1.0, self.beat_seconds / 2))
        how = "is gone" if self.note else "has let go"
        self.note = f"the folder was held by {whose}; after {time.monotonic() - begun:.0f} s of waiting that one {how}"

    def _outlast(self, other: Beat) -> None:
        """Wait until a writer on another node is stale: in a job, whose place in the queue is worth two minutes; and where its clock is
        so far ahead that the time of its heartbeat says nothing.

        Raises ConfigError as soon as the other shows life.
        """
        end = time.monotonic() + self.stale_seconds - min(max(0.0, _age(other)), self.stale_seconds)
        self.say(f"{self.folder} is held by {_writer(other)}: it is taken for dead if it is silent for {self.stale_seconds:.0f} s")
        while (rival := self._try(silent=time.monotonic() >= end)) is not None:
            if rival != other:
                raise ConfigError(self._refusal(rival))
            time.sleep(min(1.0, self.beat_seconds / 2))

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self.folder / name).unlink()

    # -- who is who -------------------------------------------------------------------------------------------------

    def _earlier(self, who: Beat) -> bool:
        """Whether this is an earlier start of this process's job."""
        return self._restarts_more(who) < 0

    def _later(self, who: Beat) -> bool:
        """Whether this is a later start of this process's job."""
        return self._restarts_more(who) > 0

    def _restarts_more(self, who: Beat) -> int:
        """How many restarts a start of this process's job has more than this one; 0 also for all others."""
        if self.here is None or who.get("job") != self.here.job or not isinstance(who.get("restarts"), int):
            return 0
        return int(who["restarts"]) - self.here.restarts

    def _refusal(self, beat: Beat) -> str:
        who = f" ({_writer(beat)})" if beat else ""
        return (
            f"run.dir: {self.folder} is being written by another process{who}; follow it with `expertchat watch {self.folder}`, "
            f"stop it, or name another folder"
        )

    def _who(self) -> Beat:
        job = {"job": self.here.job, "restarts": self.here.restarts} if self.here else {"job": None, "restarts": None}
        return {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time(), "token": self.token, **job}

    # -- holding it -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """While entered, nobody else is let in. Raises WriteError where somebody else is."""
        with self._mutex:
            if not self._depth:
                if self.lost is None and self._frozen:
                    self.lost = self._taken()
                if self.lost is not None:
                    raise WriteError(self.lost)
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1

    def _taken(self) -> str | None:
        """Who has taken the folder over, or wants to and may; None: nobody."""
        beat, claim = read_heartbeat(self.folder), read_json(self.folder / CLAIM)
        if claim is not None and self._later(claim):
            return self._taken_by(claim)
        if beat is not None and beat.get("token") != self.token and not self._earlier(beat):
            return self._taken_by(beat)
        if beat is None and self._frozen and _gone(self.folder / HEARTBEAT):
            return f"another process has taken {self.folder} over, and has ended; this one stops"
        return None

    def _removed(self) -> str | None:
        """Why this folder is not the one any more that was taken; a lock file that somebody has tidied away is made and taken again."""
        if not _gone(self.folder / LOCK):
            return None
        if _gone(self.folder):
            return f"{self.folder} was removed or moved while the run was writing it; this process stops"
        with contextlib.suppress(OSError):
            old, self._fd = self._fd, self._open()
            if old is not None:
                os.close(old)
            self._flock()
        return None

    @property
    def _frozen(self) -> bool:
        """Whether the own heartbeat is old: this process stood still, or the disk did."""
        return time.monotonic() - self._renewed > self.stale_seconds / 2

    def _taken_by(self, who: Beat) -> str:
        if self.here is not None and self._later(who):
            return f"another start of job {self.here.job} has taken {self.folder} over ({_writer(who)}); this one stops"
        return f"another process has taken {self.folder} over ({_writer(who)}); this one stops"

    def _write(self) -> None:
        replace(self.folder / HEARTBEAT, json.dumps(self._who()))
        self._renewed = time.monotonic()

    def _beat(self) -> None:
        while not self._closing.wait(self.beat_seconds):
            self.lost = self.lost or self._taken() or self._removed()
            if self.lost is not None:
                self._finish_and_let_go()
                return
            with contextlib.suppress(OSError):  # a full disk is reported by what writes records
                self._write()

    def _finish_and_let_go(self) -> None:
        """Wait for what is being written, with a heart that beats on as long as the folder is this process's."""
        while not self._mutex.acquire(timeout=self.beat_seconds):
            if (read_heartbeat(self.folder) or {}).get("token") == self.token:
                with contextlib.suppress(OSError):
                    self._write()
        try:
            self._let_go()
        finally:
            self._mutex.release()

    def _let_go(self, remove: bool = False) -> None:
        if self._fd is None:
            return
        if remove and self.lost is None:
            self._unlink(LOCK)
        if (read_heartbeat(self.folder) or {}).get("token") == self.token:
            self._unlink(HEARTBEAT)
        if fcntl is not None:  # a child that was forked has the same lock, and closing does not end it
            with contextlib.suppress(OSError):
                fcntl.flock(self._fd, fcntl.LOCK_UN)
        os.close(self._fd)
        self._fd = None

    def release(self, remove: bool = False) -> None:
        """Give the folder back, with `remove` without a trace. May be called twice."""
        self._closing.set()
        self._thread.join()
        self._let_go(remove)


def read_heartbeat(folder: Path) -> Beat | None:
    """Who writes `folder`: {host, pid, time, token, job, restarts}, or None."""
    return read_json(folder / HEARTBEAT)


def _same(fd: int, path: Path) -> bool:
    """Whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _gone(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:  # the disk does not answer
        return False
    return False


def _writer(beat: Beat) -> str:
    job = f" (job {beat['job']})" if beat.get("job") else ""
    ahead = -_age(beat)
    seen = f"last seen {max(0.0, -ahead):.0f} s ago" if ahead < BEAT_SECONDS else f"whose clock is {ahead:.0f} s ahead of this one"
    return f"process {beat.get('pid')} on {beat.get('host')}{job}, {seen}"


def _age(beat: Beat) -> float:
    """Seconds since a heartbeat by this host's clock; below 0 where the other's clock is ahead."""
    return time.time() - as_number(beat.get("time"))


def is_running(pid: int) -> bool:
    """Whether there is a process of this number on this machine, whoever's it is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError, ValueError):
        return True
    return pid > 0
