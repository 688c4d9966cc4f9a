"""What a flow asks: a generator that yields a list of `Ask` and is sent the list of their results, in the same order."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from expertchat.backends.base import Request, Result
from expertchat.records import Speaker

T = TypeVar("T")


class Place(NamedTuple):
    """The turn that a request writes; its text is streamed."""

    conversation: str
    turn: int
    speaker: Speaker


@dataclass(frozen=True)
class Ask:
    """One request to the backend named `who`. `label` is how waiting requests are counted in Progress.

    `told` hears of the result as soon as it is there; the flow goes on when all that it asked for is.
    """

    who: str
    request: Request
    label: str = ""
    place: Place | None = None
    told: Callable[[Result], None] | None = None


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
