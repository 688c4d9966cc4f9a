"""Choosing among N replies: what more of them are worth, to who chose and to others, and where the two part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from expertchat.report.parts import Cell, Figure, Section, Shown
from expertchat.report.shapes import Axis, Point, Series, curves, file_name
from expertchat.report.subject import Subject
from expertchat.text.in_words import line

Row = Mapping[str, Any]
AGAINST = {"first": "the first of N", "base": "the base's reply", "rule": "the rule's text"}
INTERVALS = "Bars: 95 % intervals, whole groups drawn; a tie is half a win."
MOST = 4  # runs that are shown with figures


def best_of_n(subject: Subject) -> Section | None:
    """The section of all runs that choose, once they have come to their end."""
    found = [(line(subject.name(run)), run.summary) for run in subject.runs if run.chooses and run.summary.get("curve")][:MOST]
    if not found:
        return None
    several, lead, parts = len(found) > 1, list[str](), list[Figure | Shown]()
    for i, (name, summary) in enumerate(found):
        of = f", {name}" if several else ""
        lead.append(_about(summary) + of)
        lead += [line(f"{one[0].upper()}{one[1:]}.") for one in summary.get("findings", ()) if one]
        parts += [*figures(summary, f"best_of_n-{i}" if several else "best_of_n", of), _table(summary, of)]
    return Section("best_of_n", "Choosing the best of N", lead, parts)


def _about(summary: Row) -> str:
    blank, equal, cut = (summary.get(key, 0) for key in ("blank", "equal", "cut"))
    return (
        f"{summary['prompts']:,} prompts of {summary['groups']:,} groups, {summary['n']} replies each; of {summary['candidates']:,} "
        f"replies {blank:,} are blank, {equal:,} say what an earlier one says, {cut:,} were cut by the token limit"
    )


def figures(summary: Row, name: str, of: str = "") -> Iterator[Figure]:
    """Win rates by N against each text, by every judge; how much better who chose thinks of it; scores."""
    rows, judges = summary["curve"], list(summary["judges"])
    made = [
        curves(f"{name}-won-{other}", f"The best of N against {AGAINST.get(other, other)}{of}", "N", Axis("won", True, 0.5, 0.0, 1.0),
               [Series(judge, _points(rows, ("judges", judge, "against", other))) for judge in judges],
               f"n = {summary['prompts']:,} prompts. {INTERVALS}", log2=True)
        for other in summary["against"]
    ]  # fmt: skip
    gaps = [Series(judge, _points(rows, ("gaps", judge))) for judge in judges if judge in rows[0]["gaps"]]
    made.append(
        curves(f"{name}-gap", f"By how much who chose thinks better of it{of}", "N", Axis("win rates apart, %-points", True, 0.0), gaps,
               "Against the first of N. Above 0: the chooser's win rate is the higher one. " + INTERVALS, log2=True)
    )  # fmt: skip
    for judge in judges:  # each on a scale of its own
        if "score" in rows[0]["judges"][judge]:
            series = [Series("", _points(rows, ("judges", judge, "score")))]
            title = f"Score of the choice by {line(judge)}{of}"
            made.append(curves(f"{name}-score-{file_name(judge)}", title, "N", Axis("mean score"), series, INTERVALS, log2=True))
    return (figure for figure in made if figure is not None)


def _at(row: Any, path: Sequence[str]) -> Row:
    for key in path:
        row = row.get(key) if isinstance(row, Mapping) else None
    return row if isinstance(row, Mapping) else {}


def _points(rows: Sequence[Row], path: Sequence[str]) -> list[Point]:
    return [Point(row["n"], one.get("value"), one.get("low"), one.get("high")) for row in rows for one in (_at(row, path),)]


def _table(summary: Row, of: str) -> Shown:
    judges, against = list(summary["judges"]), list(summary["against"])
    single = len(against) == 1  # then the title has it
    columns = ["KL, nats", *(line(judge) if single else f"{line(judge)}: against {AGAINST.get(other, other)}"
                             for judge in judges for other in against), "two best", "no choice"]  # fmt: skip
    rows = {}
    for row in summary["curve"]:
        won = [_at(row, ("judges", judge, "against", other)) for judge in judges for other in against]
        cells = [Cell(one.get("value"), one.get("low"), one.get("high")) for one in won]
        rows[f"N\u00a0=\u00a0{row['n']}"] = [Cell(row["kl"]), *cells, Cell(row["ties"]), Cell(row["nothing"])]
    what = f", won against {AGAINST.get(against[0], against[0])}" if single else ", won"
    return Shown(f"By N{what}{of}", columns, rows)
