"""A branch beside the dialogue that it goes on from, and the family that a run belongs to."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.table import Table
from rich.text import Text

from expertchat.records import Transcript, Turn
from expertchat.text.in_words import line
from expertchat.text.sentences import clean
from expertchat.views import words
from expertchat.views.console import open_console, prose
from expertchat.views.sides import called


def print_branch(parent: Transcript, branch: Transcript, kept: int, stream: TextIO | None = None) -> None:
    """What came after the turns that both have, side by side."""
    console = open_console(stream)
    console.print()
    console.print(Text(f"After turn {kept - 1}: as it was, and as it is in the branch", style="bold"))
    table = Table(box=None, padding=(0, 2, 1, 0), expand=True)
    table.add_column("turn", style="dim", no_wrap=True)
    table.add_column("before", ratio=1)
    table.add_column("branch", ratio=1)
    for index in range(kept - 1, max(len(parent.turns), len(branch.turns))):
        before, now = (one.turns[index] if index < len(one.turns) else None for one in (parent, branch))
        table.add_row(str(index), _said(before), _said(now))
    table.add_row("", Text(words.stop_in_words(parent.stop_reason, len(parent.turns)), "dim"),
                  Text(words.stop_in_words(branch.stop_reason, len(branch.turns)), "dim"))  # fmt: skip
    console.print(table)


def _said(turn: Turn | None) -> Text:
    if turn is None:
        return Text("-", "dim")
    remarks = "; ".join(words.remarks(turn))
    text = Text(f"{called(turn.speaker)}: ", "bold").append(clean(turn.text), "")
    return text.append(f" ({remarks})", "dim") if remarks else text


def print_family(rows: Sequence[Mapping[str, Any]], stream: TextIO | None = None) -> None:
    """A run and its branches as a tree."""
    console = open_console(stream)
    before: Mapping[str, Any] = {}
    for row in rows:
        branch, depth = row["branch"], int(row["depth"])
        name = line(os.path.relpath(row["folder"]) if Path(row["folder"]).is_absolute() else row["folder"])
        text = Text(f"{'   ' * depth}{'└─ ' if depth else ''}").append(name, "bold")
        if branch:
            text.append(f"  from {line(str(branch.get('dialogue')))}/{int(branch.get('turns') or 1) - 1}")
            text.append(" (edited)" if branch.get("edited") is not None else "")
        told = ", ".join(f"{called(seat)} {line(model)}" for seat, model in row["models"].items())
        text.append(f"  {told}; seed {row['seed']}{'' if row['done'] else '; not finished'}", "dim")
        prose(console, text)
        before = row
    if len(rows) == 1 and not before.get("branch"):
        console.print(Text("no branches yet: expertchat branch RUN DIALOGUE/TURN", "dim"), soft_wrap=True)
