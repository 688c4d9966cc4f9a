"""Where requests wait: a stand for each backend and kind of request, and for decodings that cannot share a batch, with its lane."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

from expertchat.backends.asking import Ask, Flow
from expertchat.backends.base import Backend, Embedder, GenerateRequest, Request, Result, ScoreRequest, Valuer, ValueRequest
from expertchat.backends.lanes import BatchLane

Serves = Backend | Embedder | Valuer
OnRow = Callable[[str], None]


@dataclass(eq=False)
class Running:
    """A flow that waits for `missing` results. A fork's own result belongs into a `slot` of the flow `above` it."""

    flow: Flow[Any]
    above: Running | None = None
    slot: int = 0
    results: list[Any] | None = None  # None: it has not begun
    missing: int = 0
    forks: list[Running] = field(default_factory=list)

    def close(self) -> None:
        for fork in self.forks:
            fork.close()
        self.flow.close()


class Waiting(NamedTuple):
    """What a flow asked, where its result belongs, and when it was asked."""

    ask: Ask
    running: Running
    slot: int
    asked: float = 0.0

    @property
    def label(self) -> str:
        return self.ask.label or self.ask.who


Does = Literal["generate", "score", "embed", "value"]


class Kind(NamedTuple):
    """What may share a batch: requests of one kind to one backend, whose decodings are `alike` to it."""

    backend: int
    does: Does
    alike: Hashable


@dataclass
class Stand:
    """A lane with those who wait for it. `load` counts the requests that wait or run; only the main thread changes it."""

    does: Does
    open: Callable[[], Any]
    device: str
    rows: Callable[[], int]
    apart: bool = False
    load: int = 0
    passed: int = 0  # advances of other lanes since its own last one, while it had something to do
    since: float = 0.0  # when it last ran, or was asked for something while it had nothing to do
    new: list[Waiting] = field(default_factory=list)
    inside: dict[int, Waiting] = field(default_factory=dict)  # by ticket
    lane: Any = None

    def join(self, waiting: Waiting) -> None:
        """Wait for the lane's next advance."""
        if not self.load:
            self.since = waiting.asked
        self.new.append(waiting)
        self.load += 1

    def take_new(self) -> list[Waiting]:
        """Those who came since the last advance."""
        new, self.new = self.new, []
        return new

    def fullness(self) -> tuple[int, int]:
        return min(self.load, self.rows()), self.load

    @property
    def eager(self) -> bool:
        """Whether it gains nothing by waiting: requests that run elsewhere may begin, or are done."""
        return self.apart and (bool(self.new) or (self.lane is not None and self.lane.ready))

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
            return Kind(id(backend), "generate", backend.alike(decoding) if isinstance(backend, Backend) else decoding)
        case ScoreRequest():
            return Kind(id(backend), "score", None)
        case ValueRequest():
            return Kind(id(backend), "value", None)
        case _:
            return Kind(id(backend), "embed", None)


def stand_for(ask: Ask, backend: Any, rows: Callable[[], int]) -> Stand:
    """An empty stand for what is like `ask`; its lane is the backend's own where it has any, else whole batches of `rows()` at most."""
    does, open_lane = kind_of(ask, backend).does, partial(_lane, ask.request, backend, rows)
    return Stand(does, open_lane, device_of(backend), rows, backend.capabilities.apart)


def device_of(backend: Serves) -> str:
    """Where a backend computes; cuda and cuda:0 are one place."""
    return "cuda:0" if backend.device == "cuda" else backend.device


def _lane(request: Request, backend: Any, rows: Callable[[], int]) -> Any:
    if backend.capabilities.apart:
        return backend.lane_apart()
    if isinstance(request, GenerateRequest):
        return backend.lane(request.decoding) if backend.capabilities.lanes else BatchLane(backend.generate, rows)
    ask = backend.score if isinstance(request, ScoreRequest) else backend.value if isinstance(request, ValueRequest) else backend.embed
    return BatchLane(lambda requests, on_text: ask(requests), rows)
