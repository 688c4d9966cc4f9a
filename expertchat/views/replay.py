"""Recorded events at a chosen pace, with the turns written word by word as they once were."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from expertchat.events import AnyEvent, ConversationStarted, RoundStarted, RunStarted, TextStreamed, TurnFinished

PAUSE = 5.0  # recorded seconds: longer gaps between two events (a run that was broken off for a night) are cut to this
STEPS_PER_SECOND = 6.0  # texts shown in one second of recorded time, at most one for each word
_WORD = re.compile(r"\S+\s*")


def timeline(events: Iterable[AnyEvent]) -> Iterator[tuple[float, AnyEvent]]:
    """(seconds since the beginning, event), in order. A turn's text grows over the seconds in which it was written.

    Nothing of a round goes back before its beginning, so that no more than a round is held at once.
    """
    timed: list[tuple[float, AnyEvent]] = []
    now, begun, last = 0.0, 0.0, None
    free: dict[str, float] = {}  # when the last turn of each conversation ended
    for event in events:
        if last is not None:
            gap = max(0.0, event.time - last)
            writing = event.turn.seconds if isinstance(event, TurnFinished) else 0.0
            now += 0.0 if isinstance(event, RunStarted) else min(gap, max(PAUSE, writing))
        last = event.time
        if isinstance(event, RoundStarted):
            yield from sorted(timed, key=_moment)
            timed, free, begun = [], {}, now
        if isinstance(event, TurnFinished):
            timed += growing(event, now, now - free.get(event.conversation, begun))
        if isinstance(event, (ConversationStarted, TurnFinished)):
            free[event.conversation] = now
        timed.append((now, event))
    yield from sorted(timed, key=_moment)  # stable: events of one moment keep their order


def _moment(timed: tuple[float, AnyEvent]) -> float:
    return timed[0]


def growing(event: TurnFinished, end: float, room: float) -> Iterator[tuple[float, AnyEvent]]:
    """The text of a turn so far (its thoughts first), from its first word to its last but one.

    It takes at most `room` seconds before the moment `end`.
    """
    thought = _WORD.findall(event.turn.thinking or "")
    words = [*thought, *_WORD.findall(event.turn.text)]
    seconds = min(event.turn.seconds, room)
    steps = min(len(words), int(seconds * STEPS_PER_SECOND))
    for step in range(1, steps):
        count = len(words) * step // steps
        text, thinking = "".join(words[len(thought) : count]), "".join(thought[:count]).rstrip()
        before = seconds * (1 - step / steps)
        when, seat = event.time - before, event.turn.speaker
        yield (
            end - before,
            TextStreamed(time=when, conversation=event.conversation, turn=event.index, speaker=seat, text=text, thinking=thinking),
        )
