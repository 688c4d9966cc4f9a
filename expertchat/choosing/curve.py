"""What the best of N comes to, N by N: by the chooser and by each other judge, with intervals, and where they part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any

from expertchat.choosing.choice import against_below, against_first, chances, expected, kl
from expertchat.choosing.config import CHOOSER, BestOfNConfig
from expertchat.choosing.said import apart, of_numbers
from expertchat.evaluation.by_topic import Found, gap_of, mean_of, share_of
from expertchat.records import Selection

Values = list[float | None]
"""A figure of each prompt; None where it has none."""


def _fixed(figure: dict[str, float | int | None]) -> dict[str, float | int | None]:
    """A figure that could be no other one: nothing is estimated."""
    return figure | {"low": None, "high": None}


@dataclass(frozen=True)
class Curve:
    """The selections of a run and the group of each. Intervals draw whole groups."""

    config: BestOfNConfig
    selections: Sequence[Selection]
    groups: Sequence[str]
    _chances: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    _below: dict[tuple[str, str], Values] = field(default_factory=dict)

    @cached_property
    def _rating(self) -> set[str]:
        """The judges that give each text a number."""
        return {CHOOSER, *(name for one in self.selections for name in one.scores)}

    @property
    def sizes(self) -> list[int]:
        return self.selections[0].sizes if self.selections else []

    @property
    def names(self) -> list[str]:
        """The judges, the chooser first."""
        return [CHOOSER, *(name for name in self.config.judges.root if name != CHOOSER)]

    def figure(self, values: Values, of: Callable[..., Found] = mean_of) -> dict[str, float | int | None]:
        """The mean over prompts, with its interval and how many it is of."""
        known = [(value, group) for value, group in zip(values, self.groups, strict=True) if value is not None]
        numbers, groups = [value for value, _ in known], [group for _, group in known]
        found = of(numbers, groups, seed=self.config.run.seed, resamples=self.config.resamples)
        return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}

    def rate(self, values: Values) -> dict[str, float | int | None]:
        """The same of a win rate."""
        return self.figure(values, share_of)

    # -- one size ---------------------------------------------------------------------------------------------------------

    def at(self, size: int) -> dict[str, Any]:
        """All figures of the best of `size`."""
        place = self.sizes.index(size)
        judges = {name: self._judge(name, size, place) for name in self.names}
        by_chooser = self.won(CHOOSER, "first", size, place)
        others = {name: self.won(name, "first", size, place) for name in self.names if name != CHOOSER}
        gaps = {name: _fixed(gap) if size == 1 else gap for name, other in others.items() for gap in (self._gap(by_chooser, other),)}
        chosen = [one.chosen[place] for one in self.selections]
        return {
            "n": size,
            "kl": kl(size) if self.config.choose.rule == "highest" else None,
            "chosen": sum(i is not None for i in chosen),
            "nothing": sum(i is None for i in chosen),
            "ties": sum(self._tied(one, size, place) for one in self.selections),
            "judges": judges,
            "gaps": gaps,
        }

    def _judge(self, name: str, size: int, place: int) -> dict[str, Any]:
        subsets = self.over_subsets(name)
        found: dict[str, Any] = {"by": "subsets" if subsets else "first_n", "against": {}}
        if not self._compares(name):
            found["score"] = self.figure(self.scores(name, size, place))
        for other in self.config.against:
            figure = self.rate(self.won(name, other, size, place))
            figure = _fixed(figure) if size == 1 and other == "first" else figure  # the same text: it is one half
            own = [value for value in self.first_n(name, other, place) if value is not None]
            found["against"][other] = figure | {"first_n": fmean(own) if own else None, "ties": sum(value == 0.5 for value in own)}
        return found

    def _gap(self, one: Values, two: Values) -> dict[str, float | int | None]:
        return self.figure([None if a is None or b is None else a - b for a, b in zip(one, two, strict=True)], gap_of)

    def _tied(self, one: Selection, size: int, place: int) -> bool:
        """Whether another text is worth as much to the chooser as the choice."""
        i = one.chosen[place]
        if i is None or self.config.choose.rule != "highest":
            return False
        scores, least = one.scores[CHOOSER][:size], apart(self.config.chooser)
        return any(
            one.same[k] != one.same[i] and of_numbers(score, scores[i], least) == 0.5 for k, score in enumerate(scores)
        )

    # -- values by prompt -------------------------------------------------------------------------------------------------

    def over_subsets(self, name: str) -> bool:
        """Whether a judge has said of every candidate what it is worth, so that all subsets of a size can be gone through."""
        judge = self.config.judges.root[name]
        return not self._compares(name) and (name == CHOOSER or judge.model is None or self.config.again == "all")

    def scores(self, name: str, size: int, place: int) -> Values:
        """What the choice among `size` is worth to a judge."""
        if self.over_subsets(name):
            return [expected(self._chance(one, size), one.scores[name]) if one.scores else None for one in self.selections]
        return [None if (i := one.chosen[place]) is None else one.scores[name][i] for one in self.selections]

    def won(self, name: str, other: str, size: int, place: int) -> Values:
        """What the choice among `size` comes to against a text: over all subsets where that can be had, else of the first `size`."""
        if not self.over_subsets(name):
            return self.first_n(name, other, place)
        return [self._over_subsets(one, name, other, size) if one.scores else None for one in self.selections]

    def first_n(self, name: str, other: str, place: int) -> Values:
        """What the choice among the first ones comes to, as it was made."""
        return [
            None if (i := one.chosen[place]) is None else self._outcome(one, name, other)(i) for one in self.selections
        ]

    def _over_subsets(self, one: Selection, name: str, other: str, size: int) -> float | None:
        chance = self._chance(one, size)
        if other == "first":
            return expected(chance, against_first(self._against_below(one, name), size))
        won = self._outcome(one, name, other)
        return expected(chance, [won(i) for i in range(len(one.keys))])

    def _against_below(self, one: Selection, name: str) -> Values:
        key = one.id, name
        if key not in self._below:
            scores, least = one.scores[name], apart(self.config.judges.root[name])

            def outcome(i: int, j: int) -> float | None:
                return 0.5 if one.same[i] == one.same[j] else of_numbers(scores[i], scores[j], least)

            self._below[key] = against_below(one.keys, outcome)
        return self._below[key]

    def _outcome(self, one: Selection, name: str, other: str) -> Callable[[int], float | None]:
        """Candidate -> 1, 0.5, 0 against a text, by a judge."""
        like = set(one.like.get(other, ()))
        if self._compares(name):
            duels: Mapping[str, float | None] = one.duels.get(name, {})
            return lambda i: 0.5 if i in like else duels.get(f"{i}-{other}")
        scores, least = one.scores[name], apart(self.config.judges.root[name])
        against = scores[0] if other == "first" else one.others[name].get(other)
        return lambda i: 0.5 if i in like else of_numbers(scores[i], against, least)

    def _compares(self, name: str) -> bool:
        """Whether a judge has compared texts, and given none a number of its own."""
        return name not in self._rating

    def _chance(self, one: Selection, size: int) -> list[float]:
        key = one.id, size
        if key not in self._chances:
            self._chances[key] = chances(one.keys, size)
        return self._chances[key]

    # -- where they part --------------------------------------------------------------------------------------------------

    def parting(self, name: str) -> dict[str, Any]:
        """Where another judge's win rate is highest, and what it loses from there to the largest N, while the chooser's goes up.

        `over_optimised`: the loss's interval leaves no room for none. The highest of several is picked by the same prompts, so the loss is
        rather too large. `enough`: the least N to which the largest one adds nothing that is shown.
        """
        rates = {size: self.won(name, "first", size, place) for place, size in enumerate(self.sizes)}
        means = {size: self.figure(values)["value"] for size, values in rates.items()}
        known = {size: mean for size, mean in means.items() if mean is not None}
        if not known:
            return {"best": None, "loss": None, "over_optimised": None, "enough": None}
        best, last = max(known, key=lambda size: (known[size], -size)), self.sizes[-1]
        loss = self._gap(rates[best], rates[last])
        loss = _fixed(loss) if best == last else loss
        low = loss["low"]
        gains = {size: self._gap(rates[last], rates[size])["low"] for size in self.sizes}
        enough = next(size for size in self.sizes if size == last or (gains[size] or 0.0) <= 0)
        return {"best": best, "loss": loss, "over_optimised": best != last and low is not None and low > 0, "enough": enough}
