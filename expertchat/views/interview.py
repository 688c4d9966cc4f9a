"""What an expert answers about a dialogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.text import Text

from expertchat.records import Speaker, Transcript
from expertchat.text.in_words import line
from expertchat.text.sentences import clean
from expertchat.views.console import open_console, prose
from expertchat.views.sides import called, model_name


def print_heading(transcript: Transcript, index: int, seat: Speaker, stream: TextIO | None = None) -> None:
    """Who is asked, and what was said last."""
    console, last = open_console(stream), transcript.turns[index]
    who = f"{called(seat)} ({model_name(transcript.experts.get(seat))})"
    prose(console, Text(f"{who} after turn {index} of {line(transcript.id)} on {line(transcript.topic)}", style="bold"))
    prose(console, Text(f"{called(last.speaker)}: {line(last.text)}", style="dim"))


def print_answers(rows: Sequence[Mapping[str, Any]], seat: Speaker, asked: bool = True, stream: TextIO | None = None) -> None:
    """The answers; with `asked` the questions before them."""
    console = open_console(stream)
    for row in rows:
        if asked:
            prose(console, Text(f"\n? {line(str(row['question']))}", style="cyan"))
        cut = " (cut at the token limit)" if row.get("cut") else ""
        text = clean(str(row["answer"])) or "says nothing"
        prose(console, Text(f"{called(seat)}: ", "bold").append(text, "").append(cut, "dim"))
