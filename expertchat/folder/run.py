"""What every run needs: a folder that it writes, a hub for its events, and an orderly stop on signals."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal, TypeVar

from expertchat.config import ConfigError
from expertchat.events import AnyEvent, Note, RunFinished, RunStarted, Sink
from expertchat.folder.here import place
from expertchat.folder.reader import is_failed
from expertchat.folder.run_folder import RunFolder
from expertchat.folder.served import figures as served
from expertchat.folder.writing import WriteError
from expertchat.text.redaction import hide

F = TypeVar("F", bound=RunFolder)
DONE, FAILED, STOPPED = 0, 1, 3  # exit codes; 2 is a wrong config
SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")


def run_folder(name: str | None, command: str) -> Path:
    """The folder called `name`, or a new runs/<date>-<time>-<command>. Makes nothing."""
    if name is not None:
        return Path(name).expanduser()
    stem = f"{time.strftime('%Y-%m-%d-%H%M%S')}-{command}"
    folder, n = Path("runs") / stem, 2
    while folder.exists():
        folder, n = Path("runs") / f"{stem}-{n}", n + 1
    return folder


class Hub:
    """Stamps each event and sends it to the store (once there is one) and to the view. A view that fails is dropped; the run goes on.

    Store and view hear from the thread that made the hub alone: what another thread sends waits for that thread's next event.
    """

    def __init__(self, view: Sink) -> None:
        self.view: Sink | None = view
        self.store: Sink | None = None
        self._home = threading.get_ident()
        self._waiting: deque[AnyEvent] = deque()

    def send(self, event: AnyEvent) -> None:
        if not event.time:
            event = event.model_copy(update={"time": time.time()})
        if isinstance(event, Note):  # what a library says of an address may hold the login in it
            event = event.model_copy(update={"text": hide(event.text)})
        elif isinstance(event, RunFinished) and event.reason:
            event = event.model_copy(update={"reason": hide(event.reason)})
        self._waiting.append(event)
        if threading.get_ident() == self._home:
            while self._waiting:
                self._pass_on(self._waiting.popleft())

    def _pass_on(self, event: AnyEvent) -> None:
        if self.store is not None:
            self.store.send(event)
        self.show(event)

    def show(self, event: AnyEvent) -> None:
        """Send to the view alone."""
        if self.view is None:
            return
        try:
            self.view.send(event)
        except Exception as error:
            self._drop(error)

    def say(self, text: str) -> None:
        self.send(Note(text=text))

    def notes(self, texts: Iterable[str], level: Any = "info") -> None:
        for text in texts:
            self.send(Note(text=text, level=level))

    def close(self) -> None:
        """Close the view."""
        view, self.view = self.view, None
        if view is not None:
            with suppress(Exception):
                view.close()

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _drop(self, error: Exception) -> None:
        self.close()
        if self.store is not None:
            text = f"the view failed and was dropped ({type(error).__name__}: {error}); the run goes on"
            self.store.send(Note(time=time.time(), text=text, level="warning"))


class Halted(Exception):
    """What a run needs is not to be had now (a server, a budget): it stops, and the same command goes on with it."""


class Interrupted(KeyboardInterrupt):
    """A signal came while nothing was in flight that could be finished."""


def wanted_signals() -> list[signal.Signals]:
    """Those that stop a run. A terminal that closes does (SIGHUP), but not where nohup is before the command: there it is ignored."""
    found: list[signal.Signals] = [number for name in SIGNALS if (number := getattr(signal, name, None)) is not None]
    return [number for number in found if number.name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN]


class Interrupts:
    """While entered, a signal sets `reason` instead of ending the process; a second Ctrl-C raises KeyboardInterrupt.

    `lost` says whether another process has taken the run's folder over, which stops this one too.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.lost: Callable[[], bool] = lambda: False
        self._at_once = False
        self._before: dict[int, Any] = {}

    def stop(self) -> bool:
        """Whether to stop as soon as what runs is finished."""
        return self.reason is not None or self.lost()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """While entered, a signal raises Interrupted: there is nothing to finish, and it may take minutes."""
        if self.reason is not None:
            raise Interrupted(self.reason)
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in wanted_signals():
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.reason is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name
        if self._at_once:
            self._at_once = False
            raise Interrupted(self.reason)


