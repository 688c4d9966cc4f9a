"""Many conversations at once: each is a generator that asks, the scheduler answers in full batches.

A flow yields a list of `Ask` and is sent the list of their results, in the same order. Requests of all running flows stand in
lanes, one for each backend and kind of request; the lane that fills a batch best runs next, and none waits long: what is scored or
embedded in one pass not for the replies that others write. A flow goes on as soon as its results are there, and its next requests
join the running batches. Lanes of different devices run side by side. Since noise is keyed by request, texts do not depend on the
order, nor on what else is in a batch.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from expertchat.backends import threads
from expertchat.backends.asking import Ask, Flow, Fork, Place
from expertchat.backends.base import Completion, GenerateRequest, Result
from expertchat.backends.lanes import Workers
from expertchat.events import Announce, Progress, TextStreamed
from expertchat.talk.stands import Does, Kind, OnRow, Running, Serves, Stand, Waiting, device_of, kind_of, stand_for
from expertchat.text.sentences import clean
from expertchat.text.thinking import so_far

STREAM_SECONDS = 0.1  # a turn's text is announced at most this often
PROGRESS_SECONDS = 0.25
PATIENCE = 40  # advances of other lanes that a request waits for one of its own
WAIT: dict[Does, float] = {"score": 0.5, "embed": 0.5, "value": 0.5, "generate": 20.0}  # seconds that it waits at most, after what runs
ROWS = 64  # of a batch, where neither the config nor the backend says
Spent = Callable[[Sequence[Ask], float], None]


@dataclass
class Scheduler:
    """Runs flows through `backends` by name, at most `max_batch` requests in a batch (None: each backend's own).

    `stop` is asked between the advances of the lanes. `finished` and `total` count flows for Progress; `finished` may begin above 0.
    `batches` counts advances; `longest` is the longest time from a request to its result, by kind, by `clock`. `spent` is told of each
    advance: what was asked of its lane, and the seconds that it took.
    """

    backends: Mapping[str, Serves]
    max_batch: int | None = None
    announce: Announce = lambda event: None
    stop: Callable[[], bool] = lambda: False
    total: int = 0
    finished: int = 0
    turns: int = 0
    tokens: int = 0
    batches: int = 0
    clock: Callable[[], float] = time.monotonic
    longest: dict[Does, float] = field(default_factory=dict)
    spent: Spent = lambda asked, seconds: None

    def __post_init__(self) -> None:
        self._stands: dict[Kind, Stand] = {}
        self._before: dict[str, list[Callable[[], None]]] = {}  # by device, what is to be done before its next advance
        self._open: Counter[str] = Counter()  # requests that wait or run, by label
        self._streamed: dict[Place, float] = {}
        self._live: dict[int, Running] = {}
        self._last: dict[str, Stand] = {}  # by device, the lane of replies that ran there last
        self._all_started = False
        self._counted = True
        self._began = time.monotonic()
        self._last_progress = 0.0

    def run(self, flows: Iterable[Flow[Any]], width: int | None = None, counted: bool = True) -> bool:
        """Run all flows, `width` of them at a time (twice the largest batch if unset). False if `stop` said so before the end.

        `counted`: whether flows that end count as `finished`. Raises what a flow or a backend raises.
        """
        self._counted, self._all_started = counted, False
        workers = Workers(device_of(backend) for backend in self.backends.values())
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
                    closing.callback(running.close)
                closing.callback(workers.close)

    def forget(self, key: str) -> None:
        """Let the backends free what they keep for requests whose key begins with `key`, as soon as they do not compute."""
        for backend in {id(backend): backend for backend in self.backends.values()}.values():
            if backend.capabilities.keeps:
                self._before.setdefault(device_of(backend), []).append(partial(backend.forget, key))

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

    def _start(self, coming: Iterator[Flow[Any]]) -> Running | None:
        """The next flow that has something to ask; those that end at once are only counted."""
        for flow in coming:
            new = Running(flow)
            if self._go_on(new):
                return new
        self._all_started = True
        return None

    def _go_on(self, running: Running) -> bool:
        """Send a flow its results and queue what it asks next, until some are missing; False when it has ended."""
        while not running.missing:
            try:
                asks = next(running.flow) if running.results is None else running.flow.send(running.results)
            except StopIteration as stop:
                self._end(running, stop.value)
                return False
            running.results, running.missing = [None] * len(asks), len(asks)
            for slot, ask in enumerate(asks):
                if isinstance(ask, Fork):
                    fork = Running(ask.flow, running, slot)
                    running.forks.append(fork)
                    self._go_on(fork)
                else:
                    self._queue(Waiting(ask, running, slot, self.clock()))
        return True

    def _end(self, running: Running, value: Any) -> None:
        """A flow has ended: what it returns goes to the flow that it is a fork of."""
        above = running.above
        if above is None:
            self.finished += self._counted
            return
        assert above.results is not None
        above.forks.remove(running)
        above.results[running.slot] = value
        above.missing -= 1

    def _queue(self, waiting: Waiting) -> None:
        self._stand(waiting.ask).join(waiting)
        self._open[waiting.label] += 1

    # -- lanes ------------------------------------------------------------------------------------------------------

    def _stand(self, ask: Ask) -> Stand:
        backend = self.backends[ask.who]
        kind = kind_of(ask, backend)
        if kind not in self._stands:
            self._stands[kind] = stand_for(ask, backend, partial(self._rows, backend))
        return self._stands[kind]

    def _rows(self, backend: Serves) -> int:
        """What a batch holds at most. A backend may lower its own limit at any time."""
        return min((n for n in (backend.max_batch, self.max_batch) if n is not None), default=ROWS)

    def _largest(self) -> int:
        own = [self._rows(backend) for backend in self.backends.values() if backend.max_batch is not None]
        return max(own, default=self.max_batch or ROWS)

    def _choose(self, device: str) -> Stand | None:
        """The fullest lane of a device that has something to do, unless one has waited too long.

        When no flow is left to start, nothing fills the batches up any more, and a lane that runs is run until it is empty: those that wait
        for the others' lane gather there, where by turns both lanes would run half full to the end.
        """
        stands = [stand for stand in self._stands.values() if stand.load and stand.device == device]
        if eager := [stand for stand in stands if stand.eager]:
            return eager[0]
        now = self.clock()
        if late := [stand for stand in stands if stand.passed >= PATIENCE or (stand.passed and now - stand.since >= WAIT[stand.does])]:
            return max(late, key=lambda stand: now - stand.since)
        if self._all_started and any(stand is self._last.get(device) and stand.continuous for stand in stands):
            return self._last[device]
        # max() takes the first of equals, and dicts keep their order: but for the clock the choice is the same in every run.
        return max(stands, key=Stand.fullness, default=None)

    def _advance_on(self, device: str, workers: Workers) -> None:
        """Let an idle device work, if there is anything to do."""
        stand = self._choose(device)
        if stand is None:
            return
        if stand.does == "generate":
            self._last[device] = stand
        stand.since = self.clock()
        for other in self._stands.values():
            if other.device == device:
                other.passed = other.passed + 1 if other.load and other is not stand else 0
        before, new = self._before.pop(device, []), stand.take_new()

        def on_text(waiting: Waiting) -> OnRow | None:
            place, inside = waiting.ask.place, self._opens_thinking(waiting.ask)
            return None if place is None else lambda text: workers.hand_over(lambda: self._stream(place, text, inside))

        def work() -> list[tuple[Waiting, Result]]:
            threads.look()
            for call in before:
                call()
            began = time.monotonic()
            done = stand.advance(new, on_text)
            workers.hand_over(partial(self.spent, asked, time.monotonic() - began))
            return done

        self.batches += 1
        asked = [waiting.ask for waiting in (*stand.inside.values(), *new)]
        workers.submit(device, work, partial(self._deliver, stand))

    def _deliver(self, stand: Stand, done: Sequence[tuple[Waiting, Result]]) -> None:
        """Enter results; the flows that have all of theirs go on at once."""
        ready, now = [], self.clock()
        for waiting, result in done:
            ask, running = waiting.ask, waiting.running
            stand.load -= 1
            self.longest[stand.does] = max(self.longest.get(stand.does, 0.0), now - waiting.asked)
            self._open[waiting.label] -= 1
            self._count(ask, result)
            if ask.told is not None:
                ask.told(result)
            assert running.results is not None
            running.results[waiting.slot] = result
            running.missing -= 1
            if not running.missing:
                ready.append(running)
        for running in ready:
            self._resume(running)

    def _resume(self, running: Running) -> None:
        """Let a flow go on that has all of its results, and those above it that thereby have theirs."""
        while not self._go_on(running):
            if running.above is None:
                del self._live[id(running)]
                return
            running = running.above
            if running.missing:
                return

    # -- announcements ----------------------------------------------------------------------------------------------

    def _opens_thinking(self, ask: Ask) -> bool:
        """Whether what is written begins inside a thinking block."""
        backend: Any = self.backends[ask.who]
        return isinstance(ask.request, GenerateRequest) and backend.info.opens_thinking and not ask.request.prefix

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
