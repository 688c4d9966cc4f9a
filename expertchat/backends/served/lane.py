"""Requests that run elsewhere: they begin when they are added to a lane, and come back in whatever order they are done."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, wait
from queue import Empty, SimpleQueue
from typing import Any

from expertchat.backends.base import Computing, LaneApart
from expertchat.backends.served.client import Answered, Client, start
from expertchat.backends.served.reading import Usage
from expertchat.records import Message, Served

SLICE = 0.05  # seconds that an advance waits at most for something to be done
LINGER = 20.0  # seconds that the end of a run waits for what was sent: its answers are paid, and kept for the next start
OnText = Callable[[str], None]


class ServedLane:
    """`work(request, on_text)` is what is done with each, by `client`."""

    continuous = True

    def __init__(self, work: Callable[[Any, OnText | None], Coroutine[Any, Any, Any]], client: Client) -> None:
        self._work, self._client, self._tickets = work, client, 0
        client.leaving = False
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
        self._client.wake.set()

    def advance(self) -> list[tuple[int, Any]]:
        """Those that are done. Raises what one of them raised."""
        if not self.ready:
            self._client.wake.wait(SLICE)
        self._client.wake.clear()
        found: list[tuple[int, Any]] = []
        while True:
            try:
                ticket = self._done.get_nowait()
            except Empty:
                return found
            found.append((ticket, self._running.pop(ticket).result()))

    def close(self) -> None:
        """End what still runs: what is sent may come to its end, and is on the ledger then."""
        if self._running:
            self._client.leaving = True
            wait(self._running.values(), LINGER)
        for future in self._running.values():
            future.cancel()
        self._running.clear()


class Asked(Computing):
    """Whatever computes at an address: a model, an embedder, a reward model. It stands first among their bases.

    `name`: what the server calls it; `prices`: of a million tokens of prompts and answers.
    """

    client: Client
    name: str
    prices: Sequence[float] | None = None

    async def _answer(self, request: Any, on_text: OnText | None = None) -> Any:
        """The answer to one request. Raises Halted where nothing more can be asked."""
        raise NotImplementedError

    @property
    def device(self) -> str:
        return f"server {self.client.name}"

    def lane_apart(self) -> LaneApart:
        return ServedLane(self._answer, self.client)

    def _all(self, requests: Sequence[Any]) -> list[Any]:
        """The answers, in the order of the requests."""
        lane, found = ServedLane(self._answer, self.client), dict[int, Any]()
        try:
            tickets = [lane.add(request) for request in requests]
            while lane.load:
                found |= dict(lane.advance())
        finally:
            lane.close()
        return [found[ticket] for ticket in tickets]

    def _keep(self, name: str, key: str, answered: Answered[Any], usage: Usage, sent: int, **said: Any) -> Served:
        """Write an answer on the ledger, under the digest of what was asked, before anybody hears of it. `sent`: bytes of what that was."""
        got = len(str(said.get("text") or "").encode())
        record = Served(
            id=name, key=key, model=self.name, server=answered.server, tries=answered.tries, seconds=round(answered.seconds, 4),
            prompt_tokens=usage.prompt, completion_tokens=usage.completion, cost=usage.costs(self.prices, sent, got), **said,
        )  # fmt: skip
        self.client.terms.ledger.keep(record)
        return record


def bytes_of(*messages: Message) -> int:
    """What the texts of messages take as UTF-8."""
    return sum(len(message.content.encode("utf-8", "replace")) for message in messages)
