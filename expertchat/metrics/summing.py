"""From a row a text to a figure a system: means with intervals, paired differences, and figures of all texts together.

Intervals (95 %) are bootstrapped over groups (dialogues or topics), drawn whole: the texts of one dialogue are not independent.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations, compress
from statistics import fmean
from typing import Any

import numpy

from expertchat.evaluation.by_topic import Scale, estimate
from expertchat.evaluation.statistics import FEW, mean_by_cluster
from expertchat.metrics.columns import Column
from expertchat.metrics.measuring import Row
from expertchat.text.likeness import blank
from expertchat.text.measures import distinct_n

ALL, FIRST, SECOND = "all", "first", "second"
Figure = dict[str, Any]
ADDED = (  # what adds up, of the counts that its measure keeps
    Column("perplexity_all", "likelihood", "perplexity, all texts", 2, least=1.0, most=math.inf),
    Column("perplexity_reference_all", "reference_likelihood", "perplexity, all references", 2, least=1.0, most=math.inf),
    Column("logp_byte_all", "likelihood", "log-likelihood a byte, all texts", least=-math.inf, most=0.0),
    Column("bleu_all", "bleu", "BLEU, all texts", 2, most=100.0),
)


def labels(rows: Sequence[Row]) -> list[str]:
    """What the system of each row is called: by its name, or by its place where a pair has one name twice, or none."""
    pairs: dict[str, list[str | None]] = {}
    for row in rows:
        if row.item.pair:
            pairs.setdefault(row.item.id, []).append(row.system)
    by_place = any(None in names or len(set(names)) < len(names) for names in pairs.values())
    places = (FIRST, SECOND)
    return [places[row.place] if row.item.pair and by_place else row.system or ALL for row in rows]


def each_once(rows: Sequence[Row], systems: Sequence[str]) -> list[bool]:
    """Whether each row counts for its system: a text that stands in several pairs (a base beside each policy, three that are compared two
    by two) is one text. Texts of one system that say the same beside one and the same other are as many as there are."""
    there, counted, found = Counter[tuple[object, ...]](), Counter[tuple[object, ...]](), list[bool]()
    for row, system in zip(rows, systems, strict=True):
        item, own = row.item, row.item.texts[row.place]
        beside = item.texts[1 - row.place] if item.pair else None
        said = (item.topic, item.subject, *((turn.speaker, turn.text) for turn in item.turns), own.text)
        key = system, item.source, *((own.candidate,) if own.candidate is not None else (item.group, *said))
        pair = (*key, beside and (beside.candidate or beside.system))
        there[pair] += 1
        found.append(there[pair] > counted[key])
        counted[key] += found[-1]
    return found


def means(rows: Sequence[Row], systems: Sequence[str], columns: Sequence[Column], seed: int) -> list[Figure]:
    """A figure for each column: by system, and of two systems in pairs the difference first - second of each pair."""
    found, once = [], each_once(rows, systems)
    single = list(compress(zip(rows, systems, strict=True), once))
    for column in columns:
        pairs = zip(rows, systems, strict=True)
        known = [(row, system, value) for row, system in pairs if (value := row.values.get(column.name)) is not None]
        by_system: dict[str, Figure] = {}
        for name in dict.fromkeys(systems):
            own = [(value, row.group) for row, system in single if system == name and (value := row.values.get(column.name)) is not None]
            by_system[name] = _within(_mean(own, seed), column)
        nulls = Counter(row.problems[column.name] for row, _ in single if column.name in row.problems)
        found.append({
            "name": column.name, "title": column.title, "digits": column.digits, "systems": by_system,
            "differences": _differences(known, list(by_system), seed), "nulls": dict(nulls.most_common()),
        })  # fmt: skip
    return found


def _mean(values: Sequence[tuple[float, str]], seed: int) -> Figure:
    """The mean of values, each with its group."""
    if not values:
        return {"n": 0, "mean": None, "low": None, "high": None}
    numbers, groups = zip(*values, strict=True)
    interval = mean_by_cluster(numbers, groups, seed=seed)
    return {"n": len(values), "mean": fmean(numbers), "low": interval.low, "high": interval.high}


def _within(figure: Figure, column: Column) -> Figure:
    """A figure whose interval does not reach beyond what it can be."""
    bounds = {name: bound if (bound := figure[name]) is None else min(max(bound, column.least), column.most) for name in ("low", "high")}
    return {**figure, **bounds}


def _differences(known: Sequence[tuple[Row, str, float]], systems: Sequence[str], seed: int) -> list[Figure]:
    """One system's figure minus another's, pair by pair, where both have one."""
    pairs: dict[str, dict[str, tuple[float, str]]] = {}
    for row, system, value in known:
        if row.item.pair:
            pairs.setdefault(row.item.id, {})[system] = value, row.group
    found = []
    for one, two in combinations(systems, 2):
        both = [(pair[one][0] - pair[two][0], pair[one][1]) for pair in pairs.values() if one in pair and two in pair]
        if both:
            found.append({"first": one, "second": two, **_mean(both, seed)})
    return found


# -- figures of many texts together ---------------------------------------------------------------------------------------


def added(rows: Sequence[Row], systems: Sequence[str], seed: int, bleu: Callable[[Sequence[float]], float] | None) -> list[Figure]:
    """Perplexity and BLEU of all texts of a system together, from sums over them; intervals by drawing groups."""
    formulas: dict[str, Callable[[Sequence[float]], float]] = {
        "perplexity_all": _perplexity, "perplexity_reference_all": _perplexity,
        "logp_byte_all": lambda sums: sums[0] / sums[2] if sums[2] else math.nan,
    } | ({} if bleu is None else {"bleu_all": bleu})
    found = []
    for column in ADDED:
        if column.name in formulas and any(column.measure in row.counts for row in rows):
            by_system = {
                system: _within(_added(rows, systems, system, column.measure, formulas[column.name], seed), column)
                for system in dict.fromkeys(systems)
            }
            found.append({"name": column.name, "title": column.title, "digits": column.digits, "systems": by_system})
    return found


def _perplexity(sums: Sequence[float]) -> float:
    return math.exp(min(700.0, -sums[0] / sums[1])) if sums[1] else math.nan


def _added(
    rows: Sequence[Row], systems: Sequence[str], system: str, counts: str, formula: Callable[[Sequence[float]], float], seed: int
) -> Figure:
    own = [row for row, name in zip(rows, systems, strict=True) if name == system and counts in row.counts]
    counted, groups = [row.counts[counts] for row in own], [row.group for row in own]
    scale: Scale = "ratio" if formula is _perplexity else "number"  # a perplexity is uncertain by a factor
    found = estimate(counted, groups, lambda sums: numpy.apply_along_axis(lambda one: formula(one.tolist()), -1, sums), scale, seed=seed)
    bounds = (found.low, found.high) if found.topics >= FEW else (None, None)
    return {"n": len(own), "mean": found.value, "low": bounds[0], "high": bounds[1]}


def together(
    rows: Sequence[Row], systems: Sequence[str], name: str, title: str, digits: int, figure: Callable[[list[Row]], float | None]
) -> Figure:
    """A figure of all texts of each system that has no sums, and so no interval."""
    by_system = {}
    for system in dict.fromkeys(systems):
        own = [row for row, of in zip(rows, systems, strict=True) if of == system]
        by_system[system] = {"n": len(own), "mean": figure(own) if own else None, "low": None, "high": None}
    return {"name": name, "title": title, "digits": digits, "systems": by_system}


def distinct_all(rows: Iterable[Row], n: int) -> float | None:
    """distinct-n of many texts together: it falls with the amount of text."""
    return distinct_n([row.text for row in rows if not blank(row.text)], n)


def as_table(values: Mapping[str, Any]) -> list[Figure]:
    """The figures as rows of a CSV: one for each measure and system, and for each difference."""
    out: list[Figure] = []
    for figure in (*values["means"], *values["together"]):
        for system, one in figure["systems"].items():
            out.append({"measure": figure["name"], "system": system, "minus": "", **one})
        for one in figure.get("differences", ()):
            out.append({"measure": figure["name"], "system": one["first"], "minus": one["second"], **one})
    return out
