"""Tables to look things up in: what was measured of texts, arms that were written before, and every figure of every round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from expertchat.records import Metrics
from expertchat.report.learning import learnings
from expertchat.report.parts import Cell, Figure, Section, Shown
from expertchat.report.sections.arms import forests, names_of
from expertchat.report.shapes import Axis, Row, forest, number
from expertchat.report.subject import Subject
from expertchat.report.talk import map_at
from expertchat.text.in_words import line

WIDEST = 16  # rounds that stand side by side
ENDS = ("_low", "_high")


def lookup(subject: Subject) -> Section | None:
    """The section of the files that were named, and of all figures of the runs that learn."""
    parts: list[Figure | Shown] = []
    for i, (path, found) in enumerate(subject.files.items()):
        if {"means", "together", "systems"} <= found.keys():
            parts += _metrics(found, f"lookup-{i}", line(path.name))
        elif {"arms", "notes"} <= found.keys():
            parts += forests(found["arms"], names_of(found["arms"]), f"lookup-{i}")
    for one in learnings(subject):
        of = f", {line(one.name)}" if one.name else ""
        evaluations = [*one.evaluations, *([one.final] if one.final else [])]
        heads = [f"round {_made_after(each)}" + (", at the end" if each is one.final else "") for each in evaluations]
        parts += [
            *([_figures(f"Every figure of the evaluations{of}", heads, evaluations)] if evaluations else []),
            *(
                [_figures(f"Every figure of the rounds{of}", [f"round {each.round}" for each in few], few)]
                if (few := _few(one.rounds))
                else []
            ),
        ]
    return Section("lookup", "Tables to look things up in", [], parts) if parts else None


def _made_after(evaluation: Metrics) -> int:
    """The round whose weights were evaluated: at the end those that were kept."""
    return evaluation.round if evaluation.weights_of is None else evaluation.weights_of


def _few(rounds: Sequence[Metrics]) -> list[Metrics]:
    """All rounds, or as many as stand side by side: the first, the last, and those between at equal distances."""
    if len(rounds) <= WIDEST:
        return list(rounds)
    places = {round(i * (len(rounds) - 1) / (WIDEST - 1)) for i in range(WIDEST)}
    return [rounds[place] for place in sorted(places)]


def _figures(title: str, heads: Sequence[str], found: Sequence[Metrics]) -> Shown:
    """A row for each figure, a column for each round; an interval stands in its figure's cell."""
    keys = list(dict.fromkeys(key for one in found for key in one.figures))
    plain = [key for key in keys if not (key.endswith(ENDS) and key.removesuffix("_low").removesuffix("_high") in keys)]
    rows = {line(key): [_cell(one.figures, key) for one in found] for key in plain}
    return Shown(title, list(heads), {key: cells for key, cells in rows.items() if any(cell.value is not None for cell in cells)})


def _cell(figures: Mapping[str, Any], key: str) -> Cell:
    value = figures.get(key)
    low, high = (number(figures.get(f"{key}{end}")) for end in ENDS)
    return Cell(line(value) if isinstance(value, str) else value, low, high)


def _metrics(found: Mapping[str, Any], name: str, file: str) -> Iterator[Figure | Shown]:
    """What `expertchat metrics` has measured: a table, and a forest of each measure that has intervals."""
    systems = [str(system) for system in found["systems"]]
    means = [one for one in (*found["means"], *found["together"]) if isinstance(one, Mapping)]
    rows = {line(str(one["title"])): [_mean(one, system) for system in systems] for one in means}
    yield Shown(f"Text metrics, {file}", [line(system) for system in systems], rows, note="In brackets: 95 % intervals.")
    for i, one in enumerate(means):
        told = [_row(system, _of(one, system)) for system in systems]
        if len(told) > 1 and any(row.low is not None for row in told):
            figure = forest(f"{name}-{i}", f"{line(str(one['title']))}, by who wrote it", Axis(line(str(one["title"]))), told)
            if figure is not None:
                yield figure


def _row(system: str, one: Mapping[str, Any]) -> Row:
    mean, low, high, n = (number(one.get(key)) for key in ("mean", "low", "high", "n"))
    return Row(system, mean, low, high, None if n is None else int(n))


def _of(one: Mapping[str, Any], system: str) -> Mapping[str, Any]:
    return map_at(map_at(one, "systems"), system)


def _mean(one: Mapping[str, Any], system: str) -> Cell:
    return Cell(*(number(_of(one, system).get(key)) for key in ("mean", "low", "high")))
