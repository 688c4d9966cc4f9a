"""The moving part of the screen: the dialogue in focus, the other conversations, the state of the run, cropped to the screen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text

from expertchat.views import render, screen
from expertchat.views.model import Conversation, RunState

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
    """Draws frames for one console; finished turns are drawn once for each width, and so are the rounds of a training run."""

    console: Console
    rounds: tuple[tuple[object, ...], list[Line]] | None = None  # what they were drawn from, and the lines
    _cache: dict[tuple[str, int, int, bool, bool, bool], list[Line]] = field(default_factory=dict)

    def lines(self, drawn: RenderableType, width: int) -> list[Line]:
        options = self.console.options.update(width=width, height=None)
        return [_trimmed(line) for line in self.console.render_lines(drawn, options, pad=False)]

    def frame(
        self,
        state: RunState,
        focus: Conversation | None,
        loading: dict[str, float],
        tick: int,
        remark: str = "",
        waiting: str = "",
    ) -> Frame:
        """The screen's moving part, at most as high as the screen.

        `loading` holds seconds by model, `remark` a warning, `waiting` what has to happen before anything moves.
        """
        width, height = self.console.size
        height = max(1, height - 1)
        below: list[Line] = []
        for what, seconds in loading.items():
            gib = state.loading[what].gib if what in state.loading else 0.0
            below += self.lines(render.loading_line(what, seconds, tick, gib), width)
        last = self.lines(Text(remark, style="bold red"), width) if remark else []
        last += self.lines(render.starting_line(tick, waiting), width) if waiting else []
        if state.training is not None:
            below += last
            return Frame([*screen.lines(self, state, focus, width, height - len(below), tick), *below][-height:])
        if state.conversations or state.progress is not None:
            below += self._below(state, focus, width, height)
        elif not loading and not waiting:
            below += self.lines(render.starting_line(tick), width)
        below = (below + last)[-height:]
        room = height - len(below) - 4
        if focus is None or room < 1:
            return Frame(below)
        turns = state.run.turns if state.run else 0
        head = self.lines(render.heading(focus, turns), width)[:1]
        return Frame([[], *head, [], *self.newest(focus, width, room), [], *below])

    def forget(self) -> None:
        """Draw everything anew."""
        self._cache.clear()
        self.rounds = None

    def _below(self, state: RunState, focus: Conversation | None, width: int, height: int) -> list[Line]:
        others = [c for c in state.conversations.values() if c is not focus and not c.judged]
        others.sort(key=lambda c: (c.streaming is None, c.stage != "talking"))  # stable: order of their start within a kind
        shown = max(1, min(8, height // 5))
        turns = state.run.turns if state.run else 0
        lines: list[Line] = []
        for conversation in islice(others, shown):
            lines += self.lines(render.other_line(conversation, turns, width), width)[:1]
        if len(others) > shown:
            lines += self.lines(Text(f"  and {len(others) - shown} more", style="dim"), width)
        if lines:
            lines.append([])
        return lines + self.lines(render.status_line(state, width), width)

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
            yield self._joined([Text(""), *render.judgement(focus, width)], width) if focus.sides() else []
            yield self._joined([render.ended(focus, width)], width)
        elif focus.streaming is not None:
            now = focus.streaming
            yield self.lines(render.bubble(now.text, now.speaker, focus, width, writing=True, thinking=now.thinking), width)
        else:
            yield self.lines(render.waiting_bubble(focus, width), width)
        for index in sorted({*focus.by_index, *focus.candidates}, reverse=True):
            key = (focus.id, index, width, index in focus.by_index, focus.turn_reward(index) is None, index in focus.candidates)
            if key not in self._cache:
                self._cache[key] = self._joined(render.turn_parts(index, focus, width), width)
            yield self._cache[key]

    def _joined(self, parts: Iterable[RenderableType], width: int) -> list[Line]:
        return [line for part in parts for line in self.lines(part, width)]
