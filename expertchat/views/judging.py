"""What `expertchat judge` shows: a bar while judges are at work (plain lines where there is no terminal), and a table of what they said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from expertchat import events
from expertchat.text.in_words import line
from expertchat.text.sentences import clean
from expertchat.views import words
from expertchat.views.console import CleanConsole, open_console
from expertchat.views.live import can_draw

PROGRESS_EVERY = 30.0  # seconds between two lines of progress
PLACES = ("first", "second", "tie")
MOST_FAULTS = 3  # kinds that a row of the table names


class JudgingView:
    """A sink that draws on `stream` (standard output). `moves`: a bar moves on a terminal that can show it; `doing` stands before it."""

    def __init__(self, stream: TextIO | None = None, moves: bool = True, doing: str = "judged") -> None:
        self._doing = doing
        self.console: CleanConsole = open_console(stream)
        self._moves = moves and can_draw(self.console)
        self._bar: Progress | None = None
        self._run: events.RunStarted | None = None
        self._said_at = 0.0
        self._given = self._unanswered = 0

    def send(self, event: events.AnyEvent) -> None:
        """Draw what the event says."""
        match event:
            case events.RunStarted():
                self._run = event
                before = f", {event.resumed:,} of them done before" if event.resumed else ""
                self._say(f"ExpertChat {line(event.command)}: {words.whole_in_words(event)}{before}", "bold")
                self._say(f"run folder: {line(event.folder)}")
            case events.Loading(done=False) if not self._moves:
                self._say(f"loading {line(event.what)}")
            case events.Loading(done=True):
                self._say(f"loaded {line(event.what)} in {event.seconds:.1f} s", "dim")
            case events.Note():
                warns = event.level == "warning"
                self._say(f"{'warning' if warns else 'note'}: {line(event.text)}", "bold red" if warns else "dim")
            case events.JudgeCalled():
                model = f" by {line(event.judge.model)}" if event.judge.model else ""
                self._say(f"judge {line(event.judge.id)}: {event.judge.form}{model}, {words.counted(event.items, 'item')}")
            case events.OpinionGiven():
                self._given += 1
                self._unanswered += not event.opinion.answered
            case events.Progress():
                self._on_progress(event)
            case events.RunFinished():
                self._on_finished(event)

    def close(self) -> None:
        """Put the terminal back in order. May be called twice."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _on_progress(self, event: events.Progress) -> None:
        nulls = f", {self._unanswered:,} unanswered" if self._unanswered else ""
        if self._moves:
            if self._bar is None:
                columns = (TextColumn(self._doing), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
                self._bar = Progress(*columns, TextColumn("{task.fields[nulls]}"), console=self.console, transient=True)
                self._bar.add_task("", total=event.total, nulls="")
                self._bar.start()
            self._bar.update(self._bar.task_ids[0], completed=event.finished, total=event.total, nulls=nulls.lstrip(", "))
        elif event.seconds - self._said_at >= PROGRESS_EVERY:
            self._said_at = event.seconds
            self._say(f"progress: {event.finished:,} of {event.total:,} {self._doing}{nulls}, {words.clock(event.seconds)}")

    def _on_finished(self, event: events.RunFinished) -> None:
        self.close()
        if judges := event.summary.get("judges"):
            assert isinstance(judges, Mapping)
            self.console.print()
            table = judges_table(judges)
            self.console.print(table)
            for said in (said for title, said in LEGEND if title in [column.header for column in table.columns]):
                self._say(said, "dim")
            if (won := wins_table(judges)) is not None:
                self.console.print()
                self.console.print(won)
            self.console.print()
        self._say(words.ending(event), {"done": "bold green", "stopped": "bold", "failed": "bold red"}[event.status])
        if self._run is not None:
            self._say(f"run folder: {clean(self._run.folder)}")

    def _say(self, text: str, style: str = "") -> None:
        self.console.print(Text(text, style=style), soft_wrap=not self.console.is_terminal)


def judges_table(judges: Mapping[str, Any]) -> Table:
    """A row for each judge: how much it answered and what it says on the whole. Columns that nobody has anything for are left out."""
    rows = [_row(str(name), judge) for name, judge in judges.items()]
    used = [i for i in range(len(COLUMNS)) if any(row[i] for row in rows)]
    table = Table(box=None, padding=(0, 2, 0, 0), collapse_padding=True, header_style="bold")
    for i in used:
        table.add_column(COLUMNS[i], justify="left" if i < 2 else "right", overflow="fold" if i == 0 else "ellipsis")
    for row in rows:
        table.add_row(*(row[i] for i in used))
    return table


COLUMNS = ("judge", "form", "items", "opinions", "no answer", "mean", "1st", "2nd", "tie", "agree", "s/1,000")
LEGEND = (  # of those columns that are there
    ("mean", "mean: of all categories, of a rule or a reward model on its own scale"),
    ("1st", "1st, 2nd: chosen by its place as shown; agree: pairs that are decided alike in both orders"),
    ("s/1,000", "s/1,000: seconds of the model for a thousand opinions"),
)


def _row(name: str, judge: Mapping[str, Any]) -> list[str]:
    lacking, both = judge["opinions"] - judge["answered"], judge.get("both_orders")
    kinds = ", ".join(f"{line(kind)} {count}" for kind, count in list(judge["faults"].items())[:MOST_FAULTS])
    shown = judge.get("shown", {})
    return [
        line(name),
        line(judge["form"]),
        f"{judge['items']:,}",
        f"{judge['opinions']:,}",
        f"{lacking:,} ({kinds})" if lacking else "0",
        _number(judge.get("mean"), 2),
        *(f"{shown[place]:,}" if shown else "" for place in PLACES),
        f"{judge['agree']:,} of {both:,}" if both else "",
        _number(judge["seconds_per_1000"], 1),
    ]


def wins_table(judges: Mapping[str, Any]) -> Table | None:
    """How often each system's text was chosen, in each order of presentation; None where systems are not compared."""
    rows = list(_wins(judges))
    names = sorted({name for _, _, won in rows for name in won if name != "tie"})
    if len(names) < 2:
        return None
    table = Table(box=None, padding=(0, 2, 0, 0), collapse_padding=True, header_style="bold", title="times chosen", title_justify="left")
    table.add_column("judge", overflow="fold")
    table.add_column("order shown")
    for name in (*names, "tie"):
        table.add_column(line(name), justify="right", overflow="fold")
    for judge, order, won in rows:
        told = "as listed" if order == "first" else "turned round"
        table.add_row(line(judge) if order == "first" else "", told, *(f"{won.get(name, 0):,}" for name in (*names, "tie")))
    return table


def _wins(judges: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, int]]]:
    for name, judge in judges.items():
        for order, won in judge.get("wins", {}).items():
            if won:
                yield name, order, won


def _number(value: Any, digits: int) -> str:
    return f"{value:,.{digits}f}" if isinstance(value, int | float) else ""
