"""What an audit reads: items, judges and opinions of several folders together, whole or refused with the rows that are wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from expertchat.config import ConfigError
from expertchat.folder.jsonl import read_records
from expertchat.records import Item, JudgeRef, Opinion
from expertchat.text.sentences import listed

FILES = ("items", "judges", "opinions")
REMEDY = "judge into a new folder, or leave this one out"
SHOWN = 5  # rows that a message names
Key = tuple[str, str]
"""An item: its source and its id there. The same source gives the same ids, so what two folders say of one item comes together."""


@dataclass
class Evidence:
    """Items by their keys, judges by their names, and what each said: (key of the item, opinion)."""

    items: dict[Key, Item] = field(default_factory=dict)
    judges: dict[str, JudgeRef] = field(default_factory=dict)
    opinions: dict[str, list[tuple[Key, Opinion]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(
        self, place: str, items: Sequence[Item], judges: Sequence[JudgeRef], opinions: Sequence[Opinion], judged: bool = True
    ) -> list[str]:
        """Take in what one folder holds; returns what is wrong with it, and then takes in nothing. `judged`: it must hold an answer."""
        problems = [
            *_twice(place, "items", items),
            *_twice(place, "judges", judges),
            *_twice(place, "opinions", opinions),
            *_strangers(place, items, judges, opinions),
            *self._other(place, items),
        ]
        if judged and not problems and not any(one.answered for one in opinions):
            why = Counter(one.problem or one.fault or "no reason given" for one in opinions).most_common(1)
            said = f"none of {len(opinions)} opinions is an answer ({why[0][0]})" if why else "it has no opinions"
            problems.append(f"{place}: {said}; there is nothing to audit: {REMEDY}")
        if problems:
            return problems
        keys = {item.id: key_of(item) for item in items}
        self.items.update({keys[item.id]: item for item in items})
        names = {judge.id: self._name(place, judge) for judge in judges}
        for judge in judges:
            self.judges[names[judge.id]] = judge.model_copy(update={"id": names[judge.id]})
        known = {name: {(key, _about(one)) for key, one in said} for name, said in self.opinions.items()}
        for one in opinions:
            name, key = names[one.judge], keys[one.item]
            if (key, _about(one)) not in known.get(name, ()):
                self.opinions.setdefault(name, []).append((key, one))
        return []

    def _other(self, place: str, items: Iterable[Item]) -> list[str]:
        """What contradicts another folder."""
        known = [(item, other) for item in items if (other := self.items.get(key_of(item))) is not None]
        differ = [item.id for item, other in known if item.model_copy(update={"id": other.id}) != other]
        if not differ:
            return []
        return [f"{place}, items.jsonl: {_rows(differ)} of the same source as another folder's, with other contents; {REMEDY}"]

    def _name(self, place: str, judge: JudgeRef) -> str:
        """What a judge is called here: as it is, unless another folder calls another one so."""
        name, number = judge.id, 1
        while (kept := self.judges.get(name)) is not None and kept.model_copy(update={"id": judge.id}) != judge:
            name = f"{judge.id} of {Path(place).name}" + (f" ({number})" if number > 1 else "")
            number += 1
        return name


def key_of(item: Item) -> Key:
    """An item by its source; where several sources were read together, the first signs of each stand before its ids."""
    return item.source, item.id.removeprefix(f"{item.source[:8]}/")


def _about(one: Opinion) -> tuple[object, ...]:
    """What an opinion is about, beside its item: said by one judge twice, it is the same opinion."""
    return one.category, one.place, one.order, one.repeat


def read_folder(folder: Path) -> tuple[list[Item], list[JudgeRef], list[Opinion]]:
    """What `expertchat judge` has left in a folder. Raises ConfigError with every file that is missing or damaged."""
    missing = [f"{name}.jsonl" for name in FILES if not (folder / f"{name}.jsonl").is_file()]
    if missing:
        raise ConfigError(f"{folder}: has no {listed(missing)}; name a folder of expertchat judge, or a run with ratings")
    problems: list[str] = []

    def read(name: str, model: type) -> list:  # type: ignore[type-arg]
        try:
            return list(read_records(folder / f"{name}.jsonl", model, REMEDY))
        except ConfigError as error:
            problems.extend(error.problems)
            return []

    items, judges, opinions = read("items", Item), read("judges", JudgeRef), read("opinions", Opinion)
    if problems:
        raise ConfigError(problems)
    return items, judges, opinions


def _rows(names: Sequence[str]) -> str:
    """ "c0001, c0002 and 3 more are"."""
    shown = list(dict.fromkeys(names))
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return f"{', '.join(shown[:SHOWN])}{more} {'is' if len(shown) == 1 else 'are'}"


def _twice(place: str, name: str, records: Sequence[Item] | Sequence[JudgeRef] | Sequence[Opinion]) -> list[str]:
    counts = Counter(one.id for one in records)
    lines = {key: [str(n) for n, one in enumerate(records, 1) if one.id == key] for key, times in counts.items() if times > 1}
    twice = [f"{key} ({', '.join(at)})" for key, at in lines.items()]
    return [f"{place}, {name}.jsonl: {_rows(twice)} there twice (by lines); {REMEDY}"] if twice else []


def _strangers(place: str, items: Iterable[Item], judges: Iterable[JudgeRef], opinions: Sequence[Opinion]) -> list[str]:
    """Opinions of items or judges that the folder does not have, or that do not fit their item."""
    known, names = {item.id: item for item in items}, {judge.id for judge in judges}
    rows = list(enumerate(opinions, 1))
    found = (
        ("about an item of another source", [n for n, one in rows if one.item not in known]),
        ("by a judge that judges.jsonl does not have", [n for n, one in rows if one.judge not in names]),
        ("a choice, or of a second text, where the item has one text alone", [
            n for n, one in rows if one.item in known and not known[one.item].pair and (one.choice is not None or one.place > 0)
        ]),
        ("of a third text", [n for n, one in rows if one.place not in (0, 1)]),
    )  # fmt: skip
    return [f"{place}, opinions.jsonl: line {_rows([str(n) for n in lines])} {what}; {REMEDY}" for what, lines in found if lines]
