"""Tables that commands print at their end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from expertchat.views.console import console_on

if TYPE_CHECKING:
    from expertchat.world.check import Row


def print_check(rows: Sequence[Row]) -> None:
    """The table of `expertchat world check`: figures, targets, and whether they are met."""
    table = Table(title="The embedded world on unseen dialogues")
    for column in ("", "llama", "mixtral", "target", ""):
        table.add_column(column, justify="left" if not column else "right")
    for row in rows:
        values = [f"{v:.3f}" for v in row.values.values()]
        target = f"{row.target[0]} {row.target[1]:g}" if row.target else ""
        met = {None: "", True: "met", False: "[bold red]short[/]"}[row.met]
        table.add_row(row.name, *(values if len(values) == 2 else [*values, ""]), target, met)
    console_on(markup=True).print(table)
