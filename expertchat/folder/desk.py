"""Where a person reads and types, as far as a run knows it: the desk, and what is half written on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from expertchat.folder.jsonl import read_json
from expertchat.folder.run_folder import RunFolder
from expertchat.folder.writing import replace
from expertchat.records import Speaker, Turn

DRAFT = "draft.json"  # in the run folder: what is half written
Choice = Literal["take", "edit", "again", "own", "on"]


class Typed(NamedTuple):
    """What a person has typed; `late`: the time was up, and this is what stood there then."""

    text: str
    late: bool = False


class Rated(NamedTuple):
    """What a person rates: all that the subject said about a topic, or one `turn` of it."""

    subject: Speaker
    topic: str
    turn: int | None
    text: str


class Draft(Protocol):
    """What is half written."""

    def read(self) -> str: ...

    def write(self, text: str) -> None: ...


class Desk(Protocol):
    """Where a person reads and types. Each of these raises Interrupted where the person leaves: the run can go on later."""

    def turn(self, seat: Speaker, draft: Draft, seconds: float | None) -> Typed:
        """A turn of the seat."""
        ...

    def guess(self, seat: Speaker, subject: Speaker) -> tuple[bool | None, str]:
        """Whether the person in the seat takes the subject for a human (None: does not know), and why."""
        ...

    def rating(self, seat: Speaker, of: Rated, name: str, meaning: str) -> int | None:
        """A number from 1 to 10 by the person in the seat, for what is called so and means that; None: no answer."""
        ...

    def missing(self, seat: Speaker, of: Rated, draft: Draft) -> str | None:
        """What the person in the seat misses there; "": nothing is missing, None: no answer."""
        ...

    def step(self, index: int, turn: Turn) -> Choice:
        """What is to become of a turn that was just spoken: it stands; it is edited; drawn again; another one is typed; or it stands, and
        nothing is asked any more."""
        ...

    def edit(self, seat: Speaker, text: str) -> str:
        """The text, edited."""
        ...


class KeptDraft:
    """The draft of one turn, in the run folder."""

    def __init__(self, store: RunFolder, place: str) -> None:
        self.store, self.place = store, place
        self.path: Path = store.folder / DRAFT

    def read(self) -> str:
        found = read_json(self.path) or {}
        return str(found.get("text", "")) if found.get("turn") == self.place else ""

    def write(self, text: str) -> None:
        with self.store.writing():
            replace(self.path, json.dumps({"turn": self.place, "text": text}) + "\n")
