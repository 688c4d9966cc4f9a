"""Where requests wait: a stand for each backend, kind of request and decoding, with the lane that serves it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from expertchat.backends.asking import Ask, Flow
from expertchat.backends.base import Backend, Decoding, Embedder, GenerateRequest, Result, ScoreRequest
from expertchat.backends.lanes import BatchLane

Serves = Backend | Embedder
OnRow = Callable[[str], None]


@dataclass
class Running:
    """A flow that waits for `missing` results."""

    flow: Flow[Any]
    results: list[Result | None] = field(default_factory=list)
    missing: int = 0


class Waiting(NamedTuple):
    """What a flow asked, and where its result belongs."""

    ask: Ask
    running: Running
    slot: int

    @property
    def label(self) -> str:
        return self.ask.label or self.ask.who


class Kind(NamedTuple):
    """What may share a batch. Requests that decode differently do not, so that a rating never waits for a long reply."""

    backend: int
    kind: str
    decoding: Decoding | None


@dataclass
class Stand:
    """A lane with those who wait for it. `load` counts the requests that wait or run; only the main thread changes it."""

    open: Callable[[], Any]
    device: str
    rows: Callable[[], int]
    load: int = 0
    passed: int = 0  # advances of other lanes since its own last one, while it had something to do
    new: list[Waiting] = field(default_factory=list)
    inside: dict[int, Waiting] = field(default_factory=dict)  # by ticket
    lane: Any = None

    def join(self, waiting: Waiting) -> None:
        """Wait for the lane's next advance."""
        self.new.append(waiting)
        self.load += 1

    def take_new(self) -> list[Waiting]:
        """Those who came since the last advance."""
        new, self.new = self.new, []
        return new

    def fullness(self) -> tuple[int, int]:
        return min(self.load, self.rows()), self.load

    @property
    def continuous(self) -> bool:
        """Whether requests may join while others run."""
        return bool(self.lane.continuous)

    def advance(self, new: Sequence[Waiting], on_text: Callable[[Waiting], OnRow | None]) -> list[tuple[Waiting, Result]]:
        """Let the new ones in and run the lane for a while; those that are done."""
        if self.lane is None:
            self.lane = self.open()
        for waiting in new:
            self.inside[self.lane.add(waiting.ask.request, on_text(waiting))] = waiting
        return [(self.inside.pop(ticket), result) for ticket, result in self.lane.advance()]


def kind_of(ask: Ask, backend: Serves) -> Kind:
    """What may share a batch with this request."""
    match ask.request:
        case GenerateRequest(decoding=decoding):
            return Kind(id(backend), "generate", decoding)
        case ScoreRequest():
            return Kind(id(backend), "score", None)
        case _:
            return Kind(id(backend), "embed", None)


def stand_for(kind: Kind, backend: Any, rows: Callable[[], int]) -> Stand:
    """An empty stand; its lane is the backend's own where it has any for this kind, else whole batches of `rows()` at most."""
    return Stand(partial(_lane, kind, backend, rows), device_of(backend), rows)


def device_of(backend: Serves) -> str:
    """Where a backend computes; cuda and cuda:0 are one place."""
    return "cuda:0" if backend.device == "cuda" else backend.device


def _lane(kind: Kind, backend: Any, rows: Callable[[], int]) -> Any:
    if kind.kind == "generate":
        return backend.lane(kind.decoding) if backend.capabilities.lanes else BatchLane(backend.generate, rows)
    ask = backend.score if kind.kind == "score" else backend.embed
    return BatchLane(lambda requests, on_text: ask(requests), rows)
