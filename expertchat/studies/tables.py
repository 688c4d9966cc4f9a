"""The tables of a study, out of what its steps have left: figures with intervals, answers beside each other; and its report."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from expertchat.folder.jsonl import read_json, read_lines
from expertchat.report.markdown import table
from expertchat.report.parts import Cell, Shown
from expertchat.report.words import interval
from expertchat.studies.written import FIGURE, Step, StudyFile, TableFile
from expertchat.text.cells import code, markdown

SUMMARY, LINES, LACKS = "summary.json", ".jsonl", "1-"
PLACE = re.compile(r"-?\d+")
OTHER = re.compile(r"\$([a-z][a-z0-9_]*)/(.+)")


def tables_of(study: StudyFile, steps: Sequence[Step]) -> dict[str, Shown]:
    """Every table of the study that has steps at this size, as far as they are done."""
    there = {step.of for step in steps}
    tables = {name: table for name, table in study.tables.items() if not there.isdisjoint(table.rows.values())}
    return {name: _lines(table, steps) if table.lines else _figures(table, steps) for name, table in tables.items()}


def _figures(table: TableFile, steps: Sequence[Step]) -> Shown:
    rows: dict[str, Sequence[Cell]] = {}
    for row, of in table.rows.items():
        runs = [step for step in steps if step.of == of]
        for step in runs:
            name = row if len(runs) == 1 else f"{row}, {step.name.removeprefix(f'{of}-')}"
            if table.list is None:
                rows[name] = [_lacking(path, partial(_found, step, steps)) for path in table.figures.values()]
                continue
            before = f"{name}, " if len(runs) > 1 or len(table.rows) > 1 else ""
            for entry in _thinned(_entries(step.folder, table.list), table.every):
                figures = [_lacking(path, partial(_cell, entry)) for path in table.figures.values()]
                rows[_once(f"{before}{entry.get(table.named)}", rows)] = figures
    beside = {row: [Cell(values.get(column)) for column in table.figures] for row, values in table.beside.items()}
    return Shown(table.title, list(table.figures), rows | beside, frozenset(beside), table.note or "")


def _once(name: str, rows: Mapping[str, object]) -> str:
    """A name that no row has yet: the second "the" is "the (2)"."""
    return next(tried for number in count(1) if (tried := name if number == 1 else f"{name} ({number})") not in rows)


def _found(step: Step, steps: Sequence[Step], path: str) -> Cell:
    """A figure of a step's run: "$OTHER/FILE:PATH" is what another step has left for the same values."""
    if (found := OTHER.fullmatch(path)) is None:
        return cell_of(step.folder, path)
    tag = step.name.removeprefix(step.of)
    of = [one for one in steps if one.of == found[1]]
    other = next((one for one in of if one.name == f"{found[1]}{tag}"), of[0] if len(of) == 1 else None)
    return Cell(None) if other is None else cell_of(other.folder, found[2])


def _lacking(path: str, found: Callable[[str], Cell]) -> Cell:
    """The figure at a path; of "1-PATH" what lacks to 1, as that of the other side of a share."""
    if not path.startswith(LACKS):
        return found(path)
    cell = found(path.removeprefix(LACKS))
    value, low, high = (1 - one if isinstance(one, int | float) else None for one in (cell.value, cell.high, cell.low))
    return Cell(value, low, high)


def cell_of(folder: Path, path: str) -> Cell:
    """The figure "FILE:A.B.C" of a step's folder, of summary.json where no file is named; of a .jsonl A is the id of a line."""
    file, colon, inside = path.rpartition(":")
    if file.endswith(LINES):
        return _cell({str(line.get("id")): line for _, line in read_lines(folder / file)}, inside)
    return _cell(read_json(folder / (file if colon else SUMMARY)), inside)


def _entries(folder: Path, path: str) -> list[Mapping[str, Any]]:
    """The list "FILE:A.B" of a step's folder, or all lines of "FILE.jsonl"."""
    if path.endswith(LINES):
        return [line for _, line in read_lines(folder / path)]
    file, colon, inside = path.rpartition(":")
    found: Any = read_json(folder / (file if colon else SUMMARY))
    for key in inside.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return [entry for entry in found if isinstance(entry, Mapping)] if isinstance(found, list) else []


def _thinned(entries: Sequence[Mapping[str, Any]], every: int) -> list[Mapping[str, Any]]:
    """Every so many-th entry from the first one on, and the last."""
    return [entry for i, entry in enumerate(entries) if not i % every or i == len(entries) - 1]


