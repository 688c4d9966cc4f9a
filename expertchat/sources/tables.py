"""Items out of the rows of a table: each text as the turn of an expert `a` that answers a partner `b`."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from expertchat.config import ConfigError
from expertchat.records import Choice, Item, Text, Turn
from expertchat.sources.columns import SIDES, Columns, find_columns
from expertchat.sources.config import LEAVE, SourceConfig
from expertchat.sources.encoding import Say, named
from expertchat.sources.rows import Row, Table, is_chat, number_cell, texts_of
from expertchat.text.likeness import blank

SUBJECT, PARTNER = "a", "b"
FIRST = "a first left 1 model_a a>b a_is_better a_wins"
SECOND = "b second right 2 model_b b>a b_is_better b_wins"
THIRD = "c third 3 model_c c_is_better c_wins"
TIE = "tie ties both equal same neither a=b draw tie_(bothbad) both_bad"
PLACES: dict[str, Any] = dict.fromkeys(FIRST.split(), 0) | dict.fromkeys(SECOND.split(), 1) | dict.fromkeys(TIE.split(), "tie")
LOWEST, HIGHEST = 1.0, 10.0
JUDGED = "score_chosen"  # a column of pairs that a run has made of its judge's scores


def table_items(table: Table, config: SourceConfig, say: Say, scored: bool = False) -> list[Item]:
    """The items of a table, in the order of its rows; `scored`: see read_items.

    Raises ConfigError with every row that holds none, unless these may be skipped.
    """
    columns = find_columns(config.columns, table.columns, table.name)
    say(f"{table.name}: {columns.told()}; others: source.columns.KEY=NAME")
    _check_unit(config, columns, table)
    maker = _Maker(table, config, columns, scored)
    items = maker.items()
    left = sum(maker.skippable.values())
    if config.incomplete == "skip" and left and items:
        say(f"{table.name}: {left} of {len(table.rows)} {table.word}s are left out ({maker.skipped()})")
    elif maker.faults:
        maker.problems += maker.told()
    if maker.problems:
        raise ConfigError([f"source.path: {table.name}: {problem}" for problem in maker.problems])
    if maker.notes:
        say(f"{table.name}: {'; '.join(maker.notes)}")
    return items


def _check_unit(config: SourceConfig, columns: Columns, table: Table) -> None:
    holds = "pairs" if len(columns.texts) > 1 else "one text a row"
    if config.unit == "auto" or (config.unit == "pairs") == (holds == "pairs"):
        return
    raise ConfigError(
        f"source.unit={config.unit}: {table.name} holds {holds} ({', '.join(columns.texts)}); leave source.unit away, or name other "
        "columns with source.columns"
    )


@dataclass
class _Read:
    """What a row holds before it is an item."""

    row: Row
    id: str
    topic: str
    turns: list[Turn]
    texts: list[Text]
    group: str
    reference: str | None
    label: Any
    type: str | None = None


class _Maker:
    """Makes the items of one table and gathers what is wrong with its rows, by kind."""

    def __init__(self, table: Table, config: SourceConfig, columns: Columns, scored: bool = False) -> None:
        self.table, self.config, self.columns, self.scored = table, config, columns, scored
        self.faults: dict[str, list[int]] = defaultdict(list)  # what is wrong -> rows
        self.remedies: dict[str, str] = {}
        self.skippable: dict[str, int] = defaultdict(int)
        self.problems: list[str] = []
        self.notes: list[str] = []

    @property
    def by_people(self) -> bool:
        """Whether what is called chosen is taken for what a person chose; in a run's own pairs it is what a judge made of them."""
        return self.config.columns.label != LEAVE and (self.scored or JUDGED not in self.table.columns)

    def items(self) -> list[Item]:
        if self.columns.preference and not self.by_people:
            self.notes.append(f"what is called {self.columns.texts[0]} is nobody's label here")
        read = [one for row in self.table.rows if (one := self._read(row)) is not None]
        self._same_ids(read)
        self._labels(read)
        group = self._groups(read)
        return [item for one in read for item in self._made(one, group(one))]

    # -- rows -------------------------------------------------------------------------------------------------------------

    def _read(self, row: Row) -> _Read | None:
        """A row taken apart; None, with the fault noted, where it cannot be judged."""
        before, found = self._context(row), list[str | None]()
        for column in self.columns.texts:
            turns, text = _said(row.cells.get(column))
            before = before if before and len(before) >= len(turns) else turns
            found.append(text)
        lacking = [column for column, text in zip(self.columns.texts, found, strict=True) if text is None or blank(text)]
        if lacking:
            self._fault_of(row, lacking)
            return None
        texts = [self._text(row, i, text) for i, text in enumerate(found) if text is not None]
        given = self._cell(row, "id")
        name = f"{self.table.word[0]}{row.number:04d}" if given is None else given
        topic = self._cell(row, "topic") or self.config.topic or ""
        label = None if "label" not in self.columns.others else row.cells.get(self.columns.others["label"])
        group, reference = self._cell(row, "group") or "", self._cell(row, "reference")
        return _Read(row, name, topic, before, texts, group, reference, label, self._cell(row, "type"))

    def _context(self, row: Row) -> list[Turn]:
        column = self.columns.others.get("prompt")
        return turns_of(row.cells.get(column) if column is not None else None)

    def _fault_of(self, row: Row, lacking: Sequence[str]) -> None:
        empty = [repr(column) for column in lacking]
        one_sided = 0 < len(lacking) < len(self.columns.texts)
        kind = f"{' and '.join(empty)} {'is' if len(empty) == 1 else 'are'} empty" + (" where the other side is not" if one_sided else "")
        self._fault(kind, row, "fill in or remove these rows, or leave them out with source.incomplete=skip")
        self.skippable[kind] += 1

    def _fault(self, kind: str, row: Row, remedy: str) -> None:
        self.faults[kind].append(row.number)
        self.remedies[kind] = remedy

    def told(self) -> list[str]:
        """What is wrong with the rows, a line a kind."""
        word = self.table.word
        return [f"{named(numbers, word)}: {kind}; {self.remedies[kind]}" for kind, numbers in self.faults.items()]

    def skipped(self) -> str:
        """What was left out, in words; what cannot be skipped becomes a problem."""
        rest = {kind: numbers for kind, numbers in self.faults.items() if kind not in self.skippable}
        said = "; ".join(f"{named(numbers, self.table.word)}: {kind}" for kind, numbers in self.faults.items() if kind in self.skippable)
        self.faults = defaultdict(list, rest)
        self.problems += self.told()
        return said

    def _text(self, row: Row, i: int, text: str) -> Text:
        system, truth = self.columns.systems[i], self.columns.truths[i]
        named_after = None if len(self.columns.texts) == 1 or self.columns.preference else self.columns.texts[i]
        return Text(
            text=text,
            system=(plain_cell(row.cells.get(system)) if system else None) or named_after,
            truth=self._number(row, truth) if truth else None,
        )

    def _number(self, row: Row, column: str) -> float | None:
        value = row.cells.get(column)
        if value is not None and number_cell(value) is None:
            self._fault(f"{column!r} is no number", row, "write numbers, or leave the column alone with source.columns.truth=none")
        return number_cell(value)

    def _cell(self, row: Row, key: str) -> str | None:
        column = self.columns.others.get(key)
        return None if column is None else plain_cell(row.cells.get(column))

    def _same_ids(self, read: Sequence[_Read]) -> None:
        rows: dict[str, list[int]] = defaultdict(list)
        for one in read:
            rows[one.id].append(one.row.number)
        twice = {name: numbers for name, numbers in rows.items() if len(numbers) > 1}
        for name, numbers in list(twice.items())[:5]:
            more = f" (and {len(twice) - 5} more ids)" if len(twice) > 5 and name == list(twice)[4] else ""
            self.problems.append(
                f"{named(numbers, self.table.word)}: have one same id {name!r}{more}; give each its own, or leave the column alone with "
                "source.columns.id=none"
            )

    # -- groups -----------------------------------------------------------------------------------------------------------

    def _groups(self, read: Sequence[_Read]) -> Callable[[_Read], str]:
        """What says of a row what it belongs to: its own column, else its topic, else what was asked, else itself."""
        wanted, topics = self.config.group, {one.topic for one in read if one.topic}

        def asked(one: _Read) -> str:
            said = "\n".join(turn.text for turn in one.turns)
            return f"prompt-{hashlib.sha256(said.encode('utf-8', 'replace')).hexdigest()[:10]}" if said else one.id

        def group(one: _Read) -> str:
            if wanted == "item":
                return one.id
            if wanted == "topic":
                return one.topic or asked(one)
            if one.group:
                return one.group
            if wanted == "auto" and one.topic and len(topics) > 1:
                return one.topic
            return asked(one)

        return group

    # -- labels -----------------------------------------------------------------------------------------------------------

    def _labels(self, read: Sequence[_Read]) -> None:
        """Put what people said in the place of what stands in the cells."""
        column = self.columns.others.get("label")
        if column is None:
            return
        several = len(self.columns.texts) > 1
        places = self._places() if several else {}
        for one in read:
            if one.label is None:
                continue
            one.label = self._choice(one, places) if several else self._rating(one)
        if not any(one.label is not None for one in read) and not self.faults:
            self.notes.append(f"column {column!r} holds no label at all")

    def _rating(self, one: _Read) -> float | None:
        low, high = self.config.scale or (LOWEST, HIGHEST)
        try:
            value = float(one.label)
        except (TypeError, ValueError, OverflowError):
            value = float("nan")
        if low <= value <= high:
            return LOWEST + (HIGHEST - LOWEST) * (value - low) / (high - low)
        remedy = "name the scale with source.scale=[LOWEST,HIGHEST], another column with source.columns.label=NAME, or none with =none"
        shown = str(one.label).strip()[:40]
        if re.fullmatch(r"-?\d+,\d+", shown):
            remedy = f"write {shown.replace(',', '.')}"
        kind = f"label {self.columns.others['label']!r} is no number from {low:g} to {high:g}"
        self._fault(kind, one.row, self.remedies.get(kind) or f"the first is {shown!r}: {remedy}")
        return None

    def _places(self) -> dict[str, Any]:
        """What a choice may be called: a and b, first and second, the columns' names, the systems' names."""
        third = dict.fromkeys(THIRD.split(), 2) if len(self.columns.texts) == 3 else {}
        return PLACES | third | {_word(column): i for i, column in enumerate(self.columns.texts)}

    def _choice(self, one: _Read, places: Mapping[str, Any]) -> Any:
        """The place of what was preferred (0, 1, 2), or "tie"."""
        word = _word(one.label)
        names = [_word(text.system) if text.system else None for text in one.texts]
        found = names.index(word) if names.count(word) == 1 else places.get(word)  # who wrote two of them was not chosen by its name
        if found is None:
            of = ", ".join(SIDES[: len(one.texts)])
            remedy = f"write {of} or tie, a column's or a system's name; or leave it alone with source.columns.label=none"
            self._fault(f"label {str(one.label)[:40]!r} is no choice", one.row, remedy)
        return found

    # -- items ------------------------------------------------------------------------------------------------------------

    def _made(self, one: _Read, group: str) -> Iterator[Item]:
        about: dict[str, Any] = {
            "source": "", "topic": one.topic, "turns": one.turns, "subject": SUBJECT, "group": group, "reference": one.reference,
            "type": one.type,
        }  # fmt: skip
        if len(one.texts) == 1:
            yield Item(id=one.id, texts=one.texts, label=one.label, **about)
            return
        for i, k in combinations(range(len(one.texts)), 2):
            name = one.id if len(one.texts) == 2 else f"{one.id}/{SIDES[i]}-{SIDES[k]}"
            texts, label = [one.texts[i], one.texts[k]], _of_two(one.label, i, k)
            if self.columns.preference:
                turned = hashlib.sha256(f"{self.config.seed} {name}".encode()).digest()[0] % 2  # else the preferred one is always the first
                texts, label = (texts[::-1], "second") if turned else (texts, "first")
                label = label if self.by_people else None
            yield Item(id=name, texts=texts, label=label, **about)


