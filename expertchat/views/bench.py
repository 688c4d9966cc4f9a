"""What `expertchat bench` shows: a line of what is being measured, then a table for each part, ratios first."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from rich.markup import escape
from rich.status import Status
from rich.table import Table

from expertchat.text.sentences import clean
from expertchat.views.console import open_console
from expertchat.views.looks import indented

if TYPE_CHECKING:
    from expertchat.bench.results import Part

Shown = Callable[[float], str]


class BenchView:
    """Draws on `stream` (standard output): tables, and on a terminal the step that runs; elsewhere a plain line for each part."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.console = open_console(stream, markup=True)
        self._status: Status | None = None
        self._part = ""

    def started(self, about: Mapping[str, Any]) -> None:
        machine, model, packages = about["machine"], about["model"], about["packages"]
        memory = f"{machine['memory_gib']:g} GiB"
        cores = f"{machine['usable_cores']} of {machine['logical_cores']} cores, {machine['threads']} threads, {memory}"
        self._line(f"[bold]{_safe(model['name'])}[/]: {model['parameters'] / 1e6:,.1f} M parameters, {model['dtype']} on {model['device']}")
        self._line(f"{_safe(machine['cpu'])} ({_safe(machine['capability'])}), {cores}" + "".join(f", {_safe(g)}" for g in machine["gpus"]))
        self._line(f"torch {packages['torch']}, transformers {packages['transformers']}")
        for note in model["notes"]:
            self._line(f"[dim]{_safe(note)}[/]")
        for warning in about["warnings"]:
            self._line(f"[yellow]{_safe(warning)}[/]")

    def doing(self, text: str) -> None:
        """What is being measured now."""
        if self.console.is_terminal:
            if self._status is None:
                self._status = self.console.status("")
                self._status.start()
            self._status.update(f"[dim]{_safe(text)}[/]")
        elif (part := text.split(":")[0]) != self._part:
            self._part = part
            self._line(f"{_safe(part)} ...")

    def measured(self, part: Part) -> None:
        """The table of a part, with what is to be said of it."""
        self._quiet()
        self.console.print()
        self._line(f"[bold]{_safe(part.title)}[/]")
        if part.rows:
            self.console.print(part_table(part))
        width = max((len(name) for name, _ in part.facts), default=0)
        for name, value in part.facts:
            self._line(f"  {_safe(name):<{width}}  {_safe(value)}")
        for note in part.notes:
            self.console.print(indented(f"[dim]{_safe(note)}[/]"))

    def ended(self, path: str, seconds: float, stopped: bool) -> None:
        self._quiet()
        self.console.print()
        self.console.print(f"{'stopped' if stopped else 'done'} after {seconds:.0f} s; every timing: {_safe(path)}", soft_wrap=True)

    def close(self) -> None:
        self._quiet()

    def _quiet(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _line(self, text: str) -> None:
        self.console.print(text)


def part_table(part: Part) -> Table:
    """One row for each way of each case: ratios (median and extremes over the repeats), speed or seconds, counts."""
    table = Table(box=None, padding=(0, 2, 0, 0), collapse_padding=True)
    table.add_column("", no_wrap=True)
    table.add_column("", no_wrap=True)
    titles = [*(column.title for column in part.columns), _unit(part), "seconds", *part.counts.values()]
    rows = []
    for case, way in part.rows:
        ratios = [part.ratios(case, way, column) for column in part.columns]
        seconds = [timing.seconds for timing in part.of(case, way)]
        counts = [_median(part.counted(case, way, key), _share if key == "limit" else _count) for key in part.counts]
        speed = _spread(part.speeds(case, way), _count)
        rows.append([case, way, *(_spread(r, _ratio) for r in ratios), speed, _median(seconds, _seconds), *counts])
    speed_at = len(part.columns)
    if all(row[speed_at + 2] for row in rows):  # then seconds say nothing new, and the table fits on the screen
        rows = [[*row[: speed_at + 3], "", *row[speed_at + 4 :]] for row in rows]
    used = [i for i in range(len(titles)) if any(row[i + 2] for row in rows)]
    for i in used:
        table.add_column(titles[i], justify="right", style="bold" if i < len(part.columns) else "", overflow="fold")
    last = None
    for row in rows:
        if last not in (None, row[0]):
            table.add_section()
        table.add_row("" if row[0] == last else _safe(row[0]), _safe(row[1]), *(row[i + 2] for i in used))
        last = row[0]
    return table


def _unit(part: Part) -> str:
    return {"tokens": "tokens/s", "dialogues": "dialogues/h", "judgements": "judgements/h"}[part.unit]


def _spread(values: Sequence[float], shown: Shown) -> str:
    """The median, and the extremes where they differ from it as shown."""
    if not values:
        return ""
    middle, low, high = shown(statistics.median(values)), shown(min(values)), shown(max(values))
    return middle if low == high else f"{middle} [not bold dim]({low}-{high})[/]"


def _median(values: Sequence[float], shown: Shown) -> str:
    return shown(statistics.median(values)) if values else ""


def _seconds(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}"


def _share(value: float) -> str:
    return f"{value:.0%}"


def _safe(text: Any) -> str:
    return escape(clean(str(text)))
