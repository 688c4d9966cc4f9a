"""A lane of requests that run elsewhere: they begin when they are added, and come back in whatever order they are done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any

from expertchat.backends.served.client import start

SLICE = 0.05  # seconds that an advance waits at most for something to be done
OnText = Callable[[str], None]


class ServedLane:
    """`work(request, on_text)` is what is done with each. `wake` is set when anything on the same device is done."""

    continuous = True

    def __init__(self, work: Callable[[Any, OnText | None], Coroutine[Any, Any, Any]], wake: threading.Event) -> None:
        self._work, self._wake, self._tickets = work, wake, 0
        self._running: dict[int, Future[Any]] = {}
        self._done: SimpleQueue[int] = SimpleQueue()

    @property
    def load(self) -> int:
        return len(self._running)

    @property
    def ready(self) -> bool:
        return not self._done.empty()

    def add(self, request: Any, on_text: OnText | None = None) -> int:
        self._tickets += 1
        ticket = self._tickets
        self._running[ticket] = future = start(self._work(request, on_text))
        future.add_done_callback(lambda _: self._tell(ticket))
        return ticket

    def _tell(self, ticket: int) -> None:
        self._done.put(ticket)
        self._wake.set()

    def advance(self) -> list[tuple[int, Any]]:
        """Those that are done. Raises what one of them raised."""
        if not self.ready:
            self._wake.wait(SLICE)
        self._wake.clear()
        found: list[tuple[int, Any]] = []
        while True:
            try:
                ticket = self._done.get_nowait()
            except Empty:
                return found
            found.append((ticket, self._running.pop(ticket).result()))

    def close(self) -> None:
        for future in self._running.values():
            future.cancel()
        self._running.clear()
