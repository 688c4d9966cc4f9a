"""Many conversations at once: each is a generator that asks, the scheduler answers in full batches.

A flow yields a list of `Ask` and is sent the list of their results, in the same order. Requests of all running flows stand in
lanes, one for each backend, kind and decoding; the lane that fills a batch best runs next. A flow goes on as soon as its results
are there, and its next requests join the running batches. On one device the order is the same in every run; lanes of different
devices run side by side. Since noise is keyed by request, texts do not depend on what else is in a batch.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from expertchat.backends.asking import Ask, Flow, Place
from expertchat.backends.base import Completion, GenerateRequest, Result, ScoreRequest
from expertchat.backends.lanes import BatchLane, Workers
from expertchat.events import Announce, Progress, TextStreamed
from expertchat.text.sentences import clean
from expertchat.text.thinking import so_far

OnRow = Callable[[str], None]
STREAM_SECONDS = 0.1  # a turn's text is announced at most this often
PROGRESS_SECONDS = 0.25
PATIENCE = 40  # advances of other lanes (of a quarter of a second at most) that a request waits for its own
ROWS = 64  # of a batch, where neither the config nor the backend says


@dataclass
class _Running:
    """A flow that waits for `missing` results."""

    flow: Flow[Any]
    results: list[Result | None] = field(default_factory=list)
    missing: int = 0


class _Waiting(NamedTuple):
    ask: Ask
    running: _Running
    slot: int  # where its result belongs

    @property
    def label(self) -> str:
        return self.ask.label or self.ask.who


class _Kind(NamedTuple):
    """What may share a batch. Requests that decode differently do not, so that a rating never waits for a long reply."""

    backend: int
    kind: str
    decoding: object


@dataclass
class _Stand:
    """A lane with those who wait for it. `load` counts the requests that wait or run; only the main thread changes it."""

    open: Callable[[], Any]
    device: str
    rows: Callable[[], int]
    load: int = 0
    passed: int = 0  # advances of other lanes since its own last one, while it had something to do
    new: list[_Waiting] = field(default_factory=list)
    inside: dict[int, _Waiting] = field(default_factory=dict)  # by ticket
    lane: Any = None

    @property
    def continuous(self) -> bool:
        """Whether requests may join while others run."""
        return not isinstance(self.lane, BatchLane)

    def fullness(self) -> tuple[int, int]:
        return min(self.load, self.rows()), self.load

    def advance(self, new: Sequence[_Waiting], on_text: Callable[[_Waiting], OnRow | None]) -> list[tuple[_Waiting, Result]]:
        """Let the new ones in and run the lane for a while; those that are done."""
        if self.lane is None:
            self.lane = self.open()
        for one in new:
            self.inside[self.lane.add(one.ask.request, on_text(one))] = one
        return [(self.inside.pop(ticket), result) for ticket, result in self.lane.advance()]


@dataclass
class Scheduler:
    """Runs flows through `backends` (name -> Backend or Embedder), at most `max_batch` requests in a batch (None: each backend's own).

    Backends with an attribute `device` compute there, the others on the cpu. `stop` is asked between the advances of the lanes.
    `finished` and `total` count flows for Progress; `finished` may begin above 0. `batches` counts advances.
    """

    backends: Mapping[str, Any]
    max_batch: int | None = None
    announce: Announce = lambda event: None
    stop: Callable[[], bool] = lambda: False
    total: int = 0
    finished: int = 0
    turns: int = 0
    tokens: int = 0
    batches: int = 0

    def __post_init__(self) -> None:
        self._stands: dict[_Kind, _Stand] = {}
        self._before: dict[str, list[Callable[[], None]]] = {}  # by device, what is to be done before its next advance
        self._open: Counter[str] = Counter()  # requests that wait or run, by label
        self._streamed: dict[Place, float] = {}
        self._live: dict[int, _Running] = {}
        self._last: dict[str, _Stand] = {}  # by device, the lane that ran there last
        self._all_started = False
        self._counted = True
        self._began = time.monotonic()
        self._last_progress = 0.0

    def run(self, flows: Iterable[Flow[Any]], width: int | None = None, counted: bool = True) -> bool:
        """Run all flows, `width` of them at a time (twice the largest batch if unset). False if `stop` said so before the end.

        `counted`: whether flows that end count as `finished`. Raises what a flow or a backend raises.
        """
        self._counted, self._all_started = counted, False
        workers = Workers(_device(backend) for backend in self.backends.values())
        try:
            return self._run(iter(flows), width or 2 * self._largest(), workers)
        finally:
            with ExitStack() as closing:  # last things first; and all of it, even if one fails
                for thing in (self._stands, self._before, self._open, self._live, self._last):
                    closing.callback(thing.clear)
                for stand in self._stands.values():
                    if stand.lane is not None:
                        closing.callback(stand.lane.close)
                for call in [call for calls in self._before.values() for call in calls]:
                    closing.callback(call)
                for running in reversed(self._live.values()):
                    closing.callback(running.flow.close)
                closing.callback(workers.close)

    def forget(self, key: str) -> None:
        """Let the backends free what they keep for requests whose key begins with `key`, as soon as they do not compute."""
        for backend in {id(backend): backend for backend in self.backends.values()}.values():
            if hasattr(backend, "forget"):
                self._before.setdefault(_device(backend), []).append(partial(backend.forget, key))

    def _run(self, coming: Iterator[Flow[Any]], width: int, workers: Workers) -> bool:
        while True:
            if self.stop():
                if not workers.busy:
                    return False
            else:
                while len(self._live) < width and (new := self._start(coming)) is not None:
                    self._live[id(new)] = new
                if not self._live:
                    self._progress(force=True)
                    return True
                for device in workers.devices:
                    if device not in workers.busy:
                        self._advance_on(device, workers)
            workers.wait()
            self._progress()

    def _start(self, coming: Iterator[Flow[Any]]) -> _Running | None:
        """The next flow that has something to ask; those that end at once are only counted."""
        for flow in coming:
            new = _Running(flow)
            if self._go_on(new):
                return new
        self._all_started = True
        return None

    def _go_on(self, running: _Running) -> bool:
        """Send a flow its results and queue what it asks next; False when it has ended."""
        results: list[Any] = running.results
        try:
            asks = running.flow.send(results) if results else next(running.flow)
            while not asks:
                asks = running.flow.send([])
        except StopIteration:
            self.finished += self._counted
            return False
        running.results, running.missing = [None] * len(asks), len(asks)
        for slot, ask in enumerate(asks):
            one, stand = _Waiting(ask, running, slot), self._stand(ask)
            stand.new.append(one)
            stand.load += 1
            self._open[one.label] += 1
        return True

    # -- lanes ------------------------------------------------------------------------------------------------------

    def _stand(self, ask: Ask) -> _Stand:
        backend = self.backends[ask.who]
        match ask.request:
            case GenerateRequest(decoding=decoding):
                key = _Kind(id(backend), "generate", decoding)
            case ScoreRequest():
                key = _Kind(id(backend), "score", None)
            case _:
                key = _Kind(id(backend), "embed", None)
        if key not in self._stands:
            rows = partial(self._rows, backend)
            self._stands[key] = _Stand(partial(_lane, backend, key, rows), _device(backend), rows)
        return self._stands[key]

    def _rows(self, backend: Any) -> int:
        """What a batch holds at most. A backend may lower its own limit at any time."""
        own = getattr(backend, "max_batch", None)
        return min((n for n in (own, self.max_batch) if n is not None), default=ROWS)

    def _largest(self) -> int:
        own = [self._rows(b) for b in self.backends.values() if getattr(b, "max_batch", None) is not None]
        return max(own, default=self.max_batch or ROWS)

    def _choose(self, device: str) -> _Stand | None:
        """The fullest lane of a device that has something to do.

        When no flow is left to start, nothing fills the batches up any more, and a lane that runs is run until it is empty: those that wait
        for the others' lane gather there, where by turns both lanes would run half full to the end.
        """
        stands = [stand for stand in self._stands.values() if stand.load and stand.device == device]
        if late := [stand for stand in stands if stand.passed >= PATIENCE]:  # else WIM responses are embedded, and written, at the very end
            return max(late, key=lambda stand: stand.passed)
        if self._all_started and any(stand is self._last.get(device) and stand.continuous for stand in stands):
            return self._last[device]
        # max() takes the first of equals, and dicts keep their order, so the choice is the same in every run.
        return max(stands, key=_Stand.fullness, default=None)

    def _advance_on(self, device: str, workers: Workers) -> None:
        """Let an idle device work, if there is anything to do."""
        stand = self._choose(device)
        if stand is None:
            return
        self._last[device] = stand
        for other in self._stands.values():
            if other.device == device:
                other.passed = other.passed + 1 if other.load and other is not stand else 0
        before, new, stand.new = self._before.pop(device, []), stand.new, []

        def on_text(one: _Waiting) -> OnRow | None:
            place = one.ask.place
            inside = self._opens_thinking(one.ask)
            return None if place is None else lambda text: workers.hand_over(lambda: self._stream(place, text, inside))

        def work() -> list[tuple[_Waiting, Result]]:
            for call in before:
                call()
            return stand.advance(new, on_text)

        self.batches += 1
        workers.submit(device, work, partial(self._deliver, stand))

    def _deliver(self, stand: _Stand, done: Sequence[tuple[_Waiting, Result]]) -> None:
        """Enter results; the flows that have all of theirs go on at once."""
        ready = []
        for one, result in done:
            stand.load -= 1
            self._open[one.label] -= 1
            self._count(one.ask, result)
            if one.ask.told is not None:
                one.ask.told(result)
            one.running.results[one.slot] = result
            one.running.missing -= 1
            if not one.running.missing:
                ready.append(one.running)
        for running in ready:
            if not self._go_on(running):
                del self._live[id(running)]

    # -- announcements ----------------------------------------------------------------------------------------------

    def _opens_thinking(self, ask: Ask) -> bool:
        """Whether what is written begins inside a thinking block."""
        info = getattr(self.backends[ask.who], "info", None)
        return getattr(info, "opens_thinking", False) and not getattr(ask.request, "prefix", "")

    def _stream(self, place: Place, text: str, inside: bool = False) -> None:
        """Announce the text so far of a turn that began `inside` a thinking block, or not."""
        now = time.monotonic()
        if now - self._streamed.get(place, 0.0) >= STREAM_SECONDS:
            self._streamed[place] = now
            found = so_far(text, inside)
            said, thought = clean(found.said).lstrip(), clean(found.thinking)
            self.announce(
                TextStreamed(conversation=place.conversation, turn=place.turn, speaker=place.speaker, text=said, thinking=thought)
            )
        self._progress()

    def _count(self, ask: Ask, result: Result) -> None:
        if isinstance(result, Completion):
            self.tokens += result.tokens
        if ask.place is not None:
            self.turns += 1
            self._streamed.pop(ask.place, None)

    def _progress(self, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self._last_progress < PROGRESS_SECONDS:
            return
        self._last_progress = now
        self.announce(
            Progress(
                finished=self.finished,
                total=self.total,
                turns=self.turns,
                tokens=self.tokens,
                seconds=now - self._began,
                waiting=dict(+self._open),
            )
        )


def _device(backend: Any) -> str:
    """Where a backend computes; cuda and cuda:0 are one place."""
    device = str(getattr(backend, "device", None) or "cpu")
    return "cuda:0" if device == "cuda" else device


def _lane(backend: Any, key: _Kind, rows: Callable[[], int]) -> Any:
    """The backend's own lane for generate requests, if it has any; else whole batches."""
    if key.kind == "generate":
        return backend.lane(key.decoding) if hasattr(backend, "lane") else BatchLane(backend.generate, rows)
    ask = backend.score if key.kind == "score" else backend.embed
    return BatchLane(lambda requests, on_text: ask(requests), rows)
