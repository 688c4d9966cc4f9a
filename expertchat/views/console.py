"""The one kind of console that views draw on: whatever is drawn, what it draws of text is clean."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from expertchat.text.sentences import clean

WIDTH = 100  # where nobody says how wide the screen is


class CleanConsole(Console):
    """A console whose only escapes are its own: text of every segment is cleaned, whoever forgot to do it before."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            text = segment.text
            if segment.control or (text.isascii() and text.isprintable()) or (harmless := clean(text)) == text:
                yield segment
            else:
                yield Segment(harmless, segment.style)


def console_on(stream: TextIO | None = None, width: int | None = None, markup: bool = False) -> CleanConsole:
    """A console on `stream` (standard output). Markup is not read unless the caller escapes all foreign text itself."""
    return CleanConsole(file=stream or sys.stdout, width=width, markup=markup, emoji=False, highlight=False)


def open_console(stream: TextIO | None = None, markup: bool = False) -> CleanConsole:
    """A console for tables: as wide as the terminal, WIDTH where there is none."""
    stream = stream or sys.stdout
    return console_on(stream, width=None if stream.isatty() else WIDTH, markup=markup)


def prose(console: Console, text: RenderableType) -> None:
    """Print lines of words: a terminal gets no word broken at its edge, a file or a pipe whole lines.

    What is there to be copied (a command, a path) is printed with soft_wrap=True instead: wrapped by the terminal it is copied whole.
    """
    console.print(text, soft_wrap=not console.is_terminal)
