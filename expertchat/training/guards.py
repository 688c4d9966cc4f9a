"""The limits that a round is held against, and when the learning rate is lowered because of them.

The rate acts on how far and how fast the policy moves: on the KL to its base, on the length of its replies, on how much they repeat. It has
nothing to do with judgements that cannot be read or with a judge that parrots: there guards.action=lower only notes. A guard lowers the
rate when it trips; again only where its figure got worse by the factor guards.worse since then, or trips anew after a round within the
limit; and never below the share guards.lowest. So one figure that stays over its limit (KL to the base does, it only grows) halves it once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from expertchat.records import Figure
from expertchat.training.config import GuardsConfig


@dataclass(frozen=True)
class Alarm:
    """A figure beyond its limit. `upper`: the limit is the most; `acts`: the learning rate acts on it."""

    guard: str
    title: str
    value: float
    limit: float
    upper: bool
    acts: bool

    def __str__(self) -> str:
        return f"{self.title} is {self.value:.3g}, {'above' if self.upper else 'below'} the limit of {self.limit:g}"

    def worse_than(self, before: float, factor: float) -> bool:
        """Whether it is `factor` times as bad as a value before."""
        return self.value >= before * factor if self.upper else self.value < before and self.value * factor <= before


def alarms(figures: Mapping[str, Figure], base_length: float | None, guards: GuardsConfig) -> list[Alarm]:
    """What is beyond a limit. `base_length`: tokens of the base's replies."""
    length = figures.get("length")
    ratio = length / base_length if isinstance(length, int | float) and base_length else None
    parrots = figures.get("parrot_rate")
    held: list[tuple[str, str, Figure, float | None, bool, bool]] = [
        ("max_kl", "KL to the base", figures.get("kl"), guards.max_kl, True, True),
        ("max_length_ratio", "reply length over the base's", ratio, guards.max_length_ratio, True, True),
        ("max_null_rate", "null rate", figures.get("null_rate"), guards.max_null_rate, True, False),
        ("max_parrot_rate", "share of WIM responses that parrot the reply", parrots, guards.max_parrot_rate, True, False),
        ("min_distinct_2", "distinct-2", figures.get("distinct_2"), guards.min_distinct_2, False, True),
    ]
    return [
        Alarm(guard, title, float(value), limit, upper, acts)
        for guard, title, value, limit, upper, acts in held
        if limit is not None and isinstance(value, int | float) and (value > limit if upper else value < limit)
    ]


def to_lower(found: list[Alarm], before: Mapping[str, float], factor: float) -> tuple[list[Alarm], dict[str, float]]:
    """(the alarms for which the rate is lowered, what is to be remembered of them).

    `before`: the value of each guard that is tripped, when the rate was lowered for it last. A guard back within its limit is forgotten.
    """
    acting = [one for one in found if one.acts]
    lowering = [one for one in acting if one.guard not in before or one.worse_than(before[one.guard], factor)]
    kept = {one.guard: before[one.guard] for one in acting if one.guard in before}
    return lowering, kept | {one.guard: one.value for one in lowering}
