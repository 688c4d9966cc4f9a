"""Planted judges: rules whose defect is known, to show that a card of judges finds it, and truth, which has none."""

from __future__ import annotations

import random
from dataclasses import dataclass

from expertchat.backends.asking import Flow
from expertchat.judging.rating import NUMBERS
from expertchat.lab.config import JudgeConfig
from expertchat.lab.judge import ORDERS, OVERALL, both_orders, opinion_id
from expertchat.records import Choice, Item, JudgeRef, Opinion, Order
from expertchat.sources.runs import is_of
from expertchat.text.measures import length

MIDDLE = 5  # of 1..10, as a judge writes it that does not want to decide


@dataclass(frozen=True)
class Rule:
    """A rule that judges. With `noise`, that share of its answers is drawn at random; a draw depends on the seed and the opinion's id."""

    name: str
    config: JudgeConfig
    seed: int

    @property
    def ref(self) -> JudgeRef:
        return JudgeRef(id=self.name, form="rule", model=self.config.of, note=self.config.note or f"rule {self.config.rule}")

    def takes(self, item: Item) -> bool:
        """What is shown first is a matter of pairs, and so is whose text it is; the truth must be known."""
        if self.config.rule in ("first", "second", "own"):
            return item.pair
        return self.config.rule != "truth" or all(text.truth is not None for text in item.texts)

    def owes(self, item: Item, repeat: int) -> list[str]:
        return both_orders(item, self.name, repeat) if item.pair else [opinion_id(item.id, self.name, OVERALL, repeat=repeat)]

    def flow(self, item: Item, repeat: int) -> Flow[list[Opinion]]:
        yield from ()
        if not item.pair:
            return [self._rated(item, repeat)]
        return [self._compared(item, order, repeat) for order in ORDERS]

    def _compared(self, item: Item, order: Order, repeat: int) -> Opinion:
        name = opinion_id(item.id, self.name, OVERALL, 0, order, repeat)
        draw = random.Random(f"{self.seed} {self.config.rule} {name}")
        drawn: Choice = draw.choice(("first", "second"))
        choice = drawn if self.config.rule == "random" or draw.random() < self.config.noise else self._choice(item, order)
        return Opinion(id=name, item=item.id, judge=self.name, category=OVERALL, order=order, repeat=repeat, choice=choice)

    def _choice(self, item: Item, order: Order) -> Choice:
        """The better text by its place in the item; `order` says which one is shown first."""
        one, two = item.texts
        match self.config.rule:
            case "first":
                return order
            case "second":
                return "second" if order == "first" else "first"
            case "own":
                return _higher(is_of(one.system, self.config.of), is_of(two.system, self.config.of))
            case "length":
                return _higher(length(one.text) or 0, length(two.text) or 0)
            case "shorter":
                return _higher(length(two.text) or 0, length(one.text) or 0)
            case "truth":
                return item.better or "tie"
        return "tie"

    def _rated(self, item: Item, repeat: int) -> Opinion:
        """One text: a number of 1..10 where the rule has that, else a score on a scale of its own."""
        name = opinion_id(item.id, self.name, OVERALL, repeat=repeat)
        draw = random.Random(f"{self.seed} {self.config.rule} {name}")
        drawn, (text,) = draw.randint(1, len(NUMBERS)), item.texts
        about = Opinion(id=name, item=item.id, judge=self.name, category=OVERALL, repeat=repeat)
        if self.config.rule == "random" or draw.random() < self.config.noise:
            return about.model_copy(update={"value": drawn} if self.config.rule in ("random", "middle") else {"score": float(drawn)})
        if self.config.rule == "middle":
            return about.model_copy(update={"value": MIDDLE})
        words = length(text.text) or 0.0
        scores = {"length": words, "shorter": -words, "truth": text.truth}
        return about.model_copy(update={"score": scores[self.config.rule or ""]})


def _higher(one: float, two: float) -> Choice:
    return "tie" if one == two else "first" if one > two else "second"
