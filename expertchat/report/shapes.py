"""The shapes of a report's figures: curves, forests (estimates with their intervals, one below the other), histograms.

A value that is not there is a gap and never a zero. Shares are drawn in per cent; the CSV has them as they stand in the run's files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from expertchat.report.drawing import COLOURS, DASHES, FAINT, INK, MARKS
from expertchat.report.parts import LARGE, MISSING, Cell, Figure, Number, short
from expertchat.text.in_words import line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LONGEST = 44  # letters of a name
MOST_BARS = 4  # lines whose intervals can be told apart
MOST_NAMES = 48  # letters of the names that stand side by side below a figure
DODGE, ASIDE = 0.012, 0.03  # of the axis: between points at one place, and from there to what was measured apart
UNSEEN = "\u200b"  # a space without a width
HALF, LINE = (4.2, 2.7), 0.17  # inches: two side by side; a line of names below


@dataclass(frozen=True)
class Point:
    """A value at x, with its interval where it has one; None: there is none."""

    x: float
    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """Points in the order of x, joined by a line. `apart`: points of the same thing that were measured otherwise, hollow and not joined."""

    name: str
    points: Sequence[Point]
    apart: Sequence[Point] = ()


@dataclass(frozen=True)
class Axis:
    """How values are shown. `at`: what none, or chance, would have, as a line; `low` and `high`: where the axis ends, if it is
    fixed; `log`: logarithmic where all values are positive."""

    label: str
    percent: bool = False
    at: float | None = None
    low: float | None = None
    high: float | None = None
    least: float = 0.0  # what the axis spans at least, or noise looks like news
    log: bool = False

    @property
    def factor(self) -> float:
        return 100.0 if self.percent else 1.0


@dataclass(frozen=True)
class Row:
    """One estimate of a forest: `n` is what it is of; `seeds`: the same of each seed alone."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    seeds: Sequence[float] = field(default_factory=tuple)


def name_of(text: str, longest: int = LONGEST) -> str:
    """A name as it may stand in a figure: one harmless line, not too long."""
    text = line(text)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def file_name(text: str) -> str:
    """A name as it may stand in that of a file: letters, digits, - and _."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in text)


def label_of(name: str) -> str | None:
    """A name in a legend; one that begins with _ stands in none unless something is before it."""
    return f"{UNSEEN}{name}" if name.startswith("_") else name or None


def number(value: object) -> float | None:
    """What can be drawn."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def written(value: float | None, axis: Axis) -> str:
    """ "71.2 %", "0.4521"."""
    if value is None:
        return MISSING
    return f"{100 * value:.1f} %".replace("-0.0 ", "0.0 ") if axis.percent else short(float(value))


def cell_of(title: str, value: object = None, low: object = None, high: object = None) -> Cell:
    """A figure in a table, in per cent where the title of its row or column says so."""
    factor = 100.0 if title.endswith("%") else 1.0
    if isinstance(value, int) and factor == 1.0:
        return Cell(value)
    return Cell(*(None if (one := number(x)) is None else factor * one for x in (value, low, high)))


def interval(low: float | None, high: float | None, axis: Axis) -> str:
    """ " (66.6 to 75.5)", "" where there is none."""
    if low is None or high is None:
        return ""
    return f" ({written(low, axis).removesuffix(' %')} to {written(high, axis).removesuffix(' %')})"


# -- curves -----------------------------------------------------------------------------------------------------------------


