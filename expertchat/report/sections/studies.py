"""A study: its tables, what of them has intervals drawn, and every step with its command."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from expertchat.folder.jsonl import read_json
from expertchat.report.parts import Cell, Figure, Section, Shown
from expertchat.report.shapes import Axis, Row, file_name, forest, number
from expertchat.report.subject import STUDY, Subject, kept_steps
from expertchat.text.in_words import line

FAR = 50.0  # times the smallest of the values, from where on their axis is logarithmic
STATES = {0: "done", 2: "wrong input", 3: "stopped"}


def studies(subject: Subject) -> Section | None:
    """The section of all studies that were named. Tables stand where the study has come to its end."""
    parts, lead = list[Figure | Shown](), list[str]()
    for i, folder in enumerate(subject.studies):
        state, told = read_json(folder / STUDY) or {}, read_json(folder / "report.json") or {}
        steps = kept_steps(folder)
        done = sum(step.get("code") == 0 for step in steps.values())
        name = line(str(told.get("title") or state.get("study") or folder.name))
        lead.append(f"{name}, at size {line(str(state.get('size')))}: {done} of {len(steps)} steps that were begun are done.")
        if not told:
            lead.append("It has not come to its end: there are no tables yet.")
        for key, table in (told.get("tables") or {}).items():
            parts += _parts(f"studies-{f'{i}-' * (len(subject.studies) > 1)}{file_name(str(key))}", table)
        parts.append(_steps(name if len(subject.studies) > 1 else "", steps, folder))
    return Section("studies", "The study" if len(subject.studies) == 1 else "Studies", lead, parts) if subject.studies else None


def _parts(name: str, table: Mapping[str, Any]) -> Iterator[Figure | Shown]:
    """A table, and a forest of each of its columns that has an interval, without the rows that have no figure."""
    columns, published = list(map(str, table["columns"])), frozenset(map(str, table.get("published", ())))
    rows = {str(row): [Cell(*cell) for cell in cells] for row, cells in table["rows"].items()}
    yield Shown(str(table["title"]), columns, rows, published, str(table.get("note") or ""))
    title = line(str(table["title"])).rstrip("?.")
    for at, column in enumerate(columns):
        cells = {row: own[at] for row, own in rows.items() if at < len(own) and number(own[at].value) is not None}
        if len(cells) < 2 or not any(cell.low is not None for cell in cells.values()):
            continue
        estimates = [Row(_called(row, row in published), number(cell.value), cell.low, cell.high) for row, cell in cells.items()]
        axis = Axis(line(column), log=_far_apart(estimates))
        figure = forest(f"{name}-{at}", f"{title}: {line(column)}", axis, estimates, "Lines: 95 % intervals.")
        if figure is not None:
            yield figure


def _far_apart(estimates: Sequence[Row]) -> bool:
    """Whether the small ones could not be told from each other beside the large ones."""
    values = [one.value for one in estimates if one.value is not None]
    return min(values) > 0 and max(values) >= FAR * min(values)


def _called(row: str, published: bool) -> str:
    return f"{row} (reported)" if published and "reported" not in row else row


def _steps(name: str, steps: Mapping[str, Mapping[str, Any]], folder: Path) -> Shown:
    inside = f"{folder.resolve()}/"
    rows = {}
    for step, kept in steps.items():
        words = " ".join(shlex.quote(str(word).replace(inside, "")) for word in kept.get("words") or ())
        code = kept.get("code")
        state = STATES.get(code, "failed") if isinstance(code, int) else "not at its end"
        rows[step] = [
            Cell(f"expertchat {line(str(kept.get('command')))} {line(words)}".strip()),
            Cell(state),
            Cell(number(kept.get("seconds"))),
        ]
    return Shown(f"The steps of {name}" if name else "The steps", ["command", "state", "seconds"], rows)
