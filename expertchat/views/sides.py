"""Who judges whom, and the tables that views show of it: names, cells and columns as values, without colours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from expertchat.records import ExpertRef, Rating, Reward, Speaker, Wim
from expertchat.text.in_words import line
from expertchat.text.sentences import shown_path

Seats = tuple[Speaker, ...]
TWO: Seats = ("a", "b")  # who sits there while no event has said it
Judged = Rating | Wim | Reward


def model_name(ref: ExpertRef | None) -> str:
    """A short name of a model: the end of its path or hub id, "models--org--name" folders of a hub cache included."""
    if ref is None:
        return ""
    name = (shown_path(line(ref.model)) or line(ref.family)).rpartition("/")[2].removeprefix("embedded:").removesuffix(".gguf")
    name = f"{name} + {line(ref.trained)}" if ref.trained else name
    return f"{name} v{ref.policy_version}" if ref.policy_version else name


def called(speaker: str) -> str:
    """ "a" -> "A"; "anna" and "third" stay as they are."""
    return speaker.upper() if len(speaker) == 1 else line(speaker)


def seat_number(speaker: str, seats: Seats) -> int:
    """The place of a speaker among the seats; whoever has none comes after them."""
    return seats.index(speaker) if speaker in seats else len(seats)


class Side(NamedTuple):
    """Who judges whom."""

    judge: str
    subject: Speaker

    @property
    def title(self) -> str:
        """ "A on B"; a judge that does not talk keeps its name."""
        return f"{called(self.judge)} on {called(self.subject)}"


def in_order(sides: Iterable[Side], seats: Seats) -> list[Side]:
    """A on B, B on A, as many as there are, then self-judgements and other judges."""

    def place(side: Side) -> tuple[bool, bool, int, str, int]:
        own = side.judge == side.subject
        return side.judge not in seats, own, seat_number(side.judge, seats), side.judge, seat_number(side.subject, seats)

    return sorted(set(sides), key=place)


class Cell(NamedTuple):
    """One number of a table as text, and as a number where a bar can show it."""

    text: str
    number: float | None = None


class Row(NamedTuple):
    """What a row of a table is of: the categories of ratings come first."""

    order: int
    title: str


WIM_ROW, REWARD_ROW = Row(1, "WIM score"), Row(2, "reward")
FORMS = {WIM_ROW: ".2f", REWARD_ROW: "+.2f"}
MEAN_FORM = ".1f"  # of ratings


@dataclass
class Table:
    """Rows of categories, one column for each side; the last rows are WIM score and reward (`bars` counts the rows before)."""

    seats: Seats
    sides: list[Side]
    rows: list[tuple[str, list[Cell]]]
    bars: int


def table_of(cells: Mapping[tuple[Row, Side], Cell], seats: Seats) -> Table | None:
    """The table of all cells; None where there are none."""
    if not cells:
        return None
    sides = in_order((side for _, side in cells), seats)
    rows = sorted(dict.fromkeys(row for row, _ in cells), key=lambda row: row.order)  # stable: categories as they came
    drawn = [(row.title, [cells.get((row, side), Cell("")) for side in sides]) for row in rows]
    return Table(seats, sides, drawn, sum(not row.order for row in rows))


def is_whole(record: Judged) -> bool:
    """Whether a record judges a whole dialogue, no single turn or candidate."""
    return record.turn is None and record.candidate is None


def side_of(record: Judged) -> Side:
    return Side(record.judge, record.subject)


def figure_of(record: Judged) -> tuple[Row, float | None]:
    """The row that a record stands in, and its number."""
    match record:
        case Rating():
            return Row(0, line(record.category)), record.number
        case Wim():
            return WIM_ROW, record.cosine
    return REWARD_ROW, record.value


def cell_of(record: Judged) -> Cell:
    """A record's number; a rating as "6.8", "7", or "6.8 (7)" where both forms were asked for; "none" where there is no answer."""
    row, number = figure_of(record)
    if isinstance(record, Rating) and number is not None:
        sampled = f" ({record.value})" if record.value is not None else ""
        return Cell(str(record.value) if record.expected is None else f"{record.expected:.1f}{sampled}", number)
    return number_cell(number, FORMS.get(row, ""))


def number_cell(value: float | None, form: str) -> Cell:
    return Cell("none") if value is None else Cell(format(value, form), value)