def curves(name: str, title: str, x: str, axis: Axis, series: Sequence[Series], note: str = "", log2: bool = False) -> Figure | None:
    """Lines by x; None where no line has two values. `log2`: x goes up by doubling."""
    placed = [(i, replace(one, name=name_of(one.name))) for i, one in enumerate(series)]  # a line looks alike in all figures
    placed = [(i, one) for i, one in placed if any(point.value is not None for point in (*one.points, *one.apart))]
    shown = [one for _, one in placed]
    if max((sum(point.value is not None for point in (*one.points, *one.apart)) for one in shown), default=0) < 2:
        return None
    rows: list[Sequence[Number]] = [
        [one.name, point.x, point.value, point.low, point.high, "apart" if point in one.apart else ""]
        for one in shown
        for point in (*one.points, *one.apart)
    ]

    names, bars = [one.name for one in shown], len(shown) <= MOST_BARS
    named = len(series) > 1 and any(names)  # one line alone needs none
    if not bars and any(point.low is not None for one in shown for point in (*one.points, *one.apart)):
        note = f"{note} The intervals of so many lines are not drawn; the CSV has them.".strip()
    size = (HALF[0], HALF[1] + (LINE * math.ceil(len(names) / _columns(names)) if named else 0.0))

    def draw(axes: Axes) -> None:
        values = [point.value for one in shown for point in (*one.points, *one.apart) if point.value is not None]
        places = [point.x for one in shown for point in (*one.points, *one.apart)]
        several = len(shown) > 1 and bars and any(point.low is not None for one in shown for point in one.points)
        wide = math.log2(max(places) / min(places)) if log2 else max(places) - min(places)
        for nth, (i, one) in enumerate(placed):
            shift = DODGE * (wide or 1.0) * (nth - (len(shown) - 1) / 2) if several else 0.0
            aside = shift + ASIDE * (wide or 1.0)
            _curve(axes, i, one if bars else _bare(one), axis, _moved(shift, log2), _moved(aside, log2))
        _limits(axes, axis, values, "y", [bound for row in rows for bound in (row[3], row[4]) if isinstance(bound, float)])
        _by_x(axes, x, places, log2)
        if named:
            axes.figure.legend(loc="outside lower left", ncols=_columns(names), handlelength=3.4)  # there it covers nothing

    return Figure(name, title, _curves_said(x, axis, shown), ("series", x, "value", "low", "high", "measured"), rows, draw, note, size)


def _bare(one: Series) -> Series:
    return Series(one.name, *([replace(point, low=None, high=None) for point in points] for points in (one.points, one.apart)))


def _moved(by: float, log2: bool) -> Callable[[float], float]:
    """Where a point is drawn, so that the intervals of others at the same place can be seen."""
    return (lambda x: x * 2.0**by) if log2 else (lambda x: x + by)