def _of_two(label: Any, i: int, k: int) -> Choice | None:
    """What a choice among all says of two of them; of three, nothing of the two that lost."""
    if label is None or label == "tie":
        return label  # type: ignore[no-any-return]
    return "first" if label == i else "second" if label == k else None


def _said(value: Any) -> tuple[list[Turn], str | None]:
    """What was said before, and the judged text: of a chat, its last message."""
    if not is_chat(value):
        return [], plain_cell(value)
    messages = [(role, text) for role, text in texts_of(value) if role != "system"]
    if not messages:
        return [], None
    return _turns(iter(messages[:-1])), messages[-1][1]


def _turns(messages: Iterator[tuple[str, str]]) -> list[Turn]:
    """A chat as turns; what a system message says is nobody's turn."""
    return [Turn(speaker=SUBJECT if role == "assistant" else PARTNER, text=text) for role, text in messages if role != "system"]


def turns_of(cell: Any) -> list[Turn]:
    """What a cell says before a text: a chat, or one turn of the partner."""
    if is_chat(cell):
        return _turns(texts_of(cell))
    return [Turn(speaker=PARTNER, text=str(cell))] if cell is not None else []


def plain_cell(value: Any) -> str | None:
    """A cell as text, 3.0 as 3."""
    if value is None or isinstance(value, list | dict):
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _word(value: Any) -> str:
    """A choice as it is compared: "Model A" is model_a, "1.0" is 1, as a column of numbers with empty cells is written."""
    word = "_".join((plain_cell(value) or "").casefold().split())
    return word.partition(".")[0] if re.fullmatch(r"\d+\.0+", word) else word
