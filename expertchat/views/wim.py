"""How it looks what the WIM score of some runs rewards: a line for each figure, a column for each run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from expertchat.text.sentences import clean, one_line
from expertchat.views.console import open_console
from expertchat.views.figures import NONE
from expertchat.views.looks import indented

MOST = 4  # runs side by side
ABOUT = (
    "Shares of two replies to one history, ties left out: .5 would be chance. Without WIM responses there is nothing to hold against. "
    "Intervals of 95 %, topics drawn whole."
)


def print_cosines(values: Mapping[str, Any], stream: TextIO | None = None) -> None:
    """The figures of every run, some runs at a time, and which runs had none."""
    console = open_console(stream)
    runs = values["runs"]
    for first in range(0, len(runs), MOST):
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("")
        for run in runs[first : first + MOST]:
            table.add_column(Text(one_line(clean(str(run["run"])))), justify="right")
        for name, title in values["titles"].items():
            table.add_row(Text(title), *(Text(_cell(run[name])) for run in runs[first : first + MOST]))
        console.print(indented(table))
    console.print(indented(Text(ABOUT, "dim")))
    if values["without"]:
        console.print(indented(Text(f"without a WIM score: {', '.join(map(clean, values['without']))}", "yellow")))


def _cell(figure: Any) -> str:
    """ ".71 (.65-.77)"; "1,024"."""
    if not isinstance(figure, Mapping):
        return f"{figure:,}"
    if figure["value"] is None:
        return NONE
    return _short(figure["value"]) + (f" ({_short(figure['low'])} to {_short(figure['high'])})" if figure["low"] is not None else "")


def _short(value: float) -> str:
    return f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"
