"""A person at the table: who types a seat's turns, or stops at every turn to edit it, draw it again or write another one.

The desk is the terminal as far as a dialogue knows it. What is typed is a turn like any other: kept when it is finished, and what is
half written is kept too, so that nothing is typed twice.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from expertchat.backends.asking import Ask, Flow, Place
from expertchat.backends.base import Completion
from expertchat.folder.desk import DRAFT, Desk, KeptDraft, Rated
from expertchat.folder.run_folder import RunFolder
from expertchat.judging.rating import title
from expertchat.judging.view import Judgement
from expertchat.records import Speaker, Turn
from expertchat.talk.conversation import Dialogue, NextTurn

LATE = "the time limit of a turn ended it"


@dataclass
class Table:
    """Who of `people` types, with `seconds` for a turn (None: no limit); with `steps` every turn of a model is looked at first."""

    desk: Desk
    store: RunFolder
    people: Collection[Speaker] = ()
    seconds: float | None = None
    steps: bool = False
    asking: bool = field(init=False, default=True)

    def next_turn(self, dialogue: Dialogue) -> NextTurn:
        """How the dialogue's turns are made."""

        def made(turns: Sequence[Turn]) -> Flow[Turn]:
            speaker = dialogue.speaker(turns)
            if speaker in self.people:
                return self.typed(dialogue, turns, speaker)
            if self.steps and self.asking:
                return (yield from self.looked_at(dialogue, turns, speaker))
            return (yield from dialogue.next_turn(turns))

        return made

    def clear(self) -> None:
        """Take away what was half written: every turn is kept."""
        with self.store.writing():
            (self.store.folder / DRAFT).unlink(missing_ok=True)

    def typed(self, dialogue: Dialogue, turns: Sequence[Turn], seat: Speaker) -> Turn:
        """A turn that a person types."""
        began, draft = time.monotonic(), KeptDraft(self.store, f"{dialogue.id}/{len(turns)}")
        found = self.desk.turn(seat, draft, self.seconds)
        took = round(time.monotonic() - began, 4)
        draft.write(found.text)  # until the turn is kept
        return dialogue.read(seat, Completion(found.text, len(found.text.split()), took, "stop"), LATE if found.late else None)

    def rating(self, judgement: Judgement, name: str) -> int | None:
        """What the person who judges gives for a category, or None."""
        return self.desk.rating(judgement.role.seat, _rated(judgement), title(name), judgement.categories[name])

    def missing(self, judgement: Judgement) -> str | None:
        """What that person misses; "": nothing, None: no answer."""
        return self.desk.missing(judgement.role.seat, _rated(judgement), KeptDraft(self.store, f"{judgement.key}/wim"))

    def looked_at(self, dialogue: Dialogue, turns: Sequence[Turn], speaker: Speaker) -> Flow[Turn]:
        """A model's turn, as the person at the desk lets it stand."""
        request, note = dialogue.request(turns)
        draws = 0
        while True:
            drawn = replace(request, key=f"{request.key}~{draws}") if draws else request
            (answer,) = yield [Ask(speaker, drawn, label=speaker, place=Place(dialogue.id, len(turns), speaker))]
            turn = dialogue.read(speaker, answer, note)
            match self.desk.step(len(turns), turn):
                case "again":
                    draws += 1
                    continue
                case "edit":
                    return changed(turn, self.desk.edit(speaker, turn.text))
                case "own":
                    draft = KeptDraft(self.store, f"{dialogue.id}/{len(turns)}")
                    found = self.desk.turn(speaker, draft, None)
                    draft.write(found.text)
                    return Turn(speaker=speaker, text=found.text, tokens=len(found.text.split()), hand="injected")
                case "on":
                    self.asking = False
            return turn


def _rated(judgement: Judgement) -> Rated:
    return Rated(judgement.subject, judgement.topic, judgement.turn, judgement.reply)


def changed(turn: Turn, text: str) -> Turn:
    """A turn whose text a person has edited; as it was where that changes nothing."""
    if text.strip() == turn.text.strip():
        return turn
    values = {"text": text.strip(), "hand": "edited", "was": turn.was if turn.was is not None else turn.text, "cut": False, "beyond": None}
    return turn.model_copy(update=values)
