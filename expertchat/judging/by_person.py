"""A person at the table as a judge: asked for the same numbers as a model, and for what is missing. What is not answered is null."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from expertchat.judging import answers
from expertchat.judging.faults import Fault
from expertchat.judging.view import Judgement
from expertchat.records import Rating
from expertchat.text.sentences import one_line

UNSURE = "unsure"  # the kind of what a person does not answer


class Sits(Protocol):
    """Who asks the person. Each raises Interrupted where the person leaves: what is answered is kept."""

    def rating(self, judgement: Judgement, name: str) -> int | None:
        """From 1 to 10, or None: no answer."""
        ...

    def missing(self, judgement: Judgement) -> str | None:
        """What is missing; "": nothing is, None: no answer."""
        ...


def rating(sits: Sits, judgement: Judgement, name: str) -> Rating:
    """What the person gives for one category or principle."""
    value = sits.rating(judgement, name)
    if value is None:
        return answers.no_rating(judgement, name, Fault(UNSURE, "the person gives no number"))
    return Rating(**answers.about(judgement, name), category=name, value=value, raw=str(value))


def missing(sits: Sits, judgement: Judgement) -> tuple[str, Fault | None]:
    """What the person misses, in one line, and why there is nothing to go by."""
    said = sits.missing(judgement)
    return one_line(said or ""), Fault(UNSURE, "the person does not say what is missing") if said is None else None


def last(judgements: Iterable[Judgement], people: Iterable[str]) -> tuple[list[Judgement], list[Judgement]]:
    """Those of models, and those of people, who are asked when the models have spoken."""
    every, seats = list(judgements), set(people)
    return [one for one in every if one.role.seat not in seats], [one for one in every if one.role.seat in seats]
