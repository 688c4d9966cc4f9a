"""What `expertchat best_of_n` shows: a bar while prompts are answered and judged, and at the end what more candidates were worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from rich.table import Table
from rich.text import Text

from expertchat import events
from expertchat.text.in_words import line
from expertchat.views import words
from expertchat.views.bar import BarView
from expertchat.views.metrics import number

CHOOSER = "chooser"
EXAMPLES, SHOWN = 2, 300  # choices that are shown at the end, and characters of each
COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")  # of the judges, the chooser's first
MARKS = "●○▲△■□"
ROWS, CELL = 11, 9  # lines of the curve, and columns for each N
LEAST = 0.1  # from the bottom of the curve to its top, where the rates differ by less
Values = Mapping[str, Any]


class ChoosingView(BarView):
    """The view of a run that chooses among candidates."""

    doing = "prompts"

    def __init__(self, stream: TextIO | None = None, moves: bool = True) -> None:
        super().__init__(stream, moves)
        self._without = 0
        self._examples: list[events.CandidateChosen] = []

    def hear(self, event: events.AnyEvent) -> None:
        match event:
            case events.JudgeCalled():
                model = f" by {line(event.judge.model)}" if event.judge.model else ""
                does = "chooses" if event.judge.id == CHOOSER else "judges the choice"
                self._say(f"{line(event.judge.id)} {does}: {line(event.judge.note or event.judge.form)}{model}")
            case events.CandidateChosen():
                self._without += event.text is None
                if event.text is not None and len(self._examples) < EXAMPLES:
                    self._examples.append(event)

    def beside(self, event: events.Progress) -> str:
        return f"{event.tokens:,} tokens" + (f", {self._without:,} without a choice" if self._without else "")

    def show_end(self, summary: Values) -> None:
        if not summary.get("curve"):
            return
        self.console.print()
        for part in end(summary):
            self.console.print(part, soft_wrap=isinstance(part, Text) and not self.console.is_terminal)
        self.console.print()
        for one in self._examples:
            self._say(f"chosen{f', on {line(one.topic)}' if one.topic else ''}: {line(one.text or '')[:SHOWN]}")
        self.console.print()


def end(summary: Values) -> Iterator[Table | Text]:
    """The tables of a run, its curve, and what they say."""
    names = list(summary["judges"])
    for other in summary["against"]:
        yield win_table(summary, names, str(other))
        yield Text("")
    yield gap_table(summary, names)
    yield Text("")
    yield score_table(summary, names)
    yield Text("")
    yield from curve(summary, names)
    for said in summary["findings"]:
        yield Text(line(str(said)), style="bold")
    for said in counts(summary):
        yield Text(said, style="dim")


def win_table(summary: Values, names: Sequence[str], other: str) -> Table:
    """A row for each N: how often the choice wins against a text, by each judge, in per cent."""
    title = {"first": "the first of N", "base": "the base's reply", "rule": "the rule's text"}[other]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", title=f"wins against {title}, %", title_justify="left")
    table.add_column("N", justify="right")
    for i, name in enumerate(names):
        table.add_column(Text(line(name), style=COLOURS[i % len(COLOURS)]), justify="right")
    for row in summary["curve"]:
        table.add_row(str(row["n"]), *(_percent(row["judges"][name]["against"][other]) for name in names))
    return table


def gap_table(summary: Values, names: Sequence[str]) -> Table:
    """A row for each N: by how much the chooser thinks better of its choice than each other judge does, and prompts with none."""
    title = f"the {CHOOSER}'s win rate against the first of N is higher by, points"
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", title=title, title_justify="left")
    table.add_column("N", justify="right")
    for name in names[1:]:
        table.add_column(f"than by {line(name)}", justify="right")
    table.add_column("prompts with two best", justify="right")
    table.add_column("with no choice", justify="right")
    for row in summary["curve"]:
        gaps = (_percent(row["gaps"][name]) for name in names[1:])
        table.add_row(str(row["n"]), *gaps, f"{row['ties']:,}", f"{row['nothing']:,}")
    return table


def score_table(summary: Values, names: Sequence[str]) -> Table:
    """A row for each N: its KL divergence, and what the choice is worth to each judge that rates."""
    rating = [name for name in names if "score" in summary["curve"][0]["judges"][name]]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", title="mean score of the choice", title_justify="left")
    table.add_column("N", justify="right")
    table.add_column("KL, nats", justify="right")
    for name in rating:
        table.add_column(Text(line(name), style=COLOURS[names.index(name) % len(COLOURS)]), justify="right")
    for row in summary["curve"]:
        distance = "" if row["kl"] is None else f"{row['kl']:.2f}"
        table.add_row(str(row["n"]), distance, *(_written(row["judges"][name]["score"], 1.0, 2) for name in rating))
    return table


def curve(summary: Values, names: Sequence[str]) -> Iterator[Text]:
    """The win rates against the first of N as a picture: N from left to right, a mark for each judge."""
    rows = summary["curve"]
    rates = {name: [row["judges"][name]["against"]["first"]["value"] for row in rows] for name in names}
    known = [value for values in rates.values() for value in values if value is not None]
    if len(rows) < 2 or not known:
        return
    low = min(0.5, *known)
    high = max(low + LEAST, *known)
    step = (high - low) / (ROWS - 1)
    lines: list[list[tuple[str, str]]] = [[(" ", "")] * (CELL * len(rows)) for _ in range(ROWS)]
    for i, name in enumerate(names):
        for column, value in enumerate(rates[name]):
            if value is not None:
                at = column * CELL + CELL // 2 + i - len(names) // 2
                lines[ROWS - 1 - round((value - low) / step)][at] = MARKS[i % len(MARKS)], COLOURS[i % len(COLOURS)]
    yield Text.assemble("wins against the first of N   ", *_legend(names))
    for at, cells in enumerate(lines):
        label = f"{100 * (high - at * step):5.0f} %" if at in (0, ROWS - 1) else " " * 7
        yield Text.assemble(f"{label} │", *cells)
    yield Text(" " * 8 + "└" + "─" * (CELL * len(rows)))
    yield Text(" " * 9 + "".join(f"N = {row['n']}".center(CELL) for row in rows))


def _legend(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for i, name in enumerate(names):
        yield f"{MARKS[i % len(MARKS)]} {line(name)}  ", COLOURS[i % len(COLOURS)]


def counts(summary: Values) -> Iterator[str]:
    """How much there was, and what was left out."""
    nulls = "; ".join(f"{line(name)} gave {judge['null']:,} no answer" for name, judge in summary["judges"].items() if judge["null"])
    yield (
        f"{words.counted(summary['prompts'], 'prompt')}, {words.counted(summary['candidates'], 'candidate')}: {summary['blank']:,} blank, "
        f"{summary['equal']:,} equal to an earlier one, {summary['cut']:,} cut" + (f"; {nulls}" if nulls else "")
    )
    made = f"demonstrations.jsonl: {words.counted(summary.get('demonstrations', 0), 'row')}"
    left = summary.get("demonstrations_cut", 0)
    pairs = f"; pairs.jsonl: {words.counted(summary['pairs'], 'pair')}" if "pairs" in summary else ""
    yield made + (f" ({left:,} cut ones left out)" if left else "") + pairs


def _percent(figure: Values) -> str:
    return _written(figure, 100.0, 1)


def _written(figure: Values, factor: float, digits: int) -> str:
    """ "71.2 (66.6-75.5)"; "" where there is none."""
    if figure["value"] is None:
        return ""
    text = number(factor * figure["value"], digits)
    if figure["low"] is None or figure["high"] is None:
        return text
    return f"{text} ({number(factor * figure['low'], digits)} to {number(factor * figure['high'], digits)})"
