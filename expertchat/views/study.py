"""How a study looks: its steps with their states, drawn over and over on a terminal, else a line for what happens; its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from expertchat.text.sentences import clean, one_line
from expertchat.views.console import open_console, prose
from expertchat.views.live import can_draw
from expertchat.views.words import clock

MARKS = {"done": ("✓", "green"), "runs": ("▸", "bold cyan"), "left": ("·", "dim"), "failed": ("✗", "bold red"), "stopped": ("‖", "yellow")}
CODES = {0: "done", 3: "stopped"}
SAY_EVERY = 60.0  # seconds between two lines about a step that runs, where nothing is drawn


class Step(Protocol):
    """What is shown of a step."""

    @property
    def name(self) -> str: ...
    @property
    def command(self) -> str: ...
    @property
    def about(self) -> str: ...


class Shown(Protocol):
    """A table of figures or answers."""

    @property
    def title(self) -> str: ...
    @property
    def columns(self) -> Sequence[str]: ...
    @property
    def rows(self) -> Mapping[str, Sequence[object]]: ...
    @property
    def published(self) -> frozenset[str]: ...
    @property
    def note(self) -> str: ...


class StudyView:
    """Told by the study how it goes (see expertchat.studies.going.Watcher). `draws`: on a terminal that can be drawn on."""

    def __init__(self, title: str, stream: TextIO | None = None, draws: bool = True) -> None:
        self.title, self.console = title, open_console(stream)
        self._live: Live | None = None
        self._draws = draws and can_draw(self.console)
        self._steps: Sequence[Step] = ()
        self._states: dict[str, str] = {}
        self._seconds: dict[str, float] = {}
        self._line, self._said_at = "", 0.0

    def begins(self, steps: Sequence[Step], left: Mapping[str, str]) -> None:
        """Show the steps, and say which are run again and why."""
        self._steps = steps
        self._states = {step.name: "left" if step.name in left else "done" for step in steps}
        done = len(steps) - len(left)
        self._say(f"{one_line(self.title)}: {len(steps)} steps" + (f", {done} of them done before" if done else ""), "bold")
        for name, why in left.items():
            if why:
                self._say(f"step {name} is run again: {one_line(why)}", "yellow")
        if self._draws and left:
            self._live = Live(self._drawn(), console=self.console, refresh_per_second=4, transient=False)
            self._live.start()

    def doing(self, step: Step, seconds: float, line: str) -> None:
        self._states[step.name], self._seconds[step.name], self._line = "runs", seconds, line
        if self._live is not None:
            self._live.update(self._drawn())
        elif seconds - self._said_at >= SAY_EVERY:
            self._said_at = seconds
            self._say(f"  {step.name} {clock(seconds)}  {clean(one_line(line))[:100]}", "dim")

    def did(self, step: Step, code: int, seconds: float) -> None:
        state = CODES.get(code, "failed")
        self._states[step.name], self._seconds[step.name], self._line, self._said_at = state, seconds, "", 0.0
        if self._live is not None:
            self._live.update(self._drawn())
        else:
            self._say(f"{MARKS[state][0]} {step.name} ({step.command}) {state} after {clock(seconds)}", MARKS[state][1])

    def says(self, text: str) -> None:
        self.close()
        self._say(clean(text), "red")

    def close(self) -> None:
        """Leave the last picture as it is. May be called twice."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, tables: Mapping[str, Shown], finding: str, report: str) -> None:
        """The tables of the study, the sentence that they come to (may be empty), and where the report lies."""
        for table in tables.values():
            self._say("")
            self._say(one_line(table.title), "bold")
            self.console.print(_drawn_table(table))
            if table.published:
                self._say("in italics: what others have reported; nothing of it was measured here", "dim")
            if table.note:
                self._say(one_line(table.note), "dim")
        if finding:
            self._say(f"\n{clean(one_line(finding))}", "bold")
        self._say(f"report: {report}")

    def _say(self, text: str, style: str = "") -> None:
        prose(self.console, Text(text, style))

    def _drawn(self) -> Group:
        grid = Table.grid(padding=(0, 2))
        for step in self._steps:
            state = self._states[step.name]
            mark, style = MARKS[state]
            seconds = clock(self._seconds[step.name]) if step.name in self._seconds else ""
            grid.add_row(Text(mark, style), Text(step.name, style if state == "runs" else ""), Text(step.command, "dim"), seconds,
                         Text(one_line(step.about), "dim", overflow="ellipsis", no_wrap=True))  # fmt: skip
        return Group(grid, Text(clean(one_line(self._line)), "dim", overflow="ellipsis", no_wrap=True))


def print_chain(values: Mapping[str, Any], stream: TextIO | None = None) -> None:
    """The jobs of a study, what they ask for and what they begin after; then what was found out beforehand."""
    console = open_console(stream)
    table = Table(box=SIMPLE_HEAD)
    for column in ("jobs", "steps", "each on", "work, about", "a start", "begins after"):
        table.add_column(column, overflow="fold")
    for job in values["jobs"]:
        numbers = ", ".join(map(str, filter(None, job["jobs"]))) or str(len(job["jobs"]))
        cells = (numbers, ", ".join(job["names"]), job["gpus"] or "no GPU", job["work"] or "not known", job["time"], job["after"])
        table.add_row(*(Text(clean(one_line(str(cell)))) for cell in cells))
    head = "submitted" if values["submitted"] else "written, not submitted"
    jobs = sum(len(job["jobs"]) for job in values["jobs"])
    prose(console, Text(f"{one_line(values['title'])}: {jobs} jobs {head}", "bold"))
    console.print(table)
    for text in values["totals"]:
        prose(console, Text(clean(text)))
    for name in ("scripts", "submit", "list"):
        if values.get(name):
            console.print(Text.assemble((f"  {name:<8}", "cyan"), clean(values[name])), soft_wrap=True)
    for note in values["notes"]:
        prose(console, Text(f"  · {clean(note)}", "dim"))


def _drawn_table(shown: Shown) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for column in ("", *shown.columns):
        table.add_column(Text(one_line(column)), justify="left", overflow="fold")  # of an answer nothing is left out
    for name, cells in shown.rows.items():
        style = "italic dim" if name in shown.published else ""
        table.add_row(*(Text(clean(one_line(str(cell))), style) for cell in (name, *cells)))
    return table
