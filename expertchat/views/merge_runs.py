"""What `expertchat merge_runs` says: what was merged, where it is, and what is lacking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from rich.text import Text

from expertchat.text.sentences import clean
from expertchat.views.console import open_console
from expertchat.views.words import counted


def print_merged_runs(values: Mapping[str, Any], stream: TextIO | None = None) -> None:
    """The result of a merge (expertchat.runs.merge_runs.Merged)."""
    console, summary = open_console(stream), values["summary"]
    what = counted(len(values["sources"]), "part" if values["kind"] == "parts" else "seed")
    if "conversations" in summary:
        holds = f"{counted(summary['conversations'], 'dialogue')}, {counted(summary['turns'], 'turn')}"
    else:
        holds = f"{counted(summary['rounds'], 'round')} each, {counted(summary['pairs'], 'pair')}"
    console.print(Text(clean(f"{values['out']}: {what}, {holds}")), soft_wrap=True)
    for text in [*values["lacking"], *values["notes"], *summary.get("notes", [])]:
        console.print(Text(clean(text), "yellow"), soft_wrap=True)
    console.print(Text(clean(f"look at it: expertchat watch {values['out']}"), "dim"), soft_wrap=True)
