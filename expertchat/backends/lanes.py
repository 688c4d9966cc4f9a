"""Batches for backends that only run whole ones, and a thread for each device where there are several."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, TypeVar

from expertchat.backends.base import OnText, Request, Result

R = TypeVar("R", bound=Result)


class _Collected(NamedTuple):
    ticket: int
    request: Request
    on_text: Callable[[str], None] | None


class BatchLane(Generic[R]):
    """Collects requests and runs them with `run`, at most `rows()` at once: a Lane for what knows whole batches only.

    Takes requests of every kind that `run` takes. Raises RuntimeError where `run` gives too few or too many results.
    """

    continuous = False

    def __init__(self, run: Callable[[Sequence[Any], OnText | None], Sequence[R]], rows: Callable[[], int]) -> None:
        self._run, self._rows = run, rows
        self._collected: deque[_Collected] = deque()
        self._tickets = 0

    @property
    def load(self) -> int:
        return len(self._collected)

    def add(self, request: Request, on_text: Callable[[str], None] | None = None) -> int:
        self._tickets += 1
        self._collected.append(_Collected(self._tickets, request, on_text))
        return self._tickets

    def advance(self) -> list[tuple[int, R]]:
        """Run one batch to its end."""
        batch = [self._collected.popleft() for _ in range(min(len(self._collected), self._rows()))]
        if not batch:
            return []

        def tell(index: int, text: str) -> None:
            if (on_text := batch[index].on_text) is not None:
                on_text(text)

        results = self._run([waiting.request for waiting in batch], tell if any(waiting.on_text for waiting in batch) else None)
        if len(results) != len(batch):
            raise RuntimeError(f"a backend gave {len(results)} results for {len(batch)} requests")
        return [(waiting.ticket, result) for waiting, result in zip(batch, results, strict=True)]

    def close(self) -> None:
        self._collected.clear()


class Workers:
    """Runs the work of each device: in a thread of its own, or at once in the calling thread where there is only one device.

    What the work gives back, and what it tells on its way, is handed to the thread that made the workers, so that all else stays
    in one thread. An error in a worker is raised there too.
    """

    def __init__(self, devices: Iterable[str]) -> None:
        self.devices = sorted(set(devices))
        threaded = len(self.devices) > 1
        self._pools = {device: ThreadPoolExecutor(1, thread_name_prefix=device) for device in self.devices if threaded}
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._home = threading.get_ident()
        self.busy: set[str] = set()

    def submit(self, device: str, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Do `work` on an idle device, then call `then` with what it returned in the home thread."""
        if not self._pools:
            then(work())
            return
        self.busy.add(device)
        future = self._pools[device].submit(work)

        def deliver() -> None:
            self.busy.discard(device)
            then(future.result())

        future.add_done_callback(lambda _: self._inbox.put(deliver))

    def hand_over(self, call: Callable[[], None]) -> None:
        """Run `call` in the home thread: now, or as soon as that thread waits."""
        if threading.get_ident() == self._home:
            call()
        else:
            self._inbox.put(call)

    def wait(self) -> None:
        """Run what was handed over; blocks until there is something, if work is under way."""
        if self.busy:
            self._inbox.get()()
        while not self._inbox.empty():
            self._inbox.get()()

    def close(self) -> None:
        """Wait for the work under way; what it gives is dropped."""
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)
