"""What `expertchat merge_runs` says: what was merged, where it is, and what is lacking."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from rich.text import Text

from expertchat.text.sentences import clean
from expertchat.views.console import open_console
from expertchat.views.words import counted

if TYPE_CHECKING:
    from expertchat.runs.merge_runs import Merged


def print_merged_runs(merged: Merged, stream: TextIO | None = None) -> None:
    """The result of a merge."""
    console, summary = open_console(stream), merged.summary
    what = counted(len(merged.sources), "part" if merged.kind == "parts" else "seed")
    if "conversations" in summary:
        holds = f"{counted(summary['conversations'], 'dialogue')}, {counted(summary['turns'], 'turn')}"
    else:
        holds = f"{counted(summary['rounds'], 'round')} each, {counted(summary['pairs'], 'pair')}"
    console.print(Text(clean(f"{merged.out}: {what}, {holds}")), soft_wrap=True)
    for text in [*merged.lacking, *merged.notes, *summary.get("notes", [])]:
        console.print(Text(clean(text), "yellow"), soft_wrap=True)
    console.print(Text(clean(f"look at it: expertchat watch {merged.out}"), "dim"), soft_wrap=True)
