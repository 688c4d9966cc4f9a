"""How the screen of a training run is divided: the rounds beside the current dialogue where there is room, below it elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from expertchat.views import render, rounds
from expertchat.views.model import Conversation, RunState

if TYPE_CHECKING:
    from expertchat.views.frame import Line, Painter

BESIDE = 140  # columns from which the rounds stand beside the dialogue
WIDEST_TABLE = 90
TALK = 5  # lines that a dialogue needs to be worth its place


def lines(painter: Painter, state: RunState, focus: Conversation | None, width: int, height: int, tick: int) -> list[Line]:
    """The whole screen, `height` lines if there are rounds to show: nothing moves when a dialogue grows."""
    below = painter.lines(rounds.phase_line(state, width, tick), width) + painter.lines(rounds.status_line(state, width), width)
    room = height - len(below) - 1
    if room < 1:
        return below[-max(0, height) :] if height > 0 else []
    body = _beside(painter, state, focus, width, room) if width >= BESIDE and room >= 12 else _above(painter, state, focus, width, room)
    return [*body, [], *below]


def _beside(painter: Painter, state: RunState, focus: Conversation | None, width: int, room: int) -> list[Line]:
    """Rounds on the left, the dialogue on the right."""
    left = min(WIDEST_TABLE, width - 60)
    right = width - left - 3
    drawn = _rounds(painter, state, left, room)
    talk = _talk(painter, state, focus, right, room)
    edge = Segment(" │ ", Style(dim=True))
    return [[*_filled(a, left), edge, *b] for a, b in zip(_padded(drawn, room), _padded(talk, room), strict=True)]


def _above(painter: Painter, state: RunState, focus: Conversation | None, width: int, room: int) -> list[Line]:
    """The dialogue, and the rounds below it: a part of the room that grows with them."""
    most = room if room < 2 * TALK else max(TALK, min(room - TALK - 1, room * 3 // 5, 18))
    drawn = _rounds(painter, state, width, most)
    rest = room - len(drawn) - (1 if drawn else 0)
    if rest < TALK:
        return _padded(drawn, room)
    return [*_padded(_talk(painter, state, focus, width, rest), rest), *([[]] if drawn else []), *drawn]


def _rounds(painter: Painter, state: RunState, width: int, room: int) -> list[Line]:
    """Curves above the table; where there is not room for both, the table. Drawn again when there is something new."""
    training = state.training
    assert training is not None
    now, phase = training.current, training.phase
    key = (training.version, training.running, now and now.round, phase and phase.phase, width, room)
    if painter.rounds is None or painter.rounds[0] != key:
        curves = rounds.curves(training, width, min(room // 2, 6) if room >= 8 else 0)
        table = rounds.table(training, width, room - len(curves) - (1 if curves else 0))
        parts = [*curves, *([Text("")] if curves and table else []), *table]
        painter.rounds = key, [line for part in parts for line in painter.lines(part, width)[:1]]
    return painter.rounds[1]


def _talk(painter: Painter, state: RunState, focus: Conversation | None, width: int, room: int) -> list[Line]:
    """The dialogue in focus: its heading and the newest of it."""
    if focus is None or room < 3:
        return []
    head = painter.lines(render.heading(focus, state.run.turns if state.run else 0), width)[:1]
    return [*head, *painter.newest(focus, width, room - 1)]


def _padded(drawn: list[Line], room: int) -> list[Line]:
    return drawn[:room] + [[] for _ in range(room - len(drawn))]


def _filled(line: Line, width: int) -> Line:
    used = sum(segment.cell_length for segment in line)
    return [*line, Segment(" " * max(0, width - used))]
