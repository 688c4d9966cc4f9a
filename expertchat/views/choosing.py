"""What `expertchat best_of_n` shows: a bar while prompts are answered and judged, and at the end what more candidates were worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
CHOOSER = "chooser"
EXAMPLES, SHOWN = 2, 300  # choices that are shown at the end, and characters of each
COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")  # of the judges, the chooser's first
MARKS = "●○▲△■□"
ROWS, CELL = 11, 9  # lines of the curve, and columns for each N
LEAST = 0.1  # from the bottom of the curve to its top, where the rates differ by less
Values = Mapping[str, Any]


class ChoosingView:
    """A sink that draws on `stream` (standard output). `moves`: a bar moves on a terminal that can show it."""

    def __init__(self, stream: TextIO | None = None, moves: bool = True) -> None:
        self.console: CleanConsole = open_console(stream)
        self._moves = moves and can_draw(self.console)
        self._bar: Progress | None = None
        self._run: events.RunStarted | None = None
        self._said_at = 0.0
        self._without = 0
        self._examples: list[events.CandidateChosen] = []

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
                does = "chooses" if event.judge.id == CHOOSER else "judges the choice"
                self._say(f"{line(event.judge.id)} {does}: {line(event.judge.note or event.judge.form)}{model}")
            case events.CandidateChosen():
                self._without += event.text is None
                if event.text is not None and len(self._examples) < EXAMPLES:
                    self._examples.append(event)
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
        lacking = f", {self._without:,} without a choice" if self._without else ""
        if self._moves:
            if self._bar is None:
                columns = (TextColumn("prompts"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
                self._bar = Progress(*columns, TextColumn("{task.fields[more]}"), console=self.console, transient=True)
                self._bar.add_task("", total=event.total, more="")
                self._bar.start()
            more = f"{event.tokens:,} tokens{lacking}"
            self._bar.update(self._bar.task_ids[0], completed=event.finished, total=event.total, more=more)
        elif event.seconds - self._said_at >= PROGRESS_EVERY:
            self._said_at = event.seconds
            done = f"{event.finished:,} of {event.total:,} prompts, {event.tokens:,} tokens"
            self._say(f"progress: {done}{lacking}, {words.clock(event.seconds)}")

    def _on_finished(self, event: events.RunFinished) -> None:
        self.close()
        if event.summary.get("curve"):
            self.console.print()
            for part in end(event.summary):
                self.console.print(part, soft_wrap=isinstance(part, Text) and not self.console.is_terminal)
            self.console.print()
            for one in self._examples:
                self._say(f"chosen{f', on {line(one.topic)}' if one.topic else ''}: {line(one.text or '')[:SHOWN]}")
            self.console.print()
        self._say(words.ending(event), {"done": "bold green", "stopped": "bold", "failed": "bold red"}[event.status])
        if self._run is not None:
            self._say(f"run folder: {clean(self._run.folder)}")

    def _say(self, text: str, style: str = "") -> None:
        self.console.print(Text(text, style=style), soft_wrap=not self.console.is_terminal)


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
    text = f"{factor * figure['value']:.{digits}f}"
    if figure["low"] is None or figure["high"] is None:
        return text
    return f"{text} ({factor * figure['low']:.{digits}f} to {factor * figure['high']:.{digits}f})"