def _cell(values: Any, path: str) -> Cell:
    *outer, last = path.split(".")
    for key in outer:
        values = _at(values, key)
    if not isinstance(values, Mapping):
        return Cell(None)
    value, low, high = _at(values, last), values.get(f"{last}_low"), values.get(f"{last}_high")
    if isinstance(value, list) and len(value) == 3:
        value, low, high = value
    if isinstance(value, Mapping):
        low, high = value.get("low"), value.get("high")
        value = value.get("value", value.get("mean"))
    plain = value if isinstance(value, int | float | str) and not isinstance(value, bool) else None
    interval = [one if isinstance(one, int | float) else None for one in (low, high)]
    return Cell(plain, *interval)


def _at(values: Any, key: str) -> Any:
    """What stands at a key; * is the only one that there is. Of a list a number is a place (-1: the last), a word an entry's `name`."""
    if isinstance(values, list):
        if PLACE.fullmatch(key):
            return values[int(key)] if -len(values) <= int(key) < len(values) else None
        return next((one for one in values if isinstance(one, Mapping) and one.get("name") == key), None)
    if not isinstance(values, Mapping):
        return None
    return next(iter(values.values())) if key == "*" and len(values) == 1 else values.get(key)


def _lines(table: TableFile, steps: Sequence[Step]) -> Shown:
    """A row for each line that the steps were given, a column for each step that has answered."""
    found = [(row, step) for row, of in table.rows.items() for step in steps if step.of == of]
    asked = next((step.input for _, step in found if step.input), ())
    answers = [_answers(step.folder / str(table.lines), len(asked)) for _, step in found]
    rows = {line: [Cell(said[i]) for said in answers] for i, line in enumerate(asked)}
    names = [row if sum(other == row for other, _ in found) == 1 else f"{row}, {step.name}" for row, step in found]
    return Shown(table.title, names, rows, note=table.note or "")


def _answers(path: Path, count: int) -> list[str | None]:
    """The lines of a file, one for each line that was asked; None where there is no such line."""
    lines: list[str | None] = list(path.read_text("utf-8", "replace").splitlines()) if path.is_file() else []
    return [*lines, *[None] * count][:count]


# -- the report -------------------------------------------------------------------------------------------------------------


def report(study: StudyFile, asked: Sequence[str], steps: Sequence[Step], seconds: Mapping[str, float]) -> str:
    """The study as Markdown: what came out, what it is, its tables, and every command that was run. `asked`: its name, size and words."""
    tables = tables_of(study, steps)
    said = [markdown(one or "") for one in (finding(study, tables), study.cannot)]
    parts = [f"# {study.title}", *said, study.about.strip(), *map(table, tables.values())]
    lines = [f"| {step.name} | {markdown(step.about)} | `expertchat {code(shlex.join([step.command, *step.words]))}` "
             f"| {seconds.get(step.name, 0):.0f} |" for step in steps]  # fmt: skip
    whole = "\n".join(["| step | what | command | s |", "|---|---|---|---|", *lines])
    parts += ["## What was run", f"`expertchat study {code(shlex.join(asked))}`", whole]
    return "\n\n".join(part for part in parts if part) + "\n"


def finding(study: StudyFile, tables: Mapping[str, Shown]) -> str | None:
    """The study's own first sentence with its figures; None where it has none, or where one of them is not there."""
    figures = {place[0]: _figure(tables.get(place[1]), *place.groups()[1:]) for place in FIGURE.finditer(study.says or "")}
    if study.says is None or None in figures.values():
        return None
    return FIGURE.sub(lambda place: str(figures[place[0]]), study.says)


def _figure(shown: Shown | None, row: str, column: str, percent: str | None) -> str | None:
    """What stands there in a table."""
    if shown is None or row not in shown.rows or column not in shown.columns:
        return None
    cell = shown.rows[row][list(shown.columns).index(column)]
    if percent and isinstance(cell.value, int | float):
        return interval(cell.value, cell.low, cell.high)
    return None if cell.value is None else str(cell)


def as_json(study: StudyFile, steps: Sequence[Step]) -> str:
    """The tables for other programs."""
    made = tables_of(study, steps)
    tables = {name: {"title": table.title, "columns": list(table.columns), "published": sorted(table.published), "note": table.note,
                     "rows": {row: [[cell.value, cell.low, cell.high] for cell in cells] for row, cells in table.rows.items()}}
              for name, table in made.items()}  # fmt: skip
    told = {"says": finding(study, made), "cannot": study.cannot}
    return json.dumps({"schema": 1, "title": study.title, **told, "tables": tables}, indent=1) + "\n"
