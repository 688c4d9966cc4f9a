"""What commands say that draw nothing while they work: `submit`, `merge`, `merge_runs`, `world check`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from rich.table import Table
from rich.text import Text

from expertchat.text.sentences import clean, shown_path
from expertchat.views.console import console_on
from expertchat.views.figures import NONE
from expertchat.views.plan import size
from expertchat.views.words import counted

if TYPE_CHECKING:
    from expertchat.training.merge import Merged
    from expertchat.world.check import Row


def _say(stream: TextIO | None, *lines: str | Text | tuple[str, str]) -> None:
    """Lines, or (line, style), that a terminal may wrap and a pipe gets whole."""
    console = console_on(stream)
    for line in lines:
        console.print(Text(line) if isinstance(line, str) else Text(*line) if isinstance(line, tuple) else line, soft_wrap=True)


def print_submitted(values: Mapping[str, Any], stream: TextIO | None = None) -> None:
    """The job, where its run is and how to follow it, then what was found out beforehand."""
    head = f"job {values['job']} submitted" if values["job"] else "written, not submitted"
    named = [name for name in ("run", "script", "submit", "log", "watch", "merge") if values.get(name)]
    _say(
        stream,
        Text.assemble((head, "bold"), f": {clean(values['about'])}"),
        *(Text.assemble((f"  {name:<8}", "cyan"), clean(values[name])) for name in named),
        *((f"  · {clean(note)}", "dim") for note in values["notes"]),
    )


def print_step(text: str, stream: TextIO | None = None) -> None:
    """One step of a merge that is going on."""
    _say(stream, (f"{clean(text)} ...", "dim"))


def print_merged(merged: Merged, stream: TextIO | None = None) -> None:
    """What a merge has written, and how well it fits."""
    said = f"{merged.out}: {shown_path(merged.base)} with {merged.source}, {merged.dtype}, {size(merged.gib * 2**30)}"
    checked = f"checked: its logits differ from base and adapter by {merged.difference:.1e} of their spread"
    adapter = f"; the adapter changes them by {merged.effect:.1e}"
    _say(stream, clean(said), checked + adapter, *((clean(note), "yellow") for note in merged.notes))


def print_merged_runs(values: Mapping[str, Any], stream: TextIO | None = None) -> None:
    """What runs were merged (expertchat.runs.merge_runs.Merged), where that is, and what is lacking."""
    summary = values["summary"]
    what = counted(len(values["sources"]), "part" if values["kind"] == "parts" else "seed")
    if "conversations" in summary:
        holds = f"{counted(summary['conversations'], 'dialogue')}, {counted(summary['turns'], 'turn')}"
    else:
        made = next(what for what in ("pairs", "groups") if what in summary)
        holds = f"{counted(summary['rounds'], 'round')} each, {counted(summary[made], made.removesuffix('s'))}"
    notes = [*values["lacking"], *values["notes"], *summary.get("notes", [])]
    look = clean(f"look at it: expertchat watch {values['out']}"), "dim"
    _say(stream, clean(f"{values['out']}: {what}, {holds}"), *((clean(note), "yellow") for note in notes), look)


def print_check(rows: Sequence[Row]) -> None:
    """The table of `expertchat world check`: figures, targets, and whether they are met."""
    table = Table(title="The embedded world on unseen dialogues")
    for column in ("", "llama", "mixtral", "target", ""):
        table.add_column(column, justify="left" if not column else "right")
    for row in rows:
        values = [f"{v:.3f}" if math.isfinite(v) else NONE for v in row.values.values()]
        target = f"{row.target[0]} {row.target[1]:g}" if row.target else ""
        met = {None: "", True: "met", False: "[bold red]short[/]"}[row.met]
        table.add_row(row.name, *(values if len(values) == 2 else [*values, ""]), target, met)
    console_on(markup=True).print(table)
