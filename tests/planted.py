"""Judges with one known fault each, and texts whose truth is known: what an audit must find, and nothing else.

A pair has two texts of two systems; truth comes partly from length, so that a judge that knows the truth prefers longer texts too.
Each judge goes by its fault with a probability (`strength`, which differs by group, so that answers of one group are alike) and else by the
truth, rightly with a probability of HONEST.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy

from expertchat.audit.evidence import Evidence
from expertchat.records import Item, JudgeRef, Opinion, Text

SYSTEMS = ("own", "north", "south")
MERIT = {"own": 0.0, "north": 0.4, "south": -0.4}
HONEST = 0.85
FAULTS = ("first", "longer", "own", "middle", "random", "perfect")
# What the card must say of each: the figure, and how it is flagged there.
OWN_FLAG = {
    "first": ("first", "bias"), "longer": ("longer_bias", "bias"), "own": ("own_bias", "bias"), "middle": ("same", "bias"),
    "random": ("again", "chance"), "perfect": None,
}  # fmt: skip
BIASES = ("first", "longer_bias", "own_bias", "same", "again")
Fault = Literal["first", "longer", "own", "middle", "random", "perfect"]


class Known(NamedTuple):
    """What is known of a pair."""

    truth: tuple[float, float]
    tokens: tuple[int, int]
    systems: tuple[str, str]


def pairs(groups: int, of_each: int, rng: numpy.random.Generator, identical: float = 0.1) -> list[Item]:
    """Pairs of texts; a tenth has one text twice."""
    found = []
    for g in range(groups):
        for i in range(of_each):
            one, two = (SYSTEMS[k] for k in rng.permutation(3)[:2])
            length = rng.normal(size=2)
            truth = 0.6 * length + rng.normal(size=2) + [MERIT[one], MERIT[two]]
            tokens = numpy.maximum(5, 60 + 20 * length).astype(int)
            texts = [
                Text(text=f"text {g}/{i}/{k}", system=name, truth=float(truth[k]), tokens=int(tokens[k]))
                for k, name in enumerate((one, two))
            ]
            if rng.random() < identical:
                texts = [texts[0], texts[0]]
            found.append(Item(id=f"g{g:05d}/{i}", source="planted", topic=f"topic {g}", texts=texts, group=f"g{g:05d}"))
    return found


def chosen(fault: Fault, item: Item, first: int, rng: numpy.random.Generator, strength: float) -> Literal["first", "second", "tie"]:
    """One answer; `first` is the place in the item of the text that is shown first."""
    names = ("first", "second")
    one, two = item.texts
    assert one.truth is not None and two.truth is not None and one.tokens is not None and two.tokens is not None
    better = int(two.truth > one.truth)
    honest = names[better]
    if strength < 1 and rng.random() > HONEST:
        honest = names[1 - better]
    if item.better == "tie":
        honest = "tie" if strength == 1 else names[int(rng.integers(2))]
    if fault == "perfect" or rng.random() >= strength:
        return honest  # type: ignore[return-value]
    if fault == "first":
        return names[first]  # type: ignore[return-value]
    if fault == "middle":
        return "tie"
    if fault == "random":
        return names[int(rng.integers(2))]  # type: ignore[return-value]
    if fault == "longer":
        return honest if one.tokens == two.tokens else names[int(two.tokens > one.tokens)]  # type: ignore[return-value]
    mine = [text.system == "own" for text in item.texts]
    return names[mine.index(True)] if sum(mine) == 1 else honest  # type: ignore[return-value]


def answers(
    fault: Fault, items: Sequence[Item], rng: numpy.random.Generator, strength: float = 1.0, unanswered: float = 0.03
) -> list[Opinion]:
    """What a judge says of the pairs: both orders, the first of them twice."""
    of_group: dict[str, float] = {}
    found = []
    for item in items:
        # Beta with this mean: groups differ by about 0.1.
        here = of_group.setdefault(item.group, float(rng.beta(16 * strength, 16 * (1 - strength))) if strength < 1 else 1.0)
        for order, repeat in (("first", 0), ("second", 0), ("first", 1)):
            silent = rng.random() < unanswered
            choice = None if silent else chosen(fault, item, 0 if order == "first" else 1, rng, here)
            found.append(
                Opinion(
                    id=f"{item.id}/{fault}/overall/{order}-first" + (f"/r{repeat}" if repeat else ""), item=item.id, judge=fault,
                    category="overall", order=order, repeat=repeat, choice=choice, mass=float(rng.beta(9, 1)),
                    seconds=float(rng.gamma(4, 0.01)), problem="silent" if silent else None,
                )
            )  # fmt: skip
    return found


def singles(items: Sequence[Item]) -> list[Item]:
    """Each text of the pairs alone, two to one history."""
    return [
        Item(id=f"{item.id}/{k}", source="planted texts", topic=f"{item.topic} {item.id}", texts=[text], group=item.group)
        for item in items
        for k, text in enumerate(item.texts)
        if not (k and item.texts[0] == item.texts[1])
    ]


def ratings(fault: Fault, items: Sequence[Item], rng: numpy.random.Generator, strength: float = 1.0) -> list[Opinion]:
    """Ratings of single texts, twice: 5.5 + 1.5 x (what the judge goes by), as expected values within 1..10."""
    of_group: dict[str, float] = {}
    found = []
    for item in items:
        text = item.texts[0]
        assert text.truth is not None and text.tokens is not None
        here = of_group.setdefault(item.group, float(rng.beta(16 * strength, 16 * (1 - strength))) if strength < 1 else 1.0)
        noise = 0.0 if strength == 1 else float(rng.normal(0, 0.5))
        for repeat in (0, 1):
            by_fault = {
                "perfect": text.truth, "longer": (text.tokens - 60) / 20, "own": text.truth + 4 * (text.system == "own"), "middle": 0.0,
                "random": float(rng.uniform(-3, 3)), "first": text.truth,
            }[fault]  # fmt: skip
            goes_by = by_fault if rng.random() < here else text.truth
            silent = rng.random() < 0.03
            value = min(10.0, max(1.0, 5.5 + 1.0 * (goes_by + noise)))
            found.append(
                Opinion(
                    id=f"{item.id}/{fault}/overall" + (f"/r{repeat}" if repeat else ""), item=item.id, judge=fault, category="overall",
                    repeat=repeat, expected=None if silent else value, mass=float(rng.beta(9, 1)), seconds=float(rng.gamma(4, 0.01)),
                    problem="silent" if silent else None,
                )
            )  # fmt: skip
    return found


def judge(fault: str, rated: bool = False) -> JudgeRef:
    return JudgeRef(id=fault, form="expected" if rated else "pairwise", model="models/own")


def evidence(items: Sequence[Item], said: dict[str, list[Opinion]], rated: bool = False) -> Evidence:
    """Items and opinions as an audit reads them."""
    found = Evidence()
    problems = found.add("planted", items, [judge(name, rated) for name in said], [one for ones in said.values() for one in ones])
    assert problems == []
    return found
