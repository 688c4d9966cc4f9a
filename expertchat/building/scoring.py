"""Every text of a source with one score: by a judge that is asked, by what was said of it already, or by people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from expertchat.backends.asking import Flow
from expertchat.building.config import BuildConfig
from expertchat.config import ConfigError
from expertchat.judging.wim import mean_rating
from expertchat.lab.judge import OVERALL, Bench, LabJudge
from expertchat.lab.kinds import judges_of
from expertchat.labels.opinions import opinions_of
from expertchat.labels.run import to_read
from expertchat.labels.store import read_labels
from expertchat.records import Item, JudgeRef, Opinion, Text
from expertchat.sources.read import own_id

PEOPLE = "people"


@dataclass(frozen=True)
class Scored:
    """A text of an item, its score on the judge's scale (None: there is none, and why), and whether the token limit cut it."""

    item: Item
    place: int
    type: str
    score: float | None
    problem: str | None = None
    cut: bool = False

    @property
    def id(self) -> str:
        return text_id(self.item, self.place)

    @property
    def text(self) -> Text:
        return self.item.texts[self.place]


def text_id(item: Item, place: int) -> str:
    """How a text of an item is called.

    >>> one = Item(id="c0001/t02", source="", texts=[Text(text="Bees.")], group="c0001")
    >>> text_id(one, 0), text_id(one.model_copy(update={"texts": one.texts * 2}), 1)
    ('c0001/t02', 'c0001/t02/1')
    """
    return f"{item.id}/{place}" if item.pair else item.id


def alone(item: Item, place: int) -> Item:
    """An item with one of its texts, to be judged by itself."""
    return item.model_copy(update={"id": text_id(item, place), "texts": [item.texts[place]], "label": None})


@dataclass(frozen=True)
class People:
    """What annotators have said, in a judge's place."""

    said: Mapping[str, Sequence[Opinion]]  # by item

    @property
    def name(self) -> str:
        return PEOPLE

    @property
    def ref(self) -> JudgeRef:
        people = sorted({one.judge for said in self.said.values() for one in said})
        return JudgeRef(id=PEOPLE, form="person", note=", ".join(people))

    def takes(self, item: Item) -> bool:
        return bool(self.said.get(item.id))

    def owes(self, item: Item, repeat: int) -> list[str]:
        return [one.id for one in self.said.get(item.id, ())]

    def flow(self, item: Item, repeat: int) -> Flow[list[Opinion]]:
        yield from ()
        return list(self.said.get(item.id, ()))


def people(config: BuildConfig, items: Sequence[Item]) -> People:
    """Those who have labelled the items. Raises ConfigError where nobody has."""
    folder = to_read(config.labels, config.source.path)
    if not folder.exists():
        raise ConfigError(f"labels={config.labels}: no such folder; name that of `expertchat label`, or leave it away and name a judge")
    found: dict[str, list[Opinion]] = defaultdict(list)
    for one in opinions_of(read_labels(folder, items), items)[1]:
        if not one.repeat:  # what came a second time shows how steady somebody is
            found[one.item].append(one)
    if not any(one.answered for said in found.values() for one in said):
        raise ConfigError(f"labels={folder}: nobody has rated or compared anything of this source; label it first, or name a judge")
    return People(found)


def the_judge(config: BuildConfig, bench: Bench, items: Sequence[Item]) -> LabJudge:
    """Who scores. Raises ConfigError for one that cannot be made, or for whom there is nothing to judge."""
    if config.labels is not None:
        return people(config, items)
    (judge,) = judges_of(bench, items)
    if not any(map(judge.takes, to_judge(judge, items))):
        pairs = sum(item.pair for item in items)
        there = f"the source holds {len(items)} items, {pairs} of them pairs"
        raise ConfigError(f"judges.{judge.name}: can judge nothing of this ({there}); take another judge, or another source.unit")
    return judge


def to_judge(judge: LabJudge, items: Sequence[Item]) -> list[Item]:
    """The items as the judge is asked about them: the two texts of a pair one by one, wherever it judges one text by itself."""
    found = []
    for item in items:
        single = [alone(item, place) for place in range(len(item.texts))]
        found += single if any(map(judge.takes, single)) else [item]
    return found


def scored(
    config: BuildConfig, items: Sequence[Item], said: Mapping[str, Sequence[Opinion]], cut: Collection[tuple[str, str]]
) -> list[Scored]:
    """Every text with its score, in the order of the items. `said`: by the id of what was judged; `cut`: see `cut_texts`."""
    found = []
    for item in items:
        for place, text in enumerate(item.texts):
            kind = item.kind if config.choose.by_type else ""
            own, at = (said[text_id(item, place)], 0) if text_id(item, place) in said else (said.get(item.id, ()), place)
            score, problem = score_of(own, at, kind, config.judging.shares)
            name = text.candidate or (f"{own_id(item)}/{place}" if item.pair else own_id(item))
            found.append(Scored(item, place, kind, score, problem, cut=(item.source, name) in cut))
    return found


def score_of(said: Sequence[Opinion], place: int, kind: str, shares: Mapping[str, float]) -> tuple[float | None, str | None]:
    """The score of one text: the mean over its judges; of a choice 1 for the chosen one, 0 for the other, 1/2 for a tie. Or why there is
    none.

    A judge that rates categories gives the one that is called like the text's type, else their weighted mean, None where one is lacking.
    """
    rated: dict[tuple[str, int], dict[str, float | None]] = defaultdict(dict)
    for one in said:
        if one.order is None and one.choice is None and one.place == place:
            rated[one.judge, one.repeat][one.category] = one.number
    numbers = [number for given in rated.values() if (number := _number(given, kind, shares)) is not None]
    if not numbers:
        wanted = ("first", "second")[place]
        numbers = [0.5 if one.choice == "tie" else float(one.choice == wanted) for one in said if one.choice is not None]
    if numbers:
        return fmean(numbers), None
    return None, next((one.problem for one in said if one.problem), "nobody judged it")


def _number(given: Mapping[str, float | None], kind: str, shares: Mapping[str, float]) -> float | None:
    """What one judge says of a text on the whole."""
    if kind in given:
        return given[kind]
    if OVERALL in given:
        return given[OVERALL]
    known = {name: share for name, share in shares.items() if name in given}
    return mean_rating(given, known or dict.fromkeys(given, 1.0))
