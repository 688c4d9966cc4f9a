"""What trackers are shown of a run's texts: dialogues, replies to one same history, opinions; and the numbers of its summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from expertchat.folder.reader import RunReader
from expertchat.records import finite, round_of
from expertchat.text.cells import markdown
from expertchat.text.in_words import line
from expertchat.text.sentences import clean

MOST = 500  # dialogues, and rows of a table, of one start: a tracker is no archive, and the run folder has all of them
Row = Sequence[str | int | float | None]


@dataclass(frozen=True)
class Talk:
    """A dialogue: (speaker, text) turn by turn. `step`: its round, 0 where there are none."""

    id: str
    step: int
    topic: str
    turns: Sequence[tuple[str, str]]
    about: Mapping[str, str | int | float | None] = field(default_factory=dict)

    @property
    def messages(self) -> list[dict[str, str]]:
        """As traces have it: the first speaker asks, the others answer; each is called by name."""
        first = self.turns[0][0] if self.turns else ""
        return [{"role": "user" if who == first else "assistant", "name": who, "content": f"{who}: {text}"} for who, text in self.turns]


@dataclass(frozen=True)
class Texts:
    """A table with texts."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Row]

    def markdown(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join("| " + " | ".join(markdown(str("" if x is None else x)) for x in row) + " |" for row in lines)


def told_of(run: RunReader, known: Mapping[str, int]) -> tuple[list[Talk], list[Texts], dict[str, int]]:
    """The dialogues and tables of the lines that are not `known` yet (so many of each file), and how many lines there are now."""
    now = dict(known)

    def fresh(file: str) -> list[Mapping[str, Any]]:
        every: list[Mapping[str, Any]] = list(run.lines(file))
        now[file] = len(every)
        return every[known.get(file, 0) :]

    talks = [_talk(one) for one in islice(fresh("transcripts"), MOST)]
    tables = [Texts("replies", REPLIES, list(islice(_replies(run, fresh("candidates")), MOST))),
              Texts("opinions", OPINIONS, [_opinion(one) for one in islice(fresh("opinions"), MOST)]),
              Texts("picks", PICKS, [_pick(one) for one in islice(fresh("picks"), MOST)]),
              Texts("posts", POSTS, [_post(one) for one in islice(fresh("written"), MOST)])]  # fmt: skip
    return talks, [table for table in tables if table.rows], now


REPLIES = ("id", "round", "speaker", "reply", "tokens", "score", "pair")
OPINIONS = ("item", "judge", "category", "answer", "order", "problem")
PICKS = ("row", "order", "pick", "mass", "problem")
POSTS = ("id", "language", "persona", "topic", "post", "fault", "similarity")


def _talk(one: Mapping[str, Any]) -> Talk:
    name = str(one.get("id"))
    turns = [(str(turn.get("speaker")), clean(str(turn.get("text") or ""))) for turn in one.get("turns") or () if isinstance(turn, Mapping)]
    models = {str(who): line(str(ref.get("model"))) for who, ref in (one.get("experts") or {}).items() if isinstance(ref, Mapping)}
    return Talk(name, round_of(name) or 0, line(str(one.get("topic") or "")), turns, {"ended": str(one.get("stop_reason")), **models})


def _replies(run: RunReader, candidates: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    if not candidates:
        return
    scores = {str(one.get("id")): one.get("value") for one in run.lines("scores")}
    used: dict[str, str] = {}
    for pair in run.lines("pairs"):
        source = pair.get("provenance")
        used |= {str(source.get(side)): side for side in ("chosen", "rejected")} if isinstance(source, Mapping) else {}
    for one in candidates:
        name = str(one.get("id"))
        text = clean(str(one.get("text") or ""))
        yield name, one.get("round"), str(one.get("speaker")), text, one.get("tokens"), scores.get(name), used.get(name)


def _opinion(one: Mapping[str, Any]) -> Row:
    answer = next((one[key] for key in ("expected", "value", "score", "choice") if one.get(key) is not None), None)
    return (str(one.get("item")), str(one.get("judge")), str(one.get("category")), None if answer is None else str(answer),
            _worded(one.get("order")), _worded(one.get("problem")))  # fmt: skip


def _pick(one: Mapping[str, Any]) -> Row:
    order = ", ".join(map(str, one.get("order") or ()))
    return str(one.get("row")), order, one.get("choice"), one.get("mass"), _worded(one.get("problem"))


def _post(one: Mapping[str, Any]) -> Row:
    said = (_worded(one.get(key)) for key in ("language", "persona", "topic", "text", "fault"))
    return str(one.get("id")), *said, one.get("similarity")


def _worded(value: object) -> str | None:
    """A text on one line."""
    return None if value is None else line(str(value))


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, float]:
    """The numbers of nested values, by their places; lists are left out."""
    found: dict[str, float] = {}
    for key, value in finite(dict(values)).items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{before}{key}"] = float(value)
    return found
