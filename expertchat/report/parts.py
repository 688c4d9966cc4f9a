"""What a report consists of: a verdict, sections of figures and tables, transcripts; nothing here knows how it is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MISSING = "–"  # no figure is no zero
Number = float | int | str | None


@dataclass(frozen=True)
class Cell:
    """A figure as it stands in a file, with its interval where one stands beside it; None: there is none."""

    value: float | int | str | None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if (alike := self.alike()) is not None:
            return f"{alike[0]} ({alike[1]} to {alike[2]})"
        return MISSING if self.value is None else short(self.value)

    def alike(self) -> tuple[str, str, str] | None:
        """The figure and the ends of its interval, all with as many decimals as leave the interval's width two digits: what is behind them
        nobody knows. None where there is no interval.

        >>> str(Cell(0.0904, 0.05083, 0.1291)), str(Cell(84.49, 81.1, 87.4)), str(Cell(4.086, 3.77, 4.4)), Cell(0.5).alike()
        ('0.090 (0.051 to 0.129)', '84.5 (81.1 to 87.4)', '4.09 (3.77 to 4.40)', None)
        """
        if self.value is None or isinstance(self.value, str) or self.low is None or self.high is None:
            return None
        several = (self.value, self.low, self.high)
        width = self.high - self.low
        if not 0 < width < math.inf or not all(map(math.isfinite, several)):
            return short(self.value), short(self.low), short(self.high)
        decimals = max(0, 1 - math.floor(math.log10(width)))
        first, low, high = (f"{round(number, decimals) + 0.0:,.{decimals}f}" for number in several)  # + 0.0: no -0.00
        return first, low, high


LARGE = 10_000.0  # from here on a figure is written in thousands


def short(value: float | int | str) -> str:
    """A figure with four digits that count, a large one with all before the point.

    >>> short(0.45214), short(5.0), short(66799.4), short(9999.7), short(3), short(-0.0)
    ('0.4521', '5', '66,799', '10,000', '3', '0')
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, float):
        return str(value)
    return rounded(value, 4, LARGE)


def rounded(value: float, digits: int, large: float) -> str:
    """A number with so many digits that count; one that is `large` then, with all before the point."""
    text = f"{value:.{digits}g}"
    if large <= abs(float(text)) < math.inf:
        return f"{value:,.0f}"
    return text if float(text) else "0"


@dataclass(frozen=True)
class Shown:
    """A table: its columns, and its rows by name. `published`: names of rows that others have published.
    `folded`: it is opened where somebody wants it, as every long one is."""

    title: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[Cell]]
    published: frozenset[str] = frozenset()
    note: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Figure:
    """A drawing, and what is drawn as rows of a CSV. `alt`: what is to be seen, for those who cannot see it; `size`: inches."""

    name: str  # of its files: letters, digits, - and _
    title: str
    alt: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Number]]
    draw: Callable[[Axes], None]
    note: str = ""
    size: tuple[float, float] = (6.0, 3.2)


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading of its own. `lead`: plain sentences before its parts."""

    name: str  # of its link
    title: str
    lead: Sequence[str] = ()
    parts: Sequence[Figure | Shown] = ()


@dataclass(frozen=True)
class Verdict:
    """What came out, with its interval and n, and what it cannot say: a sentence or two each. `shown`: the same as a small drawing."""

    says: str
    cannot: str
    shown: Figure | None = None


@dataclass(frozen=True)
class Report:
    """All but the transcripts, which are many: they are read while they are written."""

    title: str
    verdict: Verdict
    facts: Shown  # what was run: models, sizes, seeds, versions, commit, hours, machine
    sections: Sequence[Section] = field(default_factory=tuple)
    warnings: Sequence[str] = ()
    tiles: Sequence[tuple[str, str, str]] = ()  # the counts of the first screen: name, count, and what stands under it
