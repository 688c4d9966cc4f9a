"""What is drawn as lines of a screen: renderables, and the newest of a dialogue, each turn of it drawn once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text

from expertchat.views import render
from expertchat.views.model import Conversation

Line = list[Segment]


class Frame:
    """Drawn lines, ready to be shown. `closed`: the last one ends with a newline too, as in the scrollback."""

    def __init__(self, lines: list[Line], closed: bool = False) -> None:
        self.lines, self.closed = lines, closed

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for number, line in enumerate(self.lines):
            if number:
                yield Segment.line()
            yield from line
        if self.closed:
            yield Segment.line()

    def rows(self, width: int) -> int:
        """Rows that the lines take on a screen that was made `width` columns narrow after they were drawn."""
        return sum(max(1, -(-sum(s.cell_length for s in line) // width)) for line in self.lines)


def _trimmed(line: Line) -> Line:
    """Without white space at the end: what is not there cannot wrap when the screen is made narrower."""
    line = list(line)
    while line and not line[-1].text.strip():
        line.pop()
    if line:
        last = line[-1]
        line[-1] = Segment(last.text.rstrip(), last.style, last.control)
    return line


@dataclass
class Painter:
    """Draws lines for one console; finished turns are drawn once for each width, and so are the rounds of a training run."""

    console: Console
    rounds: tuple[tuple[object, ...], list[Line]] | None = None  # what they were drawn from, and the lines
    _cache: dict[tuple[str, int, int, bool, int, bool], list[Line]] = field(default_factory=dict)

    def lines(self, drawn: RenderableType, width: int) -> list[Line]:
        options = self.console.options.update(width=width, height=None)
        return [_trimmed(line) for line in self.console.render_lines(drawn, options, pad=False)]

    def forget(self) -> None:
        """Draw everything anew."""
        self._cache.clear()
        self.rounds = None

    def newest(self, focus: Conversation, width: int, room: int) -> list[Line]:
        """The last `room` lines of a dialogue."""
        kept: list[Line] = []
        for lines in self._upwards(focus, width):
            kept = lines + kept
            if len(kept) >= room:
                break
        return kept[-room:]

    def _upwards(self, focus: Conversation, width: int) -> Iterator[list[Line]]:
        """The parts of a dialogue from its end to its beginning."""
        if focus.stop_reason is not None:
            yield self.joined([Text(""), *render.judgement(focus, width)], width) if focus.whole() else []
            yield self.joined([render.ended(focus, width)], width)
        elif focus.streaming is not None:
            now = focus.streaming
            yield self.lines(render.bubble(now.text, now.speaker, focus, width, writing=True, thinking=now.thinking), width)
        else:
            yield self.lines(render.waiting_bubble(focus, width), width)
        for index in sorted({*focus.by_index, *focus.candidates}, reverse=True):
            key = (focus.id, index, width, index in focus.by_index, len(focus.turn_rewards(index)), index in focus.candidates)
            if key not in self._cache:
                self._cache[key] = self.joined(render.turn_parts(index, focus, width), width)
            yield self._cache[key]

    def joined(self, parts: Iterable[RenderableType], width: int) -> list[Line]:
        return [line for part in parts for line in self.lines(part, width)]
