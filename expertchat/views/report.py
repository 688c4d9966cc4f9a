"""A report in the terminal: its first page, figures as sparklines; and what was written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from expertchat.text.sentences import clean
from expertchat.views.console import console_on, open_console, prose
from expertchat.views.plan import size
from expertchat.views.sparkline import sparkline

if TYPE_CHECKING:
    from expertchat.report.parts import Cell, Figure, Report, Shown
    from expertchat.report.writing import Written

BINS = ("from", "to", "middle of the bin")
VALUE = "value"  # the column that a curve is of, where there is one of that name
PLACES = ("round", "turn", "step", "n", *BINS)  # columns that say where a number stands, not what it is
CURVE = 30  # cells of a sparkline
LINES = 12  # of a table; the page has all
WIDE = 60  # characters of a cell


def print_report(report: Report, stream: TextIO | None = None) -> None:
    """The first page: what came out, the counts, then each section's tables and curves in short."""
    console = open_console(stream)
    console.print(Text(report.title, "dim"))
    console.print(Text(report.verdict.says, "bold"))
    console.print(Text(report.verdict.cannot, "dim"))
    if report.tiles:
        console.print(Text("  ".join(f"{name} {value}{f' ({note})' if note else ''}" for name, value, note in report.tiles), "cyan"))
    for warning in report.warnings:
        console.print(Text(f"! {warning}", "yellow"))
    for section in report.sections:
        console.print()
        console.print(Text(section.title, "bold underline"))
        for sentence in section.lead:
            console.print(Text(sentence))
        for part in section.parts:
            console.print(_table(part) if hasattr(part, "published") else _curves(part))  # type: ignore[arg-type]


def _table(shown: Shown) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, title=Text(shown.title), title_justify="left", padding=(0, 1), pad_edge=False)
    table.add_column("", overflow="fold")
    for i, column in enumerate(shown.columns):
        words = any(isinstance(cells[i].value, str) for cells in shown.rows.values() if i < len(cells))
        table.add_column(Text(column), justify="left" if words else "right", overflow="fold")
    for name, cells in list(shown.rows.items())[:LINES]:
        table.add_row(Text(name, "italic" if name in shown.published else ""), *(Text(_short(cell)) for cell in cells))
    more = len(shown.rows) - LINES
    return Group(table, Text(f"and {more} more lines", "dim")) if more > 0 else table


def _short(cell: Cell) -> str:
    said = str(cell)
    return said if len(said) <= WIDE else f"{said[: WIDE - 1]}…"


def _curves(figure: Figure) -> RenderableType:
    """Each series of a figure as a sparkline of its first numbers: rows that begin with the same words belong together."""
    words = [i for i in range(len(figure.columns)) if any(isinstance(row[i], str) for row in figure.rows)]
    numbers = [i for i in range(len(figure.columns)) if i not in words]
    of = next((i for i in numbers if figure.columns[i] == VALUE), next((i for i in numbers if figure.columns[i] not in PLACES), None))
    bins = next((i for i in numbers if figure.columns[i] in BINS), None)  # of a histogram, which is told by where it lies
    series: dict[str, list[float | None]] = {}
    for row in figure.rows:
        value = row[of] if of is not None else None
        named = " ".join(str(row[i]) for i in words)
        series.setdefault(named, []).append(float(value) if isinstance(value, int | float) else None)
    lines: list[RenderableType] = [Text(figure.title, "italic")]
    drawn = {name: values for name, values in series.items() if len([value for value in values if value is not None]) > 1}
    for name, values in list(drawn.items())[:LINES]:
        known = [value for value in values if value is not None]
        ends = [known[0], known[-1]] if bins is None else [float(figure.rows[i][bins] or 0.0) for i in (0, -1)]
        lines.append(Text(f"  {name[:24]:<24} {sparkline(values, CURVE)}  {ends[0]:.3g} {'→' if bins is None else 'to'} {ends[1]:.3g}"))
    if not drawn:
        lines.append(Text(f"  {figure.alt}"))
    return Padding(Group(*lines), (1, 0, 0, 0))


def print_written(written: Written, warnings: Sequence[str], stream: TextIO | None = None) -> None:
    """Where the page is, how large, and what is to be known."""
    console = console_on(stream)
    for path, length in written.sizes.items():
        console.print(Text(f"{clean(str(path))}  {size(length)}"), soft_wrap=True)
    if written.large:
        prose(console, Text("large for a mail; name fewer runs for a smaller one", "yellow"))
    for warning in warnings:
        prose(console, Text(f"! {warning}", "yellow"))
