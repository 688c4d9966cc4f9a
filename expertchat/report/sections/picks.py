"""Picks among several texts in every order, and what is the place's doing; and posts, with what was none and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from expertchat.folder.reader import RunReader
from expertchat.report.parts import Cell, Figure, Section, Shown
from expertchat.report.shapes import Axis, Row, forest, number
from expertchat.report.subject import Subject
from expertchat.report.talk import map_at
from expertchat.text.in_words import line

PICKED, NOTE = Axis("of all picks", True, None, 0.0, 1.0), "95 % intervals, whole groups drawn."


def picks(subject: Subject) -> Section | None:
    """The section of all runs that pick."""
    found = {line(subject.name(run)): run for run in subject.runs if run.kind == "pick" and run.summary.get("systems")}
    parts = [part for i, (name, run) in enumerate(found.items())
             for part in _of_run(run, f"picks-{i}" if i else "picks", f", {name}" if len(found) > 1 else "")]  # fmt: skip
    lead = [f"{f'{name}: ' if len(found) > 1 else ''}{line(str(run.summary.get('judge')))} picked the best of each row's texts, asked in "
            "every order. Who goes by the place picks what stood first, whatever it says." for name, run in found.items()]  # fmt: skip
    return Section("picks", "Picks", lead, parts) if parts else None


def _of_run(run: RunReader, name: str, of: str) -> Iterator[Figure | Shown]:
    summary, texts = run.summary, [str(text) for text in run.summary["texts"]]
    even = number(summary.get("even"))
    rows = [Row(line(text), *_three(summary["systems"].get(text)), n=_count(summary["systems"].get(text))) for text in texts]
    rows += [Row(f"what stood in place {line(place)}", *_three(one), n=_count(one)) for place, one in map_at(summary, "places").items()]
    axis = Axis(PICKED.label, True, even, 0.0, 1.0)
    if (figure := forest(name, f"What was picked{of}", axis, rows, NOTE)) is not None:
        yield figure
    orders = {line(str(one["order"])): [*(Cell(one["picked"].get(text)) for text in texts), Cell(one["none"])] for one in summary["orders"]}
    yield Shown(f"By the order shown{of}", [*map(line, texts), "none"], orders)
    alike = {title: [Cell(*_three(summary.get(key))), Cell(_count(summary.get(key)))]
             for title, key in (("the same text in all orders", "consistent"), ("of two orders the same", "agree"))}  # fmt: skip
    yield Shown(f"How steady the picks are{of}", ["share", "n"], alike, note=NOTE)


def posts(subject: Subject) -> Section | None:
    """The section of all runs that write posts."""
    found = {line(subject.name(run)): run.summary for run in subject.runs if run.kind == "posts" and run.summary.get("wanted")}
    kept = ("posts", "written", "topics", "nearest", "tokens")
    rows = {name: [Cell(one.get("wanted")), *(Cell(one.get(key)) for key in kept)] for name, one in found.items()}
    reasons = list(dict.fromkeys(why for one in found.values() for why in map_at(one, "faults")))
    faults = {line(why): [Cell(map_at(one, "faults").get(why, 0)) for one in found.values()] for why in reasons}
    parts = [Shown("Posts", ["wanted", "taken", "written", "topics", "nearest two", "tokens"], rows,
                   note="Nearest two: the highest cosine of a post's embedding and that of an earlier one.")]  # fmt: skip
    parts += [Shown("What was no post", list(found), faults)] if faults else []
    return Section("posts", "Posts", [], parts) if found else None


def _three(one: object) -> tuple[float | None, float | None, float | None]:
    found = one if isinstance(one, Mapping) else {}
    return number(found.get("value")), number(found.get("low")), number(found.get("high"))


def _count(one: object) -> int | None:
    found = number(one.get("n")) if isinstance(one, Mapping) else None
    return None if found is None else int(found)
