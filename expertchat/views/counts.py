"""What counts can carry, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from expertchat.text.cells import markdown as as_markdown
from expertchat.text.sentences import clean, one_line
from expertchat.views.console import open_console, prose

HEADS = ("", "n", "value (95 %)", "even", "p", "p, all together", "least found", "carried")
NARROW = 110  # columns; below, a name would be broken into many lines


def print_counts(values: Mapping[str, Any], stream: TextIO | None = None) -> None:
    """Draw the table, and what it comes to."""
    console = open_console(stream)
    names = [clean(one_line(row["name"])) for row in values["rows"]]
    apart = console.width < NARROW  # then the names stand below, by their numbers
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0) if apart else (0, 1), pad_edge=False)
    for i, head in enumerate(HEADS):
        table.add_column(head, justify="right" if i else "left", no_wrap=head.startswith("value"))
    for n, (name, row) in enumerate(zip(names, values["rows"], strict=True), 1):
        table.add_row(str(n) if apart else Text(name), *cells(row), style="" if row["carried"] == "yes" else "dim")
    console.print(Text(clean(one_line(values["title"])), "bold"))
    console.print(table)
    for n, name in enumerate(names, 1) if apart else ():
        prose(console, Text(f"{n:>4}  {name}"))
    if apart:
        console.print()
    prose(console, Text(f"{clean(one_line(values['says']))}."))
    if values["note"]:
        prose(console, Text(clean(one_line(values["note"])), "dim"))


def cells(row: Mapping[str, Any]) -> list[str]:
    """The figures of a row, as they are shown."""
    least = "" if row["least"] is None else f"{row['least']:.3f}"
    value = f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
    return [f"{row['n']:,}", value, f"{row['even']:.3f}", f"{row['p']:.3f}", f"{row['counted']:.3f}", least, row["carried"]]


def markdown(values: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    lines = [HEADS, ["---"] * len(HEADS), *([as_markdown(row["name"]), *cells(row)] for row in values["rows"])]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    parts = [f"# {as_markdown(values['title'])}", table, f"{as_markdown(values['says'])}.", as_markdown(values["note"])]
    return "\n\n".join(part for part in parts if part) + "\n"
