"""Who judges whom, and the tables that views show of it: names, cells and columns as values, without colours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from expertchat.records import ExpertRef, Rating, Speaker
from expertchat.text.in_words import line as line
from expertchat.text.sentences import shown_path


def model_name(ref: ExpertRef | None) -> str:
    """A short name of a model: the end of its path or hub id, "models--org--name" folders of a hub cache included."""
    if ref is None:
        return ""
    name = (shown_path(line(ref.model)) or line(ref.family)).rpartition("/")[2].removeprefix("embedded:").removesuffix(".gguf")
    return f"{name} v{ref.policy_version}" if ref.policy_version else name


class Side(NamedTuple):
    """Who judges whom."""

    judge: str
    subject: Speaker

    @property
    def title(self) -> str:
        """ "A on B"; a judge that does not talk keeps its name."""
        return f"{letter(self.judge)} on {self.subject.upper()}"


def letter(speaker: str) -> str:
    """ "a" -> "A"; "third" -> "third"."""
    return speaker.upper() if len(speaker) == 1 else line(speaker)


def in_order(sides: Iterable[Side]) -> list[Side]:
    """A on B, B on A, then self-judgements and other judges."""
    return sorted(set(sides), key=lambda s: (s.judge not in ("a", "b"), s.judge == s.subject, s.judge, s.subject))


class Cell(NamedTuple):
    """One number of a table as text, and as a number where a bar can show it."""

    text: str
    number: float | None = None


@dataclass
class Table:
    """Rows of categories, one column for each side; the last rows are WIM score and reward (`bars` counts the rows before)."""

    sides: list[Side]
    rows: list[tuple[str, list[Cell]]]
    bars: int


def rating_cell(rating: Rating | None) -> Cell:
    """ "6.8", "7", "6.8 (7)" where both forms were asked for, "none" where there is no answer."""
    if rating is None:
        return Cell("")
    if rating.number is None:
        return Cell("none")
    if rating.expected is None:
        return Cell(str(rating.value), rating.number)
    sampled = f" ({rating.value})" if rating.value is not None else ""
    return Cell(f"{rating.expected:.1f}{sampled}", rating.number)


def number_cell(value: float | None, form: str = ".2f") -> Cell:
    return Cell("none") if value is None else Cell(format(value, form), value)
