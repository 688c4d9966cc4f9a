"""A conversation on a terminal: a prompt that is edited as in a shell, answers as they come, remarks beside them."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from expertchat.text.sentences import clean, one_line
from expertchat.views.console import console_on
from expertchat.views.looks import indented
from expertchat.views.tokens import legend, print_tokens, shaded

PROMPT, MORE = "> ", ". "
GOES_ON = "\\"  # at the end of a line: the prompt goes on with the next one
EDITED = "\x01\x1b[1;36m\x02{}\x01\x1b[0m\x02"  # readline must know what of a prompt has no width


class TalkScreen:
    """Reads with the arrow keys and the history of this session (readline); writes to the terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.console = console_on(self.stream)
        self._open = ""  # what waits on the last line of the terminal
        self._answering = False
        self._column, self._word = 0, ""  # cells of the line that are written; a word that is not whole yet
        self._edited = _with_readline()

    def read(self) -> str | None:
        lines = list[str]()
        while True:
            try:
                line = input(self._prompt(PROMPT if not lines else MORE))
            except EOFError:
                self.stream.write("\n")
                return None
            except KeyboardInterrupt:
                self.stream.write("\n")
                raise
            if not line.endswith(GOES_ON):
                return "\n".join([*lines, line])
            lines.append(line[:-1])

    def _prompt(self, text: str) -> str:
        return EDITED.format(text) if self._edited and self.console.is_terminal and not self.console.no_color else text

    def waiting(self, what: str) -> None:
        self._open = f"{one_line(clean(what))} ..."
        self.stream.write(self._open)
        self.stream.flush()

    def _close(self) -> None:
        """Take away what says that something takes its time."""
        if self._open:
            self.stream.write("\r" + " " * len(self._open) + "\r" if self.console.is_terminal else "\n")
            self._open = ""

    def piece(self, text: str) -> None:
        self._close()
        self._answering = True
        self._write(clean(text))

    def _write(self, text: str, whole: bool = False) -> None:
        """Write words, each on the line that has room for it; the last one waits until it is `whole`, or long (scripts without spaces)."""
        *parts, self._word = re.split(r"(\s)", self._word + text)
        if whole or cell_len(self._word) > self.console.width // 4:
            parts, self._word = [*parts, self._word], ""
        for part in parts:
            cells = cell_len(part)
            if part == "\n":
                self._column = 0
            elif not part.isspace() and self._column and self._column + cells > self.console.width:
                self.stream.write("\n")
                self._column = cells
            else:
                self._column += cells
            self.stream.write(part)
        self.stream.flush()

    def _end_line(self) -> None:
        if self._answering:
            self._write("\n", whole=True)
        self._answering = False

    def ended(self, remark: str) -> None:
        self._close()
        self._end_line()
        self.note(remark)

    def note(self, text: str, wrong: bool = False) -> None:
        self._close()
        self._end_line()
        self.console.print(Text(one_line(clean(text)), "yellow" if wrong else "dim"))

    def rows(self, rows: Sequence[tuple[str, str]]) -> None:
        self._close()
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True, style="bold")
        table.add_column()
        for name, about in rows:
            table.add_row(one_line(clean(name)), one_line(clean(about)))
        self.console.print(indented(table))

    def tokens(self, values: Mapping[str, Any]) -> None:
        """All of it where a table is wanted, else the shaded text alone."""
        if values["lines"]:
            print_tokens(values, self.stream, "/tokens 99 shows more")
            return
        self.console.print(indented(shaded(values, self.console.is_terminal)))
        if self.console.is_terminal:
            self.console.print(indented(legend(values), above=1))


def _with_readline() -> bool:
    """Let `input` know arrow keys and a history, where this Python can."""
    try:
        import readline
    except ImportError:
        return False
    readline.set_auto_history(True)
    return True
