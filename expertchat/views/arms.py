"""How the table of arms looks: on a screen, and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from textwrap import fill
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from expertchat.text.sentences import clean, one_line
from expertchat.views.console import open_console
from expertchat.views.figures import NONE, percent, span
from expertchat.views.looks import indented, verdict

Row = Mapping[str, Any]
Column = tuple[str, list[str]]  # a title and the cells below it
GAP, EDGES = 2, 2  # cells between two columns, and beside them
WIDE = 150  # a screen that takes all columns side by side


def _number(value: float | None, digits: int = 2) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def _both(row: Row, name: str, digits: int = 2) -> str:
    """Policy / base."""
    values = row[f"{name}_policy"], row[f"{name}_base"]
    return NONE if values == (None, None) else " / ".join(_number(value, digits) for value in values)


def _win_rate(row: Row) -> str:
    if row["win_rate"] is None:
        return NONE
    return f"{percent(row['win_rate'], 1)} ({span(row, 'win_rate', lambda value: percent(value, 1))})"


def _over_seeds(row: Row) -> str:
    if len(row["seeds"]) < 2 or row["win_rate_min"] is None:
        return NONE
    return f"{percent(row['win_rate_min'], 1)}-{percent(row['win_rate_max'], 1)}"


def _ratio(row: Row) -> str:
    if row["distinct_ratio"] is None:
        return NONE
    interval = span(row, "distinct_ratio", _number)
    return _number(row["distinct_ratio"]) + (f" ({interval})" if interval else "")


def _rounds(row: Row) -> str:
    done = str(row["rounds"]) if row["rounds"] == row["rounds_max"] else f"{row['rounds']}-{row['rounds_max']}"
    return done if row["finished"] else f"{done} of {row['rounds_wanted']}"


def _judged(row: Row) -> str:
    """Of each seed."""
    return f"{row['judged']:,}" if row["judged"] == row["judged_max"] else f"{row['judged']:,}-{row['judged_max']:,}"


COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("seeds", lambda row: str(len(row["seeds"]))),
    ("win rate, %", _win_rate),
    ("seeds apart", _over_seeds),
    ("like length, %", lambda row: percent(row["win_rate_length_matched"])),
    ("facts, x base", _ratio),
    ("tokens", lambda row: _both(row, "tokens", 0)),
    ("facts", lambda row: _both(row, "distinct")),
    ("repeats", lambda row: _both(row, "repeats")),
    ("accuracy", lambda row: _both(row, "accuracy")),
    ("ties, %", lambda row: percent(row["tie_rate"])),
    ("nulls, %", lambda row: percent(row["null_rate"])),
    ("margin/sd", lambda row: _number(row["margin_scaled"])),
    ("KL", lambda row: _number(row["kl"], 1)),
    ("rounds", _rounds),
    ("judged replies", _judged),
)
FIRST = 6  # columns of the upper table where the screen is not wide


def columns(rows: Sequence[Row]) -> list[Column]:
    """Title and cells of every column in which at least one arm has something; the names of the arms first."""
    several = len({row["learner"] for row in rows}) > 1
    names = [one_line(clean(row["arm"])) + (f", expert {row['learner']}" if several else "") for row in rows]
    found = [(title, [cell(row) for row in rows]) for title, cell in COLUMNS]
    return [("arm", names), *((title, cells) for title, cells in found if set(cells) != {NONE})]


def caption(rows: Sequence[Row]) -> str:
    """What the numbers are."""
    judges = sorted({str(row["judge"]) for row in rows if row["judge"]})
    judged = f" ({', '.join(judges)})" if judges else ""
    return (
        f"Win rate against the base on held-out topics{judged}: Wilson's 95 % interval over the replies of all seeds, ties half. "
        "Policy / base; ties and nulls of the judgements in training; margin in standard deviations of the rewards; "
        "KL to the base in nats a reply, last round."
    )


def markdown(values: Mapping[str, Any]) -> str:
    """The table as Markdown, with its caption and notes."""
    shown = columns(values["arms"])
    lines = ["| " + " | ".join(title for title, _ in shown) + " |", "|---|" + "---:|" * (len(shown) - 1)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in zip(*(c for _, c in shown), strict=True)]
    notes = [f"- {one_line(clean(note))}" for note in values["notes"]]
    return "\n".join([*lines, "", caption(values["arms"]), *([""] if notes else []), *notes]) + "\n"


def print_arms(values: Mapping[str, Any], stream: TextIO | None = None) -> None:
    """The table, in two parts on a screen that is not wide, then the notes."""
    console = open_console(stream)
    rows, shown = values["arms"], columns(values["arms"])
    upper = {title for title, _ in COLUMNS[:FIRST]}
    parts = [shown] if console.width >= WIDE else [
        [column for column in shown if column[0] in upper or column[0] == "arm"],
        [column for column in shown if column[0] not in upper],
    ]  # fmt: skip
    console.print()
    for part in parts:
        for fits in fitting(part, console.width - 2 - EDGES):
            console.print(indented(_table(fits, rows)))
    console.print(indented(Text(caption(rows), "dim")))
    for note in values["notes"]:
        console.print(indented(Text(clean(note), "yellow")))
    console.print()


def fitting(part: Sequence[Column], width: int) -> list[list[Column]]:
    """The same columns in as many tables as it takes for no cell to be broken, their titles in as many lines; one, where that fits."""
    if sum(max(map(len, (title, *cells))) + GAP for title, cells in part) - GAP <= width:
        return [list(part)]
    arm, *columns = part
    room = width - min(max(map(len, arm[1])), width // 3)
    tables: list[list[Column]] = []
    left = 0
    for title, cells in columns:
        needed = max(map(len, (*title.split(), *cells)))
        if not tables or needed + GAP > left:
            tables.append([arm])
            left = room
        tables[-1].append((fill(title, needed), cells))
        left -= needed + GAP
    return tables


def _table(part: Sequence[Column], rows: Sequence[Row]) -> Table:
    out = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title, _ in part:
        out.add_column(title, justify="left" if title == "arm" else "right", overflow="fold")
    for cells, row in zip(zip(*(cells for _, cells in part), strict=True), rows, strict=True):
        styles = ["" if not title.startswith("win") else verdict(row["win_rate_low"], row["win_rate_high"]) for title, _ in part]
        out.add_row(*(Text(cell, style) for cell, style in zip(cells, styles, strict=True)))
    return out