# -- the frame of a run -------------------------------------------------------------------------------------------------


def in_folder(hub: Hub, interrupts: Interrupts, make: Callable[[Callable[[str], None]], F], work: Callable[[F], int]) -> int:
    """Do a run's `work` in the folder that `make` opens, and give the folder back; the exit code.

    `make` is handed what to tell about waiting for the folder. Raises what `broken_off` leaves for the caller.
    """
    try:
        with interrupts.at_once():
            folder = make(hub.say)
    except Interrupted:
        return stopped(hub, interrupts)
    hub.store, interrupts.lost = folder, lambda: folder.lost
    try:
        return work(folder)
    except BaseException as error:
        return broken_off(error, folder, hub)
    finally:
        folder.close()


def started(command: str, folder: RunFolder, **counts: Any) -> RunStarted:
    """The announcement that a run begins or goes on, with who does it."""
    job = place()
    return RunStarted(
        command=command, folder=str(folder.folder), pid=os.getpid(), host=socket.gethostname(), job=job.job if job else "", **counts
    )


def stopped(hub: Hub, interrupts: Interrupts, folder: RunFolder | None = None) -> int:
    """The end of a run that a signal has stopped."""
    hub.send(RunFinished(status="stopped", reason=interrupts.reason))
    if folder is not None:
        folder.sync()
    return STOPPED


def finished(hub: Hub, folder: RunFolder, summary: dict[str, object]) -> int:
    """The end of a run that has gone through all of its work. One whose summary says that it failed at what it is for is not done.

    To the summary is added what its servers were asked, where it had any.
    """
    summary |= served(folder.folder)
    hub.send(_end(summary))
    folder.finish(summary)
    return FAILED if is_failed(summary) else DONE


def _end(summary: Mapping[str, Any], time: float = 0.0) -> RunFinished:
    status: Literal["done", "failed"] = "failed" if is_failed(summary) else "done"
    return RunFinished(time=time, status=status, reason=str(summary["reason"]) if is_failed(summary) else None, summary=dict(summary))


def was_done(hub: Hub, folder: RunFolder) -> int:
    """The end of a run that went through all of its work before, as it was then."""
    summary = folder.summary or {}
    if is_failed(summary):
        hub.show(Note(time=time.time(), text=f"{folder.folder} is at its end: name another run.dir for a new run", level="warning"))
        hub.show(_end(summary, time.time()))
        return FAILED
    hub.show(Note(time=time.time(), text=f"{folder.folder} is done already: nothing is left to do"))
    hub.show(RunFinished(time=time.time(), status="done", reason="it was done before", summary=folder.summary or {}))
    return DONE


def broken_off(error: BaseException, store: Sink, hub: Hub) -> int:
    """The exit code for what ended a run early, or the error again where the caller shall see it."""
    if isinstance(error, KeyboardInterrupt):
        with suppress(WriteError):
            hub.send(RunFinished(status="stopped", reason=str(error) or "interrupted twice: what was in flight is made again"))
        return STOPPED
    if isinstance(error, Halted):
        with suppress(WriteError):
            hub.send(RunFinished(status="stopped", reason=str(error)))
        return STOPPED
    if isinstance(error, WriteError):
        hub.store = None
        if hub.view is None:  # it failed before, so that the caller has to say it
            raise error
        hub.send(RunFinished(status="failed", reason=str(error)))
        return FAILED
    end = RunFinished(time=time.time(), status="failed", reason=hide(f"{type(error).__name__}: {error}"))
    with suppress(WriteError):
        store.send(end)
    if not isinstance(error, ConfigError):  # a ConfigError is shown by the caller
        hub.show(end)
    raise error
