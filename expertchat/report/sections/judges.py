"""The judges' card of judged and labelled runs: every figure with its interval, and the ranking of systems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from expertchat.config import ConfigError
from expertchat.report.drawing import drawn
from expertchat.report.parts import Cell, Figure, Section, Shown
from expertchat.report.shapes import Axis, Row, beside, forest
from expertchat.report.subject import Subject
from expertchat.text.card_in_words import (
    CAPTION,
    FLAGGED,
    PERCENT,
    THEMES,
    Shape,
    about,
    alternatives,
    finding,
    names,
    rankings,
    together,
)
from expertchat.text.in_words import line

Values = Mapping[str, Any]
# What is drawn of each judge: the figure, and what one without fault, or a coin, has.
DRAWN = {
    "agreement": 0.5, "quadratic": 0.0, "rho": 0.0, "first": 0.5, "flips": 0.0, "longer_bias": 0.0, "own_bias": 0.0, "again": 1.0,
    "unanswered": 0.0,
}  # fmt: skip
SIGNED = {"rho", "quadratic", "longer_bias", "own_bias"}  # which may be negative
CHANCE = Axis("chance to win against the others", True, 0.5, 0.0, 1.0)
NONE_COMPARED = "plot: there is no ranking to draw: no judge has compared texts of two systems; leave it out"


def judges(subject: Subject) -> Section | None:
    """The card of every judged run, of runs that people labelled, and of cards that were named."""
    if not subject.cards:
        return None
    cards, lead, parts = subject.cards, list[str](), list[Figure | Shown]()
    for i, (name, card) in enumerate(cards.items()):
        lead += [
            (f"{name}: " if len(cards) > 1 else "") + line(about(card)),
            *map(line, (*together(card), *alternatives(card), *card["notes"])),
        ]
        parts += of_card(card, f"judges-{i}" if len(cards) > 1 else "judges", f", {name}" if len(cards) > 1 else "")
    return Section("judges", "The judges' card", [*lead, CAPTION], parts)


def of_card(card: Values, name: str, of: str = "") -> Iterator[Figure | Shown]:
    """What the flagged figures show, the ranking, a forest of each figure, and the tables by theme."""
    rows, called = card["judges"], names(card["judges"])
    flagged = [key for key in FLAGGED if any(row["figures"][key]["flag"] for row in rows)]
    said = {who: [Cell(finding(key, row["figures"][key])) for key in flagged] for who, row in zip(called, rows, strict=True)}
    if flagged:
        yield Shown(f"What the card shows{of}", [FLAGGED[key][0] for key in flagged], said)
    if (figure := ranking(card, f"{name}-ranking", of)) is not None:
        yield figure
    for key, shape in ((key, shape) for theme in THEMES.values() for key, shape in theme.items() if key in DRAWN):
        estimates = [
            Row(who, *_estimate(row, key)) for who, row in zip(called, rows, strict=True) if row["figures"][key]["value"] is not None
        ]
        fixed = (None, None) if key in SIGNED else (0.0, 1.0)
        title = shape.title.removesuffix(", %")
        axis = Axis(title, shape.factor == PERCENT, DRAWN[key], *fixed)
        figure = forest(f"{name}-{key}", f"{title.capitalize()}, by judge{of}", axis, estimates)
        if figure is not None:
            yield figure
    for title, part in (("", rows), (" (pairs whose orders disagree left out)", card["left_out"])):
        for theme, shapes in THEMES.items() if part else ():
            if (table := _table(f"{theme}{title}{of}", part, shapes)) is not None and (
                not title or theme in ("Right", "Length", "Own texts")
            ):
                yield table


def _estimate(row: Values, key: str) -> tuple[float | None, float | None, float | None, int]:
    figure = row["figures"][key]
    return figure["value"], figure["low"], figure["high"], figure["n"]


def _table(title: str, rows: Sequence[Values], shapes: Mapping[str, Shape]) -> Shown | None:
    there = [key for key in shapes if any(row["figures"][key]["value"] is not None for row in rows)]
    if not there:
        return None

    def cell(row: Values, key: str) -> Cell:
        factor = shapes[key].factor
        return Cell(*(None if value is None else round(factor * value, 4) for value in _estimate(row, key)[:3]))

    cells = {who: [Cell(row["n"]), *(cell(row, key) for key in there)] for who, row in zip(names(rows), rows, strict=True)}
    return Shown(title, ["n", *(shapes[key].title for key in there)], cells)


# -- the ranking ------------------------------------------------------------------------------------------------------------


def ranking(card: Values, name: str = "judges-ranking", of: str = "") -> Figure | None:
    """The chance of each system to win against the others (Bradley-Terry), by each judge that has compared them."""
    groups = {judge: [_chance(one) for one in found["systems"]] for judge, found in rankings(card)}
    note = "Bradley-Terry, 95 % intervals, groups drawn."
    return beside(name, f"Chance of each system to win{of}", CHANCE, groups, note) if groups else None


def _chance(system: Values) -> Row:
    chance = system["chance"]
    return Row(line(system["system"]), chance["value"], chance["low"], chance["high"], system["n"])


def svg(card: Values) -> str:
    """The ranking as an SVG. Raises ConfigError where nobody has compared systems."""
    if (figure := ranking(card)) is None:
        raise ConfigError(NONE_COMPARED)
    return drawn(figure).decode()
