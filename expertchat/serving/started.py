"""vLLM as a process of its own: begun, waited for, stopped with all that it has begun itself."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from expertchat.folder.children import ends_with_its_parent
from expertchat.folder.submission import last_lines
from expertchat.folder.writing import private

LOG = "server.log"
LOOK = 0.5  # seconds between two looks whether it answers
LINGER = 30.0  # seconds that it may take to stop before it is killed
LINES, LOOKED = 3, 400  # of its log that are shown where it failed, and that are looked at for what it was
_WORK = re.compile(r"^vllm:(num_requests_running|num_requests_waiting|request_success_total)\S* (\S+)$", re.MULTILINE)
_ERROR = re.compile(r"\b\w*(?:Error|Exception): .+")
_POINTS = ("root cause above", "stack trace (above)")  # an error that only points at another
_LOGGER = re.compile(r"^(?:\(\w+ pid=\d+\) )?(?:[A-Z]+ \S+ \S+ \[[\w.]+:\d+\] )?")
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on this machine: no proxy between


class Failed(Exception):
    """It has ended, or does not answer in time."""


class Started:
    """A server that was begun with `line`; what it says goes into server.log of `folder`. `root`: where this machine asks it."""

    def __init__(self, line: Sequence[str], environment: Mapping[str, str], folder: Path, root: str) -> None:
        self.root, self.log = root, folder / LOG
        with open(self.log, "ab", opener=private) as said:
            self._process = subprocess.Popen(
                line,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env=dict(environment),
                start_new_session=True,  # Ctrl-C is for the run beside it, which still asks it while it stops in order
                preexec_fn=ends_with_its_parent,
            )
        self._done: tuple[list[str], float] = ([], time.monotonic())  # what it had done when it was last seen at work

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self, seconds: float, stop: Callable[[], bool]) -> bool:
        """Wait until it answers; False where `stop` said so before. Raises Failed."""
        end = time.monotonic() + seconds
        while not self._answers():
            self.require()
            if stop():
                return False
            if time.monotonic() > end:
                raise Failed(f"it does not answer after {seconds:.0f} s (server.wait): {self.told()}")
            time.sleep(LOOK)
        return True

    def require(self) -> None:
        """Raise Failed where it has ended."""
        if (code := self._process.poll()) is not None:
            raise Failed(f"it has ended ({_ending(code)}): {self.told()}")

    def told(self) -> str:
        """What its log says last of an error that it has a name for, with what follows; else its last lines."""
        lines = [_LOGGER.sub("", line) for line in last_lines(self.log, LOOKED)]
        named = [i for i, line in enumerate(lines) if _ERROR.search(line) and not any(words in line for words in _POINTS)]
        place = named[-1] if named else max(0, len(lines) - LINES)
        return " / ".join(lines[place:][:LINES]) or f"it has said nothing ({self.log})"

    def idle(self) -> float:
        """Seconds since it was last seen at work, by what it tells of its requests (/metrics); 0 where it tells nothing."""
        found = _WORK.findall(self._get("/metrics") or "")
        done = [value for name, value in found if name == "request_success_total"]
        busy = any(float(value) > 0 for name, value in found if name != "request_success_total")
        if not found or busy or done != self._done[0]:
            self._done = done, time.monotonic()
        return time.monotonic() - self._done[1]

    def stop(self) -> None:
        """End it in order, and kill what is left of it after LINGER seconds."""
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(LINGER)
        with suppress(ProcessLookupError, PermissionError):  # its own processes: they hold the GPUs' memory
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _answers(self) -> bool:
        return self._get("/health") is not None

    def _get(self, route: str) -> str | None:
        """What it answers; None where it does not."""
        try:
            with _DIRECT.open(f"{self.root}{route}", timeout=5) as answer:
                return str(answer.read().decode("utf-8", "replace"))
        except (OSError, ValueError, http.client.HTTPException):
            return None


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