def _curve(axes: Axes, i: int, one: Series, axis: Axis, at: Callable[[float], float], aside: Callable[[float], float]) -> None:
    colour, mark, dash = COLOURS[i % len(COLOURS)], MARKS[i % len(MARKS)], DASHES[(i + i // len(COLOURS)) % len(DASHES)]
    few = len(one.points) <= 30
    gap = float("nan")
    x = [at(point.x) for point in one.points]
    y = [gap if point.value is None else axis.factor * point.value for point in one.points]
    axes.plot(x, y, color=colour, linestyle=dash, marker=mark if few else None, label=label_of(one.name), clip_on=False)
    _bars(axes, one.points, axis, at, colour)
    known = [point for point in one.apart if point.value is not None]
    if known:
        places = [axis.factor * (point.value or 0.0) for point in known]
        label = None if one.points else label_of(one.name)
        axes.plot([aside(point.x) for point in known], places, color=colour, linestyle="none", marker=mark, markersize=8, fillstyle="none",
                  markeredgewidth=1.4, label=label)  # fmt: skip
        _bars(axes, known, axis, aside, colour)


def _bars(axes: Axes, points: Sequence[Point], axis: Axis, at: Callable[[float], float], colour: str) -> None:
    """The intervals."""
    for point in points:
        if point.value is not None and point.low is not None and point.high is not None:
            place, ends = at(point.x), (axis.factor * point.low, axis.factor * point.high)
            axes.plot([place, place], ends, color=colour, linewidth=0.9, marker="_", markersize=4, solid_capstyle="butt")


def _by_x(axes: Axes, label: str, places: Sequence[float], log2: bool) -> None:
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    axes.set_xlabel(label)
    if log2:
        axes.set_xscale("log", base=2)
        found = sorted(set(places))
        axes.xaxis.set_major_locator(FixedLocator(found))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(found, [f"{place:g}" for place in found])
    elif all(place == int(place) for place in places):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def _limits(axes: Axes, axis: Axis, values: Sequence[float], way: Literal["x", "y"], bounds: Sequence[float]) -> None:
    """The axis of the values: fixed ends where they are said, room for every interval, and a line at what none or chance would have."""
    label, set_label = axis.label, getattr(axes, f"set_{way}label")
    across = axes.axhline if way == "y" else axes.axvline
    if axis.at is not None:
        across(axis.factor * axis.at, color=FAINT, linewidth=0.9, zorder=0)
    spread = [value for value in (*values, *bounds) if math.isfinite(value)]
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    side, in_thousands = getattr(axes, f"{way}axis"), FuncFormatter(lambda value, _: short(float(value)))
    if axis.log and spread and min(spread) > 0:
        getattr(axes, f"set_{way}scale")("log")
        side.set_major_formatter(in_thousands)
        side.set_minor_formatter(NullFormatter())
        label += " (logarithmic)"
    else:
        low, high = _ends(axis, spread)
        getattr(axes, f"set_{way}lim")(axis.factor * low, axis.factor * high)
        if spread and axis.factor * max(map(abs, spread)) >= LARGE:
            side.set_major_formatter(in_thousands)
            side.set_major_locator(MaxNLocator(nbins=4))  # more of them would touch
    set_label(label + (", %" if axis.percent and "%" not in label else ""))
    axes.grid(axis=way)


def _ends(axis: Axis, spread: Sequence[float]) -> tuple[float, float]:
    known = [*spread, *([] if axis.at is None else [axis.at])]
    low, high = min(known), max(known)
    least = axis.least or (0.1 if axis.percent else 0.2 * abs(high) or 1.0)
    if high - low < least:
        low, high = (low + high - least) / 2, (low + high + least) / 2
    low, high = low - 0.06 * (high - low), high + 0.06 * (high - low)
    if axis.percent and axis.at != 0:
        low, high = max(0.0, low), min(1.0, high)
    return (low if axis.low is None else axis.low), (high if axis.high is None else axis.high)


def _columns(names: Sequence[str]) -> int:
    return max(1, min(len(names), MOST_NAMES // (max(map(len, names)) + 6)))


def _curves_said(x: str, axis: Axis, shown: Sequence[Series]) -> str:
    """What is to be seen, in words."""
    said = []
    for one in shown:
        known = [point for point in one.points if point.value is not None]
        parts = []
        if known:
            ends = known if len(known) < 3 else (known[0], known[-1])
            parts = [f"{written(p.value, axis)}{interval(p.low, p.high, axis)} at {x} {p.x:g}" for p in ends]
        parts += [f"{written(p.value, axis)}{interval(p.low, p.high, axis)} measured apart" for p in one.apart if p.value is not None]
        said.append((f"{one.name}: " if one.name else "") + ", ".join(parts))
    return f"{axis.label} by {x}. " + "; ".join(said) + "."


# -- forests ----------------------------------------------------------------------------------------------------------------


def forest(name: str, title: str, axis: Axis, rows: Sequence[Row], note: str = "") -> Figure | None:
    """Estimates one below the other, each with its interval, its figures in words and what it is of; None where there is none."""
    if not any(row.value is not None for row in rows):
        return None
    shown = [replace(row, name=name_of(row.name)) for row in rows]
    seeds = max(len(row.seeds) for row in shown)
    columns = ["name", "value", "low", "high", "n", *(f"seed_{i + 1}" for i in range(seeds))]
    lines: list[Sequence[Number]] = [
        [row.name, row.value, row.low, row.high, row.n, *row.seeds, *[None] * (seeds - len(row.seeds))] for row in shown
    ]

    def draw(axes: Axes) -> None:
        for i, row in enumerate(shown):
            _estimate(axes, i, row, axis)
        axes.set_yticks(range(len(shown)), [row.name for row in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        values = [value for row in shown for value in (row.value, *row.seeds) if value is not None]
        _limits(axes, axis, values, "x", [bound for row in shown for bound in (row.low, row.high) if bound is not None])

    alt = f"{axis.label}. " + "; ".join(f"{row.name}: {_row_said(row, axis)}" for row in shown) + "."
    return Figure(name, title, alt, columns, lines, draw, note, (7.2, 1.1 + 0.32 * len(shown)))


def _estimate(axes: Axes, at: int, row: Row, axis: Axis) -> None:
    axes.text(1.035, at, _row_said(row, axis), transform=axes.get_yaxis_transform(), va="center", ha="left", fontsize=9)
    if row.value is None:
        return
    if row.low is not None and row.high is not None:
        axes.plot([axis.factor * row.low, axis.factor * row.high], [at, at], color=INK, linewidth=1.2, marker="|", markersize=6)
    axes.plot([axis.factor * row.value], [at], color=COLOURS[0], marker="o", markersize=6, linestyle="none", clip_on=False)
    seeds = [axis.factor * one for one in row.seeds]
    axes.plot(seeds, [at + 0.24] * len(seeds), color=FAINT, marker="|", markersize=5, linestyle="none")


def _row_said(row: Row, axis: Axis) -> str:
    if row.value is None:
        return "no figure"
    return f"{written(row.value, axis)}{interval(row.low, row.high, axis)}" + (f", n = {row.n:,}" if row.n is not None else "")


# -- histograms -------------------------------------------------------------------------------------------------------------


def histogram(name: str, title: str, axis: Axis, what: str, values: Iterable[float], note: str = "", bins: int = 24) -> Figure | None:
    """How often values come, counts from zero up; None where there are fewer than two. `what` is counted. `axis.at` is a line."""
    import numpy

    found_N = numpy.asarray([value for value in values if math.isfinite(value)], dtype=float)
    if len(found_N) < 2 or found_N.min() == found_N.max():
        return None
    low, high = float(found_N.min()), float(found_N.max())
    if all(value == int(value) for value in found_N):  # whole numbers: whole steps, or some bars would hold more of them than others
        step = max(1, math.ceil((high - low + 1) / bins))
        edges_B = numpy.arange(low - 0.5, high + 0.5 + step, step)
    else:
        edges_B = numpy.linspace(low, high, min(bins, max(5, math.ceil(len(found_N) ** 0.5))) + 1)
    counts_B, _ = numpy.histogram(found_N, edges_B)
    rows: list[Sequence[Number]] = [
        [round(float(edges_B[i]), 6), round(float(edges_B[i + 1]), 6), int(count)] for i, count in enumerate(counts_B)
    ]

    def draw(axes: Axes) -> None:
        bars: dict[str, Any] = {"color": COLOURS[0], "alpha": 0.55, "edgecolor": COLOURS[0], "linewidth": 0.6}
        axes.bar(edges_B[:-1], counts_B, numpy.diff(edges_B), align="edge", **bars)
        middle = float(numpy.median(found_N))
        axes.axvline(middle, color=INK, linestyle=DASHES[1], linewidth=1.0)
        if axis.at is not None:
            axes.axvline(axis.at, color=FAINT, linewidth=0.9)
        axes.set_xlabel(axis.label)
        axes.set_ylabel(what)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")

    middle = float(numpy.median(found_N))
    alt = f"{axis.label}: {len(found_N):,} {what} from {short(low)} to {short(high)}, half of them at most {short(middle)} (dashed)."
    return Figure(name, title, alt, ("from", "to", what), rows, draw, note, HALF)


def beside(name: str, title: str, axis: Axis, groups: Mapping[str, Sequence[Row]], note: str = "") -> Figure | None:
    """Several estimates of each thing, one of each group (a judge) in its own colour and mark; None where there is none."""
    shown = {name_of(group): [replace(row, name=name_of(row.name)) for row in rows] for group, rows in groups.items()}
    things = list(dict.fromkeys(row.name for rows in shown.values() for row in rows))
    if not any(row.value is not None for rows in shown.values() for row in rows):
        return None
    lines: list[Sequence[Number]] = [
        [group, row.name, row.value, row.low, row.high, row.n] for group, rows in shown.items() for row in rows
    ]

    def draw(axes: Axes) -> None:
        for j, (group, rows) in enumerate(shown.items()):
            look = {"color": COLOURS[j % len(COLOURS)], "marker": MARKS[j % len(MARKS)]}
            for row in rows:
                place = things.index(row.name) + (j - (len(shown) - 1) / 2) * 0.7 / len(shown)
                if row.low is not None and row.high is not None:
                    ends = [axis.factor * row.low, axis.factor * row.high]
                    axes.plot(ends, [place, place], color=look["color"], linewidth=1.1, marker="|", markersize=4)
                if row.value is not None:
                    axes.plot([axis.factor * row.value], [place], linestyle="none", markersize=5, clip_on=False, **look)  # type: ignore[arg-type]
            axes.plot([], [], linestyle="none", label=label_of(group), **look)  # type: ignore[arg-type]
        axes.set_yticks(range(len(things)), things)
        axes.set_ylim(len(things) - 0.4, -0.6)
        values = [row.value for rows in shown.values() for row in rows if row.value is not None]
        bounds = [bound for rows in shown.values() for row in rows for bound in (row.low, row.high) if bound is not None]
        _limits(axes, axis, values, "x", bounds)
        if axes.figure is not None:
            axes.figure.legend(loc="outside lower left", ncols=_columns(list(shown)))

    said = "; ".join(f"{group}: " + ", ".join(f"{row.name} {_row_said(row, axis)}" for row in rows) for group, rows in shown.items())
    height = 1.0 + 0.2 * len(things) * (len(shown) + 1) + LINE * math.ceil(len(shown) / _columns(list(shown)))
    return Figure(name, title, f"{axis.label}. {said}.", ("group", "name", "value", "low", "high", "n"), lines, draw, note, (7.2, height))
