"""A double whose lanes record which rows ran in each step, and flows that ask it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from expertchat.backends.asking import Ask, Flow, Place
from expertchat.backends.base import Capabilities, Completion, Decoding, GenerateRequest
from expertchat.records import Message
from tests.scripted import Double

LONG, SHORT = Decoding(max_new_tokens=100), Decoding(max_new_tokens=10)


def request(key: str, decoding: Decoding = LONG) -> GenerateRequest:
    return GenerateRequest(key, (Message("user", key),), decoding)


def talk(name: str, turns: int, out: dict[str, list[str]], who: tuple[str, ...] = ("a",)) -> Flow[None]:
    """`turns` requests, one after the other, to the backends `who` in turn."""
    for i in range(turns):
        (answer,) = yield [Ask(who[i % len(who)], request(f"{name}/{i}"))]
        assert isinstance(answer, Completion)
        out.setdefault(name, []).append(answer.text)


class Lane:
    """Rows that each need as many steps as their request has words; an advance ends at the first step that ends a row."""

    continuous = True

    def __init__(self, backend: LaneDouble, decoding: Decoding) -> None:
        self.backend, self.decoding, self.closed = backend, decoding, False
        self.rows: dict[int, list[Any]] = {}  # ticket -> [steps left, request, on_text]

    @property
    def load(self) -> int:
        return len(self.rows)

    def add(self, request: GenerateRequest, on_text: Callable[[str], None] | None = None) -> int:
        self.backend.tickets += 1
        self.rows[self.backend.tickets] = [len(request.messages[0].content.split()), request, on_text]
        return self.backend.tickets

    def advance(self) -> list[tuple[int, Completion]]:
        self.backend.work()
        done: list[tuple[int, Completion]] = []
        while not done:
            running = list(self.rows.items())[: self.backend.max_batch]
            self.backend.steps.append([row[1].key for _, row in running])
            for ticket, row in running:
                row[0] -= 1
                if row[2] is not None:
                    row[2](f"{row[1].key} so far")
                if not row[0]:
                    done.append((ticket, Completion(row[1].key.upper(), 1, 0.0, "stop")))
                    del self.rows[ticket]
        return done

    def close(self) -> None:
        self.closed = True


class LaneDouble(Double):
    """A backend whose lanes record which rows ran in each step, and the threads in which they did."""

    capabilities = Capabilities(lanes=True, keeps=True)
    device: str = "cpu"
    max_batch: int = 2

    def __init__(self, max_batch: int = 2, device: str = "cpu", work: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.max_batch, self.device, self._work = max_batch, device, work
        self.steps: list[list[str]] = []
        self.lanes: list[Lane] = []
        self.threads: set[int] = set()
        self.forgotten: list[str] = []
        self.tickets = 0
        self.computing = False

    def lane(self, decoding: Decoding) -> Lane:
        self.lanes.append(Lane(self, decoding))
        return self.lanes[-1]

    def work(self) -> None:
        self.threads.add(threading.get_ident())
        self.computing = True
        self._work()
        self.computing = False

    def forget(self, key: str) -> None:
        assert not self.computing
        self.forgotten.append(key)


def steps(name: str, lengths: Sequence[int], who: str = "a", decoding: Decoding = LONG, place: Place | None = None) -> Flow[None]:
    """One request after the other, which need these numbers of steps; `who` gives the backend of each in turn."""
    for i, length in enumerate(lengths):
        request = GenerateRequest(f"{name}{i}", (Message("user", "x " * length),), decoding)
        yield [Ask(who[i % len(who)], request, label=name, place=place)]
