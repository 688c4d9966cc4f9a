"""How the list of runs looks on a screen: one line a run where there is room, what it does below its name elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from expertchat.text.in_words import age, line
from expertchat.views.console import open_console
from expertchat.views.looks import bar
from expertchat.views.words import counted

Row = Mapping[str, Any]
LISTED = 25  # runs that are shown unless all are asked for
TASKS = 12  # and tasks of an array
HINTS = 5  # command lines that go on with a run
ROOMY = 120  # columns from which all stands side by side
BARS = 96  # columns from which the progress is drawn too
LOOKS = {"running": "bold green", "queued": "yellow", "stopped": "cyan", "failed": "bold red", "done": "dim"}


def print_runs(values: Mapping[str, Any], stream: TextIO | None = None, everything: bool = False, now: float | None = None) -> None:
    """The list (expertchat.runs.listing.runs), how many there are in each state, and how to go on with those that stopped."""
    console = open_console(stream)
    rows: Sequence[Row] = values["runs"]
    if not rows:
        console.print(Text("  there are no runs here; expertchat converse makes one, expertchat runs FOLDER looks elsewhere", "dim"))
        return
    shown = rows if everything else rows[:LISTED]
    console.print()
    console.print(Padding(_table(shown, console.width - 2, everything, time.time() if now is None else now), (0, 0, 0, 2)))
    states = Counter(str(row["state"]) for row in rows)
    words = ", ".join(f"{states[state]} {state}" for state in LOOKS if states[state])
    more = f"; {len(rows) - len(shown)} older ones are not shown (--all)" if len(shown) < len(rows) else ""
    console.print(Text(f"  {counted(len(rows), 'run')}: {words}{more}", "dim"))
    for note in values["notes"]:
        console.print(Text(f"  {line(note)}", "yellow"))
    _print_hints(console, [row for row in shown if row["resume"] and row["state"] in ("stopped", "failed")])
    console.print()


def _print_hints(console: Console, rows: Sequence[Row]) -> None:
    """How to go on, each command line on a line of its own, so that it can be copied."""
    if not rows:
        return
    console.print()
    for row in rows[:HINTS]:
        console.print(Text.assemble((f"  {line(row['name'])} goes on with", "dim")))
        console.print(Text(f"    {line(row['resume'])}"), soft_wrap=True)
    if len(rows) > HINTS:
        console.print(Text(f"  and {counted(len(rows) - HINTS, 'run')} more; --out FILE.json has all command lines", "dim"))


def _table(rows: Sequence[Row], width: int, everything: bool, now: float) -> Table:
    out = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), width=width)
    roomy, lines = width >= ROOMY, _lines(rows, everything)
    jobs = any(row["job"] for row, _ in lines)
    out.add_column("state", no_wrap=True)
    out.add_column("run", overflow="fold", max_width=44 if roomy else None, ratio=None if roomy else 1)
    out.add_column("progress", no_wrap=True)
    if jobs:
        out.add_column("job", no_wrap=True)
    out.add_column("age", justify="right", no_wrap=True)
    if roomy:
        out.add_column("what it does", ratio=1, overflow="fold")
    for row, depth in lines:
        name = Text("  " * depth + line(row["name"]))
        if not row["tasks"] and not depth and row["command"] and row["command"] not in row["name"]:
            name.append(f"  {line(row['command'])}", "dim")
        cells: list[RenderableType] = [Text(row["state"], LOOKS.get(row["state"], "")), name, _progress(row, width >= BARS)]
        cells += [_job(row)] if jobs else []
        since = row["last_time"] or (row["began"] if row["state"] else None)
        cells.append(Text(age(now - since) if since else ""))
        what = _what(row)
        if roomy:
            cells.append(what)
        elif what.plain:
            cells[1] = Group(name, Padding(what, (0, 0, 0, 2 * depth)))
        out.add_row(*cells)
    return out


def _lines(rows: Sequence[Row], everything: bool) -> list[tuple[Row, int]]:
    """Runs, and the tasks of arrays one step to the right. Of a large array, those that are done are left out first."""
    found: list[tuple[Row, int]] = []
    for row in rows:
        found.append((row, 0))
        tasks = row["tasks"]
        if len(tasks) > TASKS and not everything:
            order = list(LOOKS)
            chosen = sorted(range(len(tasks)), key=lambda i: (order.index(tasks[i]["state"]), i))[: TASKS - 1]
            rest = len(tasks) - len(chosen)
            said = {**row, "name": f"and {rest} more (--all)", "tasks": [], "state": "", "reason": "", "job": "", "last_time": None}
            found += [(tasks[i], 1) for i in sorted(chosen)]
            found.append(({**said, "done": None, "total": None, "last_event": "", "left": None, "command": ""}, 1))
        else:
            found += [(task, 1) for task in tasks]
    return found


def _progress(row: Row, drawn: bool) -> Text:
    done, total = row["done"], row["total"]
    if total is None:
        return Text(f"{done:,}/?" if done else "", "dim")
    unit = " rounds" if row["unit"] == "rounds" and drawn else ""
    text = Text()
    if drawn:
        text.append_text(bar(min(1.0, (done or 0) / total) if total else 0.0, 8, LOOKS.get(row["state"], "green"))).append(" ")
    return text.append(f"{'?' if done is None else f'{done:,}'}/{total:,}{unit}")


def _job(row: Row) -> Text:
    text = Text(line(row["job"]))
    if row["restarts"]:
        text.append(f" ↻{row['restarts']}", "yellow")
    return text


def _what(row: Row) -> Text:
    """The reason of a state, else the last thing that happened; and the time that a job has left."""
    style = {"failed": "red", "queued": "yellow"}.get(row["state"], "dim")
    said = Text(line(row["reason"] or ("" if row["state"] == "done" else row["last_event"])), style)
    if row["left"] is not None and not row["tasks"]:
        said.append(f"{'; ' if said.plain else ''}{age(row['left'])} left", "dim")
    return said
