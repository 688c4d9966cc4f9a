"""What the views have in common of runs in which nobody talks: lines for what is said, a bar that moves, how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from expertchat import events
from expertchat.text.in_words import line
from expertchat.text.sentences import clean
from expertchat.views import words
from expertchat.views.console import CleanConsole, open_console, prose
from expertchat.views.live import can_draw

PROGRESS_EVERY = 30.0  # seconds between two lines of progress
ENDS = {"done": "bold green", "stopped": "bold", "failed": "bold red"}


class BarView:
    """A sink that draws on `stream` (standard output). `moves`: a bar moves on a terminal that can show it.

    One of its kind says what else it hears of (`hear`), what stands beside the bar (`beside`), and what is shown at the end (`show_end`).
    `doing`: what is done to what is counted.
    """

    doing = "done"

    def __init__(self, stream: TextIO | None = None, moves: bool = True) -> None:
        self.console: CleanConsole = open_console(stream)
        self._moves = moves and can_draw(self.console)
        self._bar: Progress | None = None
        self._run: events.RunStarted | None = None
        self._said_at = 0.0

    def send(self, event: events.AnyEvent) -> None:
        """Draw what the event says."""
        match event:
            case events.RunStarted():
                self._run = event
                before = f", {event.resumed:,} of them done before" if event.resumed else ""
                self._say(f"ExpertChat {line(event.command)}: {self.size_of(event)}{before}", "bold")
                self._say(f"run folder: {line(event.folder)}")
            case events.Loading(done=False) if not self._moves:
                self._say(f"loading {line(event.what)}")
            case events.Loading(done=True):
                self._say(f"loaded {line(event.what)} in {event.seconds:.1f} s", "dim")
            case events.Note():
                warns = event.level == "warning"
                self._say(f"{'warning' if warns else 'note'}: {line(event.text)}", "bold red" if warns else "dim")
            case events.Progress():
                self._progress(event)
            case events.RunFinished():
                self.close()
                self.show_end(event.summary)
                if servers := words.served_words(event.summary.get("served")):
                    self._say(f"servers: {servers}")
                self._say(words.ending(event), ENDS[event.status])
                if self._run is not None:
                    self._say(f"run folder: {clean(self._run.folder)}")
            case _:
                self.hear(event)

    def close(self) -> None:
        """Put the terminal back in order. May be called twice."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    # -- what one of its kind says --------------------------------------------------------------------------------------

    def size_of(self, run: events.RunStarted) -> str:
        """How large the run is."""
        return words.whole_in_words(run)

    def hear(self, event: events.AnyEvent) -> None:
        """Any other event."""

    def beside(self, event: events.Progress) -> str:
        """What stands beside the bar."""
        return ""

    def show_end(self, summary: Mapping[str, Any]) -> None:
        """What came of it."""

    # -- drawing --------------------------------------------------------------------------------------------------------

    def _progress(self, event: events.Progress) -> None:
        more = self.beside(event)
        if self._moves:
            self._move(self.doing, event.finished, event.total, more)
        elif event.seconds < self._said_at or event.seconds - self._said_at >= PROGRESS_EVERY:  # a run may have several passes
            self._said_at = event.seconds
            said = f", {more}" if more else ""
            self._say(f"progress: {event.finished:,} of {event.total:,} {self.doing}{said}, {words.clock(event.seconds)}")

    def _move(self, doing: str, done: int, total: int, more: str, remaining: bool = True) -> None:
        """Move the bar, which is made where there is none."""
        if self._bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            left = (TimeRemainingColumn(),) if remaining else ()
            self._bar = Progress(*columns, *left, TextColumn("{task.fields[more]}"), console=self.console, transient=True)
            self._bar.add_task(doing, total=total, more="")
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total, more=more)

    def _say(self, text: str, style: str = "") -> None:
        prose(self.console, Text(text, style=style))
