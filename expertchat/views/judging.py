"""What `expertchat judge` shows: a bar while judges are at work (plain lines where there is no terminal), and a table of what they said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from rich.table import Table
from rich.text import Text

from expertchat import events
from expertchat.text.in_words import line
from expertchat.views import words
from expertchat.views.arms import Column, fitting
from expertchat.views.bar import BarView

PLACES = ("first", "second", "tie")
MOST_FAULTS = 3  # kinds that a row of the table names


class JudgingView(BarView):
    """The view of a judges' run."""

    doing = "judged"

    def __init__(self, stream: TextIO | None = None, moves: bool = True) -> None:
        super().__init__(stream, moves)
        self._unanswered = 0

    def hear(self, event: events.AnyEvent) -> None:
        match event:
            case events.JudgeCalled():
                model = f" by {line(event.judge.model)}" if event.judge.model else ""
                self._say(f"judge {line(event.judge.id)}: {event.judge.form}{model}, {words.counted(event.items, 'item')}")
            case events.OpinionGiven():
                self._unanswered += not event.opinion.answered

    def beside(self, event: events.Progress) -> str:
        return f"{self._unanswered:,} unanswered" if self._unanswered else ""

    def show_end(self, summary: Mapping[str, Any]) -> None:
        if judges := summary.get("judges"):
            self.console.print()
            columns = judges_columns(judges)
            for table in tables(columns, self.console.width):
                self.console.print(table)
            for said in (said for title, said in LEGEND if title in [title for title, _ in columns]):
                self._say(said, "dim")
            if won := wins_columns(judges):
                self.console.print()
                for table in tables(won, self.console.width, "times chosen"):
                    self.console.print(table)
            self.console.print()


def judges_columns(judges: Mapping[str, Any]) -> list[Column]:
    """Of each judge: how much it answered and what it says on the whole. Columns that nobody has anything for are left out."""
    rows = [_row(str(name), judge) for name, judge in judges.items()]
    found = [(title, [row[i] for row in rows]) for i, title in enumerate(COLUMNS)]
    return [(title, cells) for title, cells in found if any(cells)]


def tables(columns: Sequence[Column], width: int, title: str | None = None) -> Iterator[Table]:
    """The columns in as many tables as it takes for no figure to be broken; words may be, between two of them."""
    for n, part in enumerate(fitting(columns, width)):
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold", title_justify="left")
        table.title = title if not n else None
        for i, (head, _) in enumerate(part):
            figures = i > 0 and head not in WORDS
            table.add_column(Text(head), justify="right" if figures else "left", overflow="fold", no_wrap=figures)
        for row in zip(*(cells for _, cells in part), strict=True):
            table.add_row(*map(Text, row))
        yield table


COLUMNS = ("judge", "form", "items", "opinions", "no answer", "mean", "1st", "2nd", "tie", "agree", "s/1,000")
WORDS = ("form", "no answer")  # columns that hold more than figures
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


def wins_columns(judges: Mapping[str, Any]) -> list[Column]:
    """How often each system's text was chosen, in each order of presentation; none where systems are not compared."""
    rows = list(_wins(judges))
    names = sorted({name for _, _, won in rows for name in won if name != "tie"})
    if len(names) < 2:
        return []
    told = [f"{line(judge)}, {'as listed' if order == 'first' else 'turned round'}" for judge, order, _ in rows]
    return [("judge, order shown", told), *((line(name), [f"{won.get(name, 0):,}" for _, _, won in rows]) for name in (*names, "tie"))]


def _wins(judges: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, int]]]:
    for name, judge in judges.items():
        for order, won in judge.get("wins", {}).items():
            if won:
                yield name, order, won


def _number(value: Any, digits: int) -> str:
    return f"{value:,.{digits}f}" if isinstance(value, int | float) else ""
