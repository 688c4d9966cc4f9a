"""What people say, as opinions of judges: a person is one more row of the judges' table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from expertchat.labels.store import standing_by_annotator
from expertchat.labels.tasks import Key
from expertchat.records.lab import Item, JudgeRef, Label, Opinion

OVERALL = "overall"  # the category of a choice


def opinions_of(labels: Iterable[Label], items: Sequence[Item]) -> tuple[list[JudgeRef], list[Opinion]]:
    """The people who labelled `items`, and what they say of them.

    A judge is called by the annotator's name, its form is "person". Of an item, form and pass the last label counts; one that is withdrawn
    or skipped gives none, nor does one of an item that is not among `items`. A second time (`again`) is repeat 1. `order` of a choice is
    the text that stood on the left. A category that the annotator could not say is an opinion without an answer. What only flags says
    nothing of how good a text is, and is in the labels alone.
    """
    known = {item.id for item in items}
    judges, opinions = list[JudgeRef](), list[Opinion]()
    for annotator, found in standing_by_annotator(labels).items():
        given = [(key, label) for key, label in found.items() if not label.skipped and label.item in known]
        own = {opinion.id: opinion for key, label in given for opinion in _opinions(key, label)}  # of two forms' same category the last
        if own:
            forms = sorted({label.form for _, label in given})
            judges.append(JudgeRef(id=annotator, form="person", wording=", ".join(forms)))
            opinions += own.values()
    return judges, opinions


def _opinions(key: Key, label: Label) -> list[Opinion]:
    repeat = int(key.again)
    end = f"/r{repeat}" if repeat else ""
    own: dict[str, Any] = {"item": label.item, "judge": label.annotator, "repeat": repeat}
    if label.choice is not None:
        order = f"/{label.shown}-first" if label.shown else ""
        name = f"{label.item}/{label.annotator}/{OVERALL}{order}{end}"
        return [Opinion(id=name, category=OVERALL, order=label.shown, choice=label.choice, seconds=label.seconds, **own)]
    place = f"/p{label.place}" if label.place else ""
    share = label.seconds / max(1, len(label.ratings))  # of one screen for all categories
    return [
        Opinion(
            id=f"{label.item}/{label.annotator}/{category}{place}{end}",
            category=category,
            place=label.place,
            value=value,
            seconds=share,
            problem=None if value is not None else "the annotator could not say",
            **own,
        )
        for category, value in label.ratings.items()
    ]
