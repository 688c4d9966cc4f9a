"""What `expertchat posts` shows: a bar while posts are written, and at the end how many there are and what was wrong with the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from expertchat import events
from expertchat.text.in_words import line
from expertchat.views.bar import BarView
from expertchat.views.console import prose

SHOWN = 300  # characters of an example


class PostsView(BarView):
    """The view of a run that writes posts."""

    doing = "posts"

    def size_of(self, run: events.RunStarted) -> str:
        return f"{run.conversations:,} posts"

    def beside(self, event: events.Progress) -> str:
        return f"{event.tokens:,} tokens"

    def show_end(self, summary: Mapping[str, Any]) -> None:
        if not summary.get("languages"):
            return
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for i, head in enumerate(("language", "posts", "written")):
            table.add_column(head, justify="right" if i else "left")
        for name, counts in summary["languages"].items():
            table.add_row(line(name), f"{counts['posts']:,}", f"{counts['written']:,}")
        self.console.print()
        self.console.print(table)
        left_out = [f"{n:,}, {'which' if n == 1 else 'each of which'} {line(why)}" for why, n in summary["faults"].items()]
        if left_out:
            self._say(f"left out: {'; '.join(left_out)}", "dim")
        if summary["nearest"] is not None:
            self._say(f"the two posts that are most alike have a cosine of {summary['nearest']:.3f}", "dim")
        self.console.print()
        for name, text in summary["examples"].items():
            if text:
                prose(self.console, Text(f"{line(name)}: {line(text)[:SHOWN]}"))
        self.console.print()
