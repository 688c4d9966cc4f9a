"""One writer for each run folder: a file lock where the file system has one, and a heartbeat that other machines can read."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from expertchat.config import ConfigError

try:
    import fcntl
except ImportError:  # no POSIX locks on this system: the heartbeat alone decides
    fcntl = None  # type: ignore[assignment]

LOCK, HEARTBEAT = ".lock", "heartbeat.json"
BEAT_SECONDS = 5.0
STALE_SECONDS = 120.0  # a heartbeat this old belongs to a writer that is gone; clocks of a cluster differ by less


class FolderLock:
    """Holds `folder` for this process until `release`. Raises ConfigError where another live process holds it.

    `note` says that the lock of a dead writer was taken over. `lost` becomes True when another process took this lock over.
    """

    def __init__(self, folder: Path, stale_seconds: float = STALE_SECONDS, beat_seconds: float = BEAT_SECONDS) -> None:
        self.folder, self.stale_seconds = folder, stale_seconds
        self.note: str | None = None
        self.lost = False
        self._token = uuid.uuid4().hex
        self._fd: int | None = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._acquire()
        except BaseException:
            os.close(self._fd)
            raise
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(beat_seconds,), name="heartbeat", daemon=True)
        self._thread.start()

    def _acquire(self) -> None:
        locked = self._flock()
        beat = read_heartbeat(self.folder)
        if locked is False or (beat is not None and self._alive(beat, locked is True)):
            raise ConfigError(self._refusal(beat))
        if beat is not None:
            self.note = f"the writer {_writer(beat)} is gone; its lock was taken over"
        self._write()
        if locked is None:  # without a file lock two writers may have looked at the same moment: the last one wins, the other sees it
            time.sleep(0.2)
            if (read_heartbeat(self.folder) or {}).get("token") != self._token:
                raise ConfigError(self._refusal(read_heartbeat(self.folder)))

    def _flock(self) -> bool | None:
        """True: locked; False: somebody else holds it; None: there are no locks on this file system."""
        if fcntl is None or self._fd is None:
            return None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return None
        return True

    def _alive(self, beat: dict[str, Any], locked: bool) -> bool:
        if beat.get("host") == socket.gethostname():
            # On one machine the file lock is certain, and a process id may have been given to somebody else meanwhile.
            return not locked and _running(int(beat.get("pid", 0)))
        return time.time() - float(beat.get("time", 0.0)) < self.stale_seconds

    def _refusal(self, beat: dict[str, Any] | None) -> str:
        who = f" ({_writer(beat)})" if beat else ""
        return (
            f"run.dir: {self.folder} is being written by another process{who}; follow it with `expertchat watch {self.folder}`, "
            f"stop it, or name another folder"
        )

    def _write(self) -> None:
        beat = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time(), "token": self._token}
        replace(self.folder / HEARTBEAT, json.dumps(beat))

    def _beat(self, seconds: float) -> None:
        while not self._closing.wait(seconds):
            beat = read_heartbeat(self.folder)
            if beat is not None and beat.get("token") != self._token:
                self.lost = True
                return
            with contextlib.suppress(OSError):  # a full disk is reported by what writes records
                self._write()

    def release(self) -> None:
        """Give the folder back. May be called twice."""
        if self._fd is None:
            return
        self._closing.set()
        self._thread.join()
        if not self.lost:
            with contextlib.suppress(OSError):
                (self.folder / HEARTBEAT).unlink()
        os.close(self._fd)
        self._fd = None


def read_heartbeat(folder: Path) -> dict[str, Any] | None:
    """Who writes `folder`: {host, pid, time, token}, or None."""
    try:
        beat = json.loads((folder / HEARTBEAT).read_bytes())
    except (OSError, ValueError):
        return None
    return beat if isinstance(beat, dict) else None


def replace(path: Path, text: str, sync: bool = False) -> None:
    """Write a whole file so that readers see either the old or the new one. With `sync` it also survives a power cut."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with open(new, "w", encoding="utf-8") as file:
            file.write(text)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(new, path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def _writer(beat: dict[str, Any]) -> str:
    age = max(0.0, time.time() - float(beat.get("time", 0.0)))
    return f"process {beat.get('pid')} on {beat.get('host')}, last seen {age:.0f} s ago"


def _running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError, ValueError):
        return True
    return pid > 0
