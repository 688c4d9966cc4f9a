"""How the moving part of the screen is divided, cropped to it.

Of a run of dialogues: the one in focus, the others as a line each, how far the run is. Of a training run: its rounds beside the current
dialogue where there is room, below it elsewhere.
"""

from __future__ import annotations

from itertools import islice

from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from expertchat.views import render, rounds
from expertchat.views.frame import Frame, Line, Painter
from expertchat.views.model import Conversation, RunState

BESIDE = 140  # columns from which the rounds stand beside the dialogue
WIDEST_TABLE = 90
TALK = 5  # lines that a dialogue needs to be worth its place


def frame(
    painter: Painter,
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
    width, height = painter.console.size
    height = max(1, height - 1)
    below: list[Line] = []
    for what, seconds in loading.items():
        gib = state.loading[what].gib if what in state.loading else 0.0
        below += painter.lines(render.loading_line(what, seconds, tick, gib), width)
    last = painter.lines(Text(remark, style="bold red"), width) if remark else []
    last += painter.lines(render.starting_line(tick, waiting), width) if waiting else []
    if state.training is not None:
        below += last
        return Frame([*_of_training(painter, state, focus, width, height - len(below), tick), *below][-height:])
    if state.conversations or state.progress is not None:
        below += _others(painter, state, focus, width, height)
        below += painter.lines(render.status_line(state, width), width)
    elif not loading and not waiting:
        below += painter.lines(render.starting_line(tick), width)
    below = (below + last)[-height:]
    room = height - len(below) - 4
    if focus is None or room < 1:
        return Frame(below)
    head = painter.lines(render.heading(focus, state.most_turns), width)[:1]
    return Frame([[], *head, [], *painter.newest(focus, width, room), [], *below])


def _others(painter: Painter, state: RunState, focus: Conversation | None, width: int, height: int) -> list[Line]:
    """The conversations that are not in focus, those that are written first."""
    others = [c for c in state.conversations.values() if c is not focus and not c.judged]
    others.sort(key=lambda c: (c.streaming is None, c.stage != "talking"))  # stable: order of their start within a kind
    shown = max(1, min(8, height // 5))
    lines: list[Line] = []
    for conversation in islice(others, shown):
        lines += painter.lines(render.other_line(conversation, state.most_turns, width), width)[:1]
    if len(others) > shown:
        lines += painter.lines(Text(f"  and {len(others) - shown} more", style="dim"), width)
    return [*lines, []] if lines else []


def _of_training(painter: Painter, state: RunState, focus: Conversation | None, width: int, height: int, tick: int) -> list[Line]:
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
    head = painter.lines(render.heading(focus, state.most_turns), width)[:1]
    return [*head, *painter.newest(focus, width, room - 1)]


def _padded(drawn: list[Line], room: int) -> list[Line]:
    return drawn[:room] + [[] for _ in range(room - len(drawn))]


def _filled(line: Line, width: int) -> Line:
    used = sum(segment.cell_length for segment in line)
    return [*line, Segment(" " * max(0, width - used))]
