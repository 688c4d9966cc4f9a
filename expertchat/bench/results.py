"""What was measured, and the arithmetic over it: ratios of timings of the same repeat, their median and spread."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Timing:
    """One way of doing `units` pieces of work once. `tokens` are the new ones; `counts` is what else was counted meanwhile."""

    case: str
    way: str
    repeat: int
    seconds: float
    units: float = 1
    tokens: int = 0
    counts: dict[str, float] = field(default_factory=dict)

    @property
    def each(self) -> float:
        """Seconds for one unit."""
        return self.seconds / self.units


@dataclass(frozen=True)
class Column:
    """A ratio of every way of a case to the way `base`: "speed": how many times as fast; "cost": how many times the time."""

    title: str
    base: str
    meaning: Literal["speed", "cost"] = "speed"
    ways: tuple[str, ...] = ()  # the ways that it is shown for; all of them if empty


@dataclass(frozen=True)
class Spread:
    """Median and extremes of some values."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


@dataclass
class Part:
    """One part of the bench: its timings, which ratios are formed, and what else is to be said."""

    name: str
    title: str
    unit: str = "tokens"  # the speed that is shown: tokens/s, dialogues/h or judgements/h
    columns: list[Column] = field(default_factory=list)
    counts: dict[str, str] = field(default_factory=dict)  # key of Timing.counts -> title of its column
    timings: list[Timing] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)  # what is not a timing, for the JSON file

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Cases and ways in the order in which they were first measured."""
        return list(dict.fromkeys((t.case, t.way) for t in self.timings))

    def of(self, case: str, way: str) -> list[Timing]:
        return [t for t in self.timings if (t.case, t.way) == (case, way)]

    def ratios(self, case: str, way: str, column: Column) -> list[float]:
        """The ratio of each repeat in which both ways were measured; empty for the base itself."""
        if way == column.base or (column.ways and way not in column.ways):
            return []
        base = {t.repeat: t.each for t in self.of(case, column.base)}
        pairs = [(base[t.repeat], t.each) for t in self.of(case, way) if t.repeat in base]
        return [b / e if column.meaning == "speed" else e / b for b, e in pairs]

    def speeds(self, case: str, way: str) -> list[float]:
        """Tokens a second, or dialogues or judgements an hour of each repeat; empty where there are none."""
        if self.unit != "tokens":
            return [3600 / t.each for t in self.of(case, way)]
        return [t.tokens / t.seconds for t in self.of(case, way) if t.tokens]

    def counted(self, case: str, way: str, key: str) -> list[float]:
        return [t.counts[key] for t in self.of(case, way) if key in t.counts]

    def plain(self) -> dict[str, Any]:
        """Everything as plain values, with every ratio worked out."""
        ratios = [
            {"case": case, "way": way, "ratio": column.title, "base": column.base, "meaning": column.meaning, "values": values,
             **asdict(Spread.of(values))}
            for case, way in self.rows for column in self.columns if (values := self.ratios(case, way, column))
        ]  # fmt: skip
        speeds = [
            {"case": case, "way": way, "unit": SPEED[self.unit], "values": values, **asdict(Spread.of(values))}
            for case, way in self.rows if (values := self.speeds(case, way))
        ]  # fmt: skip
        return {
            "name": self.name, "title": self.title, "ratios": ratios, "speeds": speeds, "timings": [asdict(t) for t in self.timings],
            "facts": dict(self.facts), "notes": self.notes, "numbers": self.numbers,
        }  # fmt: skip


SPEED = {"tokens": "tokens/s", "dialogues": "dialogues/h", "judgements": "judgements/h"}
