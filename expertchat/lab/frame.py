"""The frame of a command that puts many questions to models side by side, into one folder: judge, best_of_n, build_pairs, pick, posts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from expertchat.backends.asking import Flow
from expertchat.backends.base import Backend
from expertchat.events import Sink
from expertchat.folder.run import Hub, Interrupts, finished, in_folder, run_folder, started, stopped, was_done
from expertchat.folder.run_folder import RunFolder
from expertchat.lab.config import Alone
from expertchat.talk.cast import Cast
from expertchat.talk.scheduler import Scheduler, Spent
from expertchat.trackers.beside import with_trackers

C = TypeVar("C", bound=Alone)
F = TypeVar("F", bound=RunFolder)
Say = Callable[[str], None]


class RunFrame(ABC, Generic[C, F]):
    """One run of such a command; `run` is the whole of it.

    A command gives `command`, `folder`, `read` and `work`, and is given `hub` and `interrupts`, then `place`, then `store`; `loaded` gives
    it `cast`. What is wrong with what it reads is told before there is a folder; a run that was done loads nothing.
    """

    command: ClassVar[str]
    folder: type[F]  # of its runs
    hub: Hub
    interrupts: Interrupts
    place: Path
    store: F

    def __init__(self, config: C, command_line: list[str], backends: Mapping[str, Backend] | None) -> None:
        self.config, self.command_line = config, command_line
        self.backends = backends  # by the places of the models, in the place of those of the config
        self.told: list[str] = []  # what is to be said of what was read
        self.cast = Cast()
        self.forget: Say = lambda place: None  # what the models keep of a place that is whole

    # -- what a command gives -------------------------------------------------------------------------------------------

    @abstractmethod
    def read(self) -> None:
        """Read what it asks about. Raises ConfigError."""

    @abstractmethod
    def work(self) -> int:
        """Everything that is left to do; the exit code."""

    def opened(self, say: Say) -> F:
        """Its folder. Raises ConfigError."""
        return self.folder(self.place, self.config.model_dump(mode="json"), self.command_line, say)

    # -- what it is given -----------------------------------------------------------------------------------------------

    def run(self, sink: Sink) -> int:
        """From the first look at the input to the end: 0 when it is done, 3 when it was stopped and can go on, 1 when it did not reach what
        it is for. `sink` is closed. Raises ConfigError for what is wrong with the config or the input."""
        with Hub(with_trackers(self.config, sink)) as self.hub, Interrupts() as self.interrupts:
            self.place = run_folder(self.config.run.dir, self.command)
            self.read()
            return in_folder(self.hub, self.interrupts, self.opened, self._in)

    def _in(self, store: F) -> int:
        self.store = store
        return self.work() if store.summary is None else was_done(self.hub, store)

    def loaded(self, load: Callable[[], Cast]) -> Cast:
        """The models. A signal ends this at once: nothing is in flight yet, and loading may take minutes."""
        with self.interrupts.at_once():
            self.cast = load()
        return self.cast

    def begins(self, warnings: Iterable[str] = (), **counts: Any) -> None:
        """Say that the run begins or goes on, and what is to be known of it."""
        self.hub.send(started(self.command, self.store, **counts))
        self.hub.notes([*self.store.notes, *warnings], "warning")
        self.hub.notes([*self.told, *self.cast.notes])

    def asked(self, flows: Iterable[Flow[Any]], total: int, done: int = 0, spent: Spent = lambda asked, seconds: None) -> bool:
        """Run flows side by side, `done` of a `total` before them; False: stopped by a signal."""
        scheduler = Scheduler(
            self.cast.backends, self.config.engine.max_batch, self.hub.send, self.interrupts.stop, total, done, spent=spent
        )
        self.forget = scheduler.forget
        return scheduler.run(flows)

    def stopped(self) -> int:
        """The end of a run that a signal has stopped."""
        return stopped(self.hub, self.interrupts, self.store)

    def finished(self, summary: dict[str, Any]) -> int:
        """The end of a run that has gone through all of its work."""
        return finished(self.hub, self.store, summary)
