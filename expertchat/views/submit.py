"""What `expertchat submit` says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from rich.text import Text

from expertchat.text.sentences import clean
from expertchat.views.console import console_on


def print_submitted(values: Mapping[str, Any], stream: TextIO | None = None) -> None:
    """The job, where its run is and how to follow it, then what was found out beforehand."""
    console = console_on(stream, soft_wrap=True)
    head = f"job {values['job']} submitted" if values["job"] else "written, not submitted"
    console.print(Text.assemble((head, "bold"), f": {clean(values['about'])}"))
    for name in ("run", "script", "submit", "log", "watch", "merge"):
        if values.get(name):
            console.print(Text.assemble((f"  {name:<8}", "cyan"), clean(values[name])))
    for note in values["notes"]:
        console.print(Text(f"  · {clean(note)}", "dim"))
