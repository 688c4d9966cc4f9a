"""What the files of runs say of their dialogues: numbers by who was judged by whom, with the topics by which their intervals draw."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy

from expertchat.evaluation.by_topic import estimate
from expertchat.evaluation.draws import Array
from expertchat.evaluation.statistics import FEW, mean_by_cluster
from expertchat.folder.reader import RunReader
from expertchat.report.parts import Cell
from expertchat.text.likeness import blank

Line = Mapping[str, Any]
Way = tuple[str, str]  # (who was judged, by whom)
RESAMPLES = 1000
RATING, COSINE, ANY = (1.0, 10.0), (-1.0, 1.0), (-math.inf, math.inf)  # between which they lie


@dataclass
class Values:
    """Numbers with the topic that each belongs to, by which intervals draw. `scale`: no interval reaches beyond, unless a number does."""

    numbers: list[float] = field(default_factory=list)
    topics: list[str] = field(default_factory=list)
    lacking: int = 0
    scale: tuple[float, float] = ANY

    def add(self, number: object, topic: str) -> None:
        if isinstance(number, int | float) and not isinstance(number, bool):
            self.numbers.append(float(number))
            self.topics.append(topic)
        else:
            self.lacking += 1

    def cell(self) -> Cell:
        if not self.numbers:
            return Cell(None)
        least, most = min(self.scale[0], *self.numbers), max(self.scale[1], *self.numbers)
        bounds = mean_by_cluster(self.numbers, self.topics, seed=0, resamples=RESAMPLES)
        return Cell(fmean(self.numbers), *(None if bound is None else min(max(bound, least), most) for bound in bounds))


@dataclass
class Told:
    """What the files of runs say of their dialogues, in one pass over each file."""

    ratings: dict[tuple[Way, str], Values] = field(default_factory=dict)  # of whole dialogues, by way and category
    candidates: dict[Way, Values] = field(default_factory=dict)  # of candidates, all categories
    places: dict[Way, dict[int, Values]] = field(default_factory=dict)  # of turns, or of candidates for them: all categories, by place
    wim: dict[Way, Values] = field(default_factory=dict)
    rewards: dict[Way, Values] = field(default_factory=dict)
    turns: dict[str, list[list[int]]] = field(default_factory=dict)  # by speaker and place of the turn: their tokens
    ends: Counter[str] = field(default_factory=Counter)
    odd: dict[str, Counter[str]] = field(default_factory=dict)  # by speaker: cut, blank, thought, beyond
    faults: Counter[tuple[str, str]] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    mass: dict[str, list[float]] = field(default_factory=dict)  # by judge
    cases: dict[tuple[str, str, str], dict[str, float]] = field(default_factory=dict)  # (dialogue, subject, category) -> judge -> number
    topics: dict[str, str] = field(default_factory=dict)
    models: dict[str, set[str]] = field(default_factory=dict)

    @property
    def speakers(self) -> list[str]:
        return list(self.turns)


def of(by_way: Mapping[Way, Values], who: str) -> list[Values]:
    return [values for (subject, _), values in by_way.items() if subject == who]


def pooled(several: Iterable[Values]) -> Values:
    """All of them as one."""
    several = list(several)
    found = Values(scale=several[0].scale) if several else Values()
    for values in several:
        found.numbers += values.numbers
        found.topics += values.topics
    return found


def of_categories(several: Iterable[Values]) -> Cell:
    """The mean of categories' means: categories are rated high and low, so where one could be read less often the others would say more."""
    known = [values for values in several if values.numbers]
    if not known:
        return Cell(None)
    numbers = [(place, number) for place, values in enumerate(known) for number in values.numbers]
    topics = [topic for values in known for topic in values.topics]
    rows_N_2C = numpy.zeros((len(numbers), 2 * len(known)))
    for row, (place, number) in zip(rows_N_2C, numbers, strict=True):
        row[2 * place : 2 * place + 2] = number, 1

    def mean(sums: Array) -> Array:
        with numpy.errstate(invalid="ignore", divide="ignore"):
            found: Array = (sums[..., ::2] / sums[..., 1::2]).mean(axis=-1)
        return found

    found = estimate(rows_N_2C, topics, mean, seed=0, resamples=RESAMPLES)
    least, most = known[0].scale
    bounds = (found.low, found.high) if found.topics >= FEW else (None, None)
    return Cell(found.value, *(None if bound is None else min(max(bound, least), most) for bound in bounds))


def read(run: RunReader, told: Told, name: str = "") -> None:
    """Add a run's dialogues. `name` tells its dialogues from those of other runs."""
    for line in run.lines("transcripts"):
        told.topics[name + str(line["id"])] = str(line.get("topic"))
        told.ends[str(line.get("stop_reason"))] += 1
        for who, ref in (line.get("experts") or {}).items():
            told.models.setdefault(who, set()).add(str(ref.get("model")))
            told.turns.setdefault(who, [])
        _turns(line.get("turns") or (), told)
    for line in run.lines("ratings"):
        _rating(line, told, name)
    for kind, into, key, scale in (("wim", told.wim, "cosine", COSINE), ("rewards", told.rewards, "value", ANY)):
        for line in run.lines(kind):
            told.asked[kind] += 1
            if line.get(key) is None:
                told.faults[kind, str(line.get("fault") or line.get("problem") or "no number")] += 1
            into.setdefault(_way(line), Values(scale=scale)).add(line.get(key), told.topics.get(name + str(line.get("transcript")), ""))


def _turns(turns: Iterable[Line], told: Told) -> None:
    for place, turn in enumerate(turns):
        who = str(turn.get("speaker"))
        own = told.turns.setdefault(who, [])
        while len(own) <= place:
            own.append([])
        own[place].append(int(turn.get("tokens") or 0))
        odd = told.odd.setdefault(who, Counter())
        odd.update(turns=1, cut=bool(turn.get("cut")), blank=blank(str(turn.get("text"))), thought=bool(turn.get("thinking")))


def _way(line: Line) -> Way:
    return str(line.get("subject")), str(line.get("judge"))


def _rating(line: Line, told: Told, name: str) -> None:
    number = line.get("expected") if line.get("expected") is not None else line.get("value")
    dialogue, category = name + str(line.get("transcript")), str(line.get("category"))
    topic = told.topics.get(dialogue, "")
    told.asked["ratings"] += 1
    if number is None:
        told.faults["ratings", str(line.get("fault") or line.get("problem") or "no number")] += 1
    if line.get("mass") is not None:
        told.mass.setdefault(str(line.get("judge")), []).append(float(line["mass"]))
    if line.get("candidate") is not None or line.get("turn") is not None:
        told.candidates.setdefault(_way(line), Values(scale=RATING)).add(number, topic)
        if isinstance(place := line.get("turn"), int):
            told.places.setdefault(_way(line), {}).setdefault(place, Values(scale=RATING)).add(number, topic)
        return
    told.ratings.setdefault((_way(line), category), Values(scale=RATING)).add(number, topic)
    if number is not None:
        told.cases.setdefault((dialogue, str(line.get("subject")), category), {})[str(line.get("judge"))] = float(number)
