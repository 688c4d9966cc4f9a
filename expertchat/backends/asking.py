"""What a flow asks: a generator that yields a list of `Ask` or `Fork` and is sent the list of their results, in the same order."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

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


@dataclass(frozen=True)
class Fork:
    """A flow that goes on by itself, whatever the others that were asked for with it wait for; its result is what it returns."""

    flow: Flow[Any]


Flow = Generator[Sequence[Ask | Fork], list[Result], T]


def together(flows: Sequence[Flow[T]]) -> Flow[list[T]]:
    """Several flows side by side, none of which waits for another; returns what they return, in their order."""
    return cast(list[T], (yield [Fork(flow) for flow in flows]))
