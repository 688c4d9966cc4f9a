"""Many conversations at once: each is a generator that asks, the scheduler answers in full batches.

A flow yields a list of `Ask` and is sent the list of their results, in the same order. Requests of all running flows wait in
queues, one for each backend, kind and decoding; the queue that fills a batch best runs next. The order is the same in every run,
and since noise is keyed by request, texts do not depend on what else is in a batch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from expertchat.backends.base import Completion, EmbedRequest, GenerateRequest, Request, Result, ScoreRequest
from expertchat.events import AnyEvent, Progress, TextStreamed
from expertchat.records import Speaker
from expertchat.text import clean

T = TypeVar("T")
Announce = Callable[[AnyEvent], None]
STREAM_SECONDS = 0.1  # a turn's text is announced at most this often
PROGRESS_SECONDS = 0.25


class Place(NamedTuple):
    """The turn that a request writes; its text is streamed."""

    conversation: str
    turn: int
    speaker: Speaker


@dataclass(frozen=True)
class Ask:
    """One request to the backend named `who`. `label` is how waiting requests are counted in Progress."""

    who: str
    request: Request
    label: str = ""
    place: Place | None = None


Flow = Generator[list[Ask], list[Result], T]


def together(flows: Sequence[Flow[T]]) -> Flow[list[T]]:
    """Several flows as one, side by side; returns what they return, in their order."""
    done: dict[int, T] = {}
    asks: dict[int, list[Ask]] = {}
    answers: dict[int, list[Result]] = {}
    while True:
        for i, flow in enumerate(flows):
            if i in done:
                continue
            try:
                asks[i] = flow.send(answers[i]) if i in answers else next(flow)
            except StopIteration as stop:
                done[i] = stop.value
                asks.pop(i, None)
        if not asks:
            return [done[i] for i in range(len(flows))]
        results = iter((yield [ask for i in sorted(asks) for ask in asks[i]]))
        answers = {i: [next(results) for _ in asks[i]] for i in sorted(asks)}


@dataclass
class _Running:
    """A flow that waits for `missing` results."""

    flow: Flow[Any]
    results: list[Result | None] = field(default_factory=list)
    missing: int = 0


@dataclass
class _Waiting:
    ask: Ask
    running: _Running
    index: int


class _Queue(NamedTuple):
    """What may share a batch. Requests that decode differently do not, so that a rating never waits for a long reply."""

    backend: int
    kind: str
    decoding: object


@dataclass
class Scheduler:
    """Runs flows through `backends` (name -> Backend or Embedder), at most `max_batch` requests in a batch.

    `stop` is asked between batches. `finished` and `total` count flows for Progress; `finished` may begin above 0.
    """

    backends: Mapping[str, Any]
    max_batch: int
    announce: Announce = lambda event: None
    stop: Callable[[], bool] = lambda: False
    total: int = 0
    finished: int = 0
    turns: int = 0
    tokens: int = 0
    batches: int = 0

    def __post_init__(self) -> None:
        self._queues: dict[_Queue, deque[_Waiting]] = {}
        self._streamed: dict[Place, float] = {}
        self._counted = True
        self._began = time.monotonic()
        self._last_progress = 0.0

    def run(self, flows: Iterable[Flow[Any]], width: int | None = None, counted: bool = True) -> bool:
        """Run all flows, `width` of them at a time (twice max_batch if unset). False if `stop` said so before the end.

        `counted`: whether flows that end count as `finished`.
        """
        self._counted = counted
        coming = iter(flows)
        width = width or 2 * self.max_batch
        live: dict[int, _Running] = {}
        try:
            while not self.stop():
                while len(live) < width and (new := self._start(coming)) is not None:
                    live[id(new)] = new
                if not live:
                    self._progress(force=True)
                    return True
                for ended in self._run_batch():
                    del live[id(ended)]
                self._progress()
            return False
        finally:
            for left in live.values():
                left.flow.close()
            self._queues.clear()

    def _start(self, coming: Iterator[Flow[Any]]) -> _Running | None:
        """The next flow that has something to ask; those that end at once are only counted."""
        for flow in coming:
            new = _Running(flow)
            if self._advance(new):
                return new
        return None

    def _advance(self, running: _Running) -> bool:
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
        for index, ask in enumerate(asks):
            self._queues.setdefault(self._queue(ask), deque()).append(_Waiting(ask, running, index))
        return True

    def _queue(self, ask: Ask) -> _Queue:
        backend = id(self.backends[ask.who])
        match ask.request:
            case GenerateRequest(decoding=decoding):
                return _Queue(backend, "generate", decoding)
            case ScoreRequest():
                return _Queue(backend, "score", None)
            case EmbedRequest():
                return _Queue(backend, "embed", None)

    def _run_batch(self) -> list[_Running]:
        """Run the fullest batch; returns the flows that ended by it."""
        queues = [q for q, waiting in self._queues.items() if waiting]
        # max() takes the first of equals, and dicts keep their order, so the choice is the same in every run.
        queue = max(queues, key=lambda q: (min(len(self._queues[q]), self.max_batch), len(self._queues[q])))
        waiting = self._queues[queue]
        batch = [waiting.popleft() for _ in range(min(len(waiting), self.max_batch))]
        results = self._ask(queue.kind, batch)
        if len(results) != len(batch):
            raise RuntimeError(f"backend {batch[0].ask.who!r} gave {len(results)} results for {len(batch)} requests")
        self.batches += 1
        ready = []
        for one, result in zip(batch, results, strict=True):
            self._count(one.ask, result)
            one.running.results[one.index] = result
            one.running.missing -= 1
            if not one.running.missing:
                ready.append(one.running)
        return [running for running in ready if not self._advance(running)]

    def _ask(self, kind: str, batch: Sequence[_Waiting]) -> Sequence[Result]:
        backend: Any = self.backends[batch[0].ask.who]
        requests: list[Any] = [one.ask.request for one in batch]
        if kind == "score":
            return list(backend.score(requests))
        if kind == "embed":
            return list(backend.embed(requests))
        places = [one.ask.place for one in batch]
        if not any(places):
            return list(backend.generate(requests, None))
        return list(backend.generate(requests, lambda index, text: self._stream(places[index], text)))

    def _stream(self, place: Place | None, text: str) -> None:
        now = time.monotonic()
        if place is not None and now - self._streamed.get(place, 0.0) >= STREAM_SECONDS:
            self._streamed[place] = now
            self.announce(TextStreamed(conversation=place.conversation, turn=place.turn, speaker=place.speaker, text=clean(text)))
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
        waiting: dict[str, int] = {}
        for queue in self._queues.values():
            for one in queue:
                label = one.ask.label or one.ask.who
                waiting[label] = waiting.get(label, 0) + 1
        self.announce(
            Progress(
                finished=self.finished,
                total=self.total,
                turns=self.turns,
                tokens=self.tokens,
                seconds=now - self._began,
                waiting=waiting,
            )
        )
