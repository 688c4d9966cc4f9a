"""What `expertchat merge` says: what it is at, then what was written and how well it fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from rich.text import Text

from expertchat.text.sentences import clean, shown_path
from expertchat.views.console import open_console
from expertchat.views.plan import size

if TYPE_CHECKING:
    from expertchat.training.merge import Merged


def print_step(text: str, stream: TextIO | None = None) -> None:
    """One step that is going on."""
    open_console(stream).print(Text(f"{clean(text)} ...", "dim"), soft_wrap=True)


def print_merged(merged: Merged, stream: TextIO | None = None) -> None:
    """The result of a merge."""
    console = open_console(stream)
    said = f"{merged.out}: {shown_path(merged.base)} with {merged.source}, {merged.dtype}, {size(merged.gib * 2**30)}"
    console.print(Text(clean(said)), soft_wrap=True)
    checked = f"checked: its logits differ from base and adapter by {merged.difference:.1e} of their spread"
    console.print(Text(f"{checked}; the adapter changes them by {merged.effect:.1e}"), soft_wrap=True)
    for note in merged.notes:
        console.print(Text(clean(note), "yellow"), soft_wrap=True)
