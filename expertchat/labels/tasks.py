"""What an annotator is shown, in which order and on which side: decided by names and a seed, so that a later start shows the same."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from expertchat.labels.config import FormConfig
from expertchat.records.lab import Item, Label, Order

GAP = 20  # other items between the two times of one, where there are that many


class Key(NamedTuple):
    """What one answer is an answer to: a form's question about a text."""

    item: str
    place: int
    again: bool
    form: str


def key_of(label: Label) -> Key:
    return Key(label.item, label.place, label.again, label.form)


@dataclass(frozen=True)
class Task:
    """One item on the screen. `left`: the text of a compared pair that stands on the left; None where the one at `place` is rated."""

    item: Item
    form: str
    place: int = 0
    again: bool = False
    left: Order | None = None

    @property
    def key(self) -> Key:
        return Key(self.item.id, self.place, self.again, self.form)


def tasks_of(items: Sequence[Item], form: FormConfig, annotator: str, seed: int, shuffle: bool = True, again: float = 0.1) -> list[Task]:
    """The tasks of one annotator. What the form asks nothing of is left out.

    The order is that of all annotators, so that those who do but a part of it do the same part; the sides, and which share `again` of the
    tasks comes a second time, are each annotator's own. A second time comes GAP tasks after the first, or half of them where there are few.
    """
    once = [task for item in items for task in _tasks(item, form, annotator, seed)]
    if shuffle:
        random.Random(f"{seed}/order").shuffle(once)
    if not again or len(once) < 2:
        return once
    gap = min(GAP, len(once) // 2)
    early = len(once) - gap  # the first ones, after which there are enough others
    count = min(max(1, round(again * len(once))), early)
    chosen = set(random.Random(f"{seed}/{annotator}/again").sample(range(early), count))
    found = []
    for place, task in enumerate(once):
        found.append(task)
        if (first := place - gap) in chosen:
            item = once[first].item
            left = _left(item, annotator, seed, True) if once[first].left else None
            found.append(Task(item, form.name, once[first].place, True, left))
    return found


def _tasks(item: Item, form: FormConfig, annotator: str, seed: int) -> list[Task]:
    if not form.asks_of(item.pair):
        return []
    if form.compares(item.pair):
        return [Task(item, form.name, left=_left(item, annotator, seed, False))]
    return [Task(item, form.name, place) for place in range(len(item.texts))]


def _left(item: Item, annotator: str, seed: int, again: bool) -> Order:
    return "first" if random.Random(f"{seed}/{annotator}/{item.id}/{int(again)}").random() < 0.5 else "second"
