"""How many requests a server bears at once, found by asking: doubled until it says 429, a fifth less at every such episode. And which:
where it mixes up what it computes at once, those of one kind at a time."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

FIRST, MOST = 20, 640
REST = 15.0  # seconds in which one 429 after another is one episode, and after which the level may rise again
LESS = 0.8
MORE = 1.1  # where it has been too high once


@dataclass
class Level:
    """The level by itself. `most` is never passed; a server error is no reason to lower it, only a 429 is."""

    most: int = MOST
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.limit = min(FIRST, self.most)
        self.resumes = 0.0  # when the next request may go out
        self._doubles = True
        self._episode = -REST
        self._full = 0  # answers in a row while as many were out as there may be

    def answered(self, out: int) -> None:
        """A request was answered while `out` of them were out."""
        self._full = self._full + 1 if out >= self.limit else 0
        if self._full >= self.limit and self.limit < self.most and (self._doubles or self.clock() - self._episode >= REST):
            self.limit = min(self.most, self.limit * 2 if self._doubles else max(self.limit + 1, int(self.limit * MORE)))
            self._full = 0

    def too_many(self, wait: float | None) -> None:
        """The server has said 429, and to come again after `wait` seconds."""
        now, self._doubles, self._full = self.clock(), False, 0
        if now - self._episode >= REST:
            self._episode, self.limit = now, max(1, int(self.limit * LESS))
        self.resumes = max(self.resumes, now + (wait or 0.0))


class Gate:
    """Lets requests of one event loop out, as many at once as the level allows, the first who came first."""

    def __init__(self, level: Level) -> None:
        self.level, self.out = level, 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Wait for one's turn."""
        if self._waiting or self.out >= self.level.limit:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await _comes(turn, self.leave)
        else:
            self.out += 1
        try:
            while (pause := self.level.resumes - self.level.clock()) > 0:
                await asyncio.sleep(pause)
        except asyncio.CancelledError:
            self.leave()
            raise

    def leave(self) -> None:
        """A request is back; whose turn it is now has its place already."""
        self.out -= 1
        while self._waiting and self.out < self.level.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self.out += 1
                turn.set_result(None)


class Turns:
    """Lets requests of one event loop out, those of one kind at a time: when the last one is back, the kind that waits longest is next."""

    def __init__(self) -> None:
        self.kind, self.out = "", 0
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()

    async def enter(self, kind: str) -> None:
        """Wait for the turn of a kind."""
        if self.out and (kind != self.kind or self._waiting):
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((kind, turn))
            await _comes(turn, self.leave)
        else:
            self.kind, self.out = kind, self.out + 1

    def leave(self) -> None:
        """A request is back."""
        self.out -= 1
        waiting = [(kind, turn) for kind, turn in self._waiting if not turn.done()]
        if self.out or not waiting:
            return
        self.kind = waiting[0][0]
        self._waiting = deque((kind, turn) for kind, turn in waiting if kind != self.kind)
        for turn in [turn for kind, turn in waiting if kind == self.kind]:
            self.out += 1
            turn.set_result(None)


async def _comes(turn: asyncio.Future[None], leave: Callable[[], None]) -> None:
    """Wait for a turn. Who is cancelled when it has just come hands it on by `leave`."""
    try:
        await turn
    except asyncio.CancelledError:
        if turn.done() and not turn.cancelled():
            leave()
        raise
