"""What a judge of the lab is, and how its opinions are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from expertchat.backends.asking import Flow
from expertchat.backends.base import Result
from expertchat.experts.base import CountTokens, ExpertChat
from expertchat.lab.config import LabConfig
from expertchat.records import Choice, Item, JudgeRef, Opinion, Order, Rating, Verdict

T = TypeVar("T")
OVERALL = "overall"  # the category of what has but one
ORDERS: tuple[Order, Order] = ("first", "second")


class LabJudge(Protocol):
    """A judge at work: which items are for it, which opinions it owes of one, and the flow that asks for them."""

    @property
    def name(self) -> str: ...

    @property
    def ref(self) -> JudgeRef:
        """How it is told of."""
        ...

    def takes(self, item: Item) -> bool:
        """Whether it can judge an item."""
        ...

    def owes(self, item: Item, repeat: int) -> list[str]:
        """The ids of all that it says of an item, each time that it is asked."""
        ...

    def flow(self, item: Item, repeat: int) -> Flow[list[Opinion]]:
        """What it says, in the order of `owes`, without the seconds."""
        ...


@dataclass(frozen=True)
class Bench:
    """What judges are made with: the run's config, and the experts and their token counts by seat (empty before the models are there)."""

    config: LabConfig
    experts: Mapping[str, ExpertChat]
    tokens: Mapping[str, CountTokens]


def opinion_id(
    item: str, judge: str, category: str, place: int = 0, order: Order | None = None, repeat: int = 0
) -> str:
    """The id of an opinion.

    >>> opinion_id("c0001/a", "mine", "depth"), opinion_id("r0002", "mine", "overall", order="second", repeat=1)
    ('c0001/a/mine/depth', 'r0002/mine/overall/second-first/r1')
    """
    parts = [item, judge, category, *(["p1"] if place else []), *([f"{order}-first"] if order else []), *([f"r{repeat}"] if repeat else [])]
    return "/".join(parts)


# What a duel calls the two texts of a pair.
PLACES: dict[str, Order] = {"base": "first", "policy": "second"}
CHOICES: dict[str | None, Choice | None] = {"base": "first", "policy": "second", "tie": "tie", None: None}


def of_rating(rating: Rating, item: str, judge: str, place: int = 0, repeat: int = 0) -> Opinion:
    """A rating of one of an item's texts as an opinion."""
    said: dict[str, Any] = rating.model_dump(include={"category", "value", "expected", "mass", "raw", "problem", "fault"})
    name = opinion_id(item, judge, rating.category, place, None, repeat)
    return Opinion(id=name, item=item, judge=judge, place=place, repeat=repeat, **said)


def of_verdict(verdict: Verdict, item: str, judge: str, repeat: int = 0) -> Opinion:
    """A verdict on a pair as an opinion."""
    said: dict[str, Any] = verdict.model_dump(include={"mass", "raw", "problem", "fault"})
    category, order = verdict.principle or OVERALL, PLACES[verdict.first]
    name = opinion_id(item, judge, category, 0, order, repeat)
    choice = CHOICES[verdict.winner]
    return Opinion(id=name, item=item, judge=judge, category=category, order=order, repeat=repeat, choice=choice, **said)


def in_turn(flow: Flow[T]) -> Flow[T]:
    """The same flow, one question after the other: what a question begins with is found again by the next one, where all at once would
    compute it for each.
    """
    try:
        asks = next(flow)
        while True:
            results: list[Result] = []
            for ask in asks:
                results += yield [ask]
            asks = flow.send(results)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    finally:
        flow.close()


def asked_place(item: Item, judge: str, repeat: int) -> str:
    """What the keys of all requests about an item begin with."""
    return f"{item.id}/by-{judge}" + (f"/r{repeat}" if repeat else "")


def both_orders(item: Item, judge: str, repeat: int) -> list[str]:
    """The ids of the opinions of a judge that compares."""
    return [opinion_id(item.id, judge, OVERALL, 0, order, repeat) for order in ORDERS]
