"""How the judges' card looks: what it shows in words, its figures by theme, the rankings; on a screen, and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from expertchat.text.card_in_words import (
    CAPTION,
    FLAGGED,
    NONE,
    PERCENT,
    THEMES,
    Shape,
    about,
    alternatives,
    finding,
    names,
    rankings,
    together,
    written,
)
from expertchat.text.cells import markdown as as_markdown
from expertchat.text.sentences import clean, one_line
from expertchat.views.arms import Column, fitting
from expertchat.views.console import open_console
from expertchat.views.looks import bar, indented

Values = Mapping[str, Any]
BAR = 8  # cells of a chance
LEFT_OUT = ("Right", "Length", "Own texts")  # themes that disagreeing orders touch


# -- words ------------------------------------------------------------------------------------------------------------------


def columns(rows: Sequence[Values], shapes: Mapping[str, Shape]) -> list[Column]:
    """Those figures of a theme that at least one judge has."""
    found = [(shape.title, [written(shape, row["figures"][name]) for row in rows]) for name, shape in shapes.items()]
    return [(title, cells) for title, cells in found if set(cells) != {NONE}]


def answered(rows: Sequence[Values]) -> Column:
    return "n", [f"{row['n']:,}" for row in rows]


def shown(rows: Sequence[Values]) -> list[Column]:
    """What the flagged figures show, for each judge."""
    found = [(FLAGGED[name][0], [finding(name, row["figures"][name]) for row in rows]) for name in FLAGGED]
    return [("judge", names(rows)), *((title, cells) for title, cells in found if set(cells) != {NONE})]




def places(ranking: Values) -> list[Column]:
    """A ranking as columns: shares, chances by Bradley-Terry, and what each won against each."""
    systems = ranking["systems"]

    def chance(of: str) -> list[str]:
        return [written(Shape("", PERCENT, 0), one[of]) for one in systems]

    labels = [one_line(clean(one["system"])) for one in systems]
    wins = [[NONE if i == j else f"{ranking['wins'][i][j]:g}" for i in range(len(systems))] for j in range(len(systems))]
    return [
        ("system", labels), ("n", [f"{one['n']:,}" for one in systems]), ("won, %", chance("won")), ("chance to win, %", chance("chance")),
        ("with length held constant", chance("like_length")),
        *((f"wins over {label}", cells) for label, cells in zip(labels, wins, strict=True)),
    ]  # fmt: skip


CHANCES = {"chance": "Chance to win against the others, %", "like_length": "The same with length held constant, %"}


def chances(card: Values, of: str) -> list[Column]:
    """The rankings of all judges side by side, a bar before each chance; empty where there are none."""
    found = [(name, {one["system"]: one for one in ranking["systems"]}) for name, ranking in rankings(card)]
    found = [(name, systems) for name, systems in found if any(one[of]["value"] is not None for one in systems.values())]
    if not found:
        return []
    labels = list(dict.fromkeys(label for _, systems in reversed(found) for label in systems))
    shape = Shape("", PERCENT, 0)

    def one(systems: Values, label: str) -> str:
        if label not in systems or systems[label][of]["value"] is None:
            return NONE
        return f"{bar(systems[label][of]['value'], BAR, '').plain} {written(shape, systems[label][of])}"

    columns = [(name, [one(systems, label) for label in labels]) for name, systems in found]
    return [("system", [one_line(clean(label)) for label in labels]), *columns]


# -- Markdown -----------------------------------------------------------------------------------------------------------------


def markdown(card: Values) -> str:
    """The whole card as Markdown."""
    parts = [about(card), _grid(shown(card["judges"])), CAPTION]
    for title, rows in (("", card["judges"]), (" (pairs whose orders disagree left out)", card["left_out"])):
        for theme, shapes in THEMES.items():
            if rows and (found := columns(rows, shapes)) and (not title or theme in LEFT_OUT):
                parts += [f"**{theme}**{title}", _grid([("judge", names(rows)), answered(rows), *found])]
    for name, ranking in rankings(card):
        parts += [f"**Ranking by {as_markdown(name)}**", _grid(places(ranking))]
    lines = [f"- {as_markdown(line)}" for line in (*together(card), *alternatives(card), *card["notes"])]
    return "\n\n".join([*parts, *(["\n".join(lines)] if lines else [])]) + "\n"


def _grid(columns: Sequence[Column]) -> str:
    rows = [[title for title, _ in columns], *zip(*(cells for _, cells in columns), strict=True)]
    head, *lines = ["| " + " | ".join(map(as_markdown, row)) + " |" for row in rows]
    return "\n".join([head, "|---|" + "---:|" * (len(columns) - 1), *lines])


# -- a screen -------------------------------------------------------------------------------------------------------------------


def print_card(card: Values, stream: TextIO | None = None) -> None:
    """The card: what it shows first, then its figures."""
    console = open_console(stream)
    width = console.width - 4

    def tables(columns: Sequence[Column], style: Callable[[str], str] = lambda text: "") -> None:
        for part in fitting(columns, width):
            console.print(indented(_table(part, style)))

    console.print()
    console.print(indented(Text(about(card), "dim")))
    tables(shown(card["judges"]), _style)
    console.print(indented(Text(CAPTION, "dim")))
    for title, rows in (("", card["judges"]), (", pairs whose orders disagree left out", card["left_out"])):
        for theme, shapes in THEMES.items():
            if rows and (found := columns(rows, shapes)) and (not title or theme in LEFT_OUT):
                console.print(indented(Text(f"{theme}{title}", "bold"), above=1))
                tables([("judge", names(rows)), answered(rows), *found])
    for of, title in CHANCES.items():
        if found := chances(card, of):
            console.print(indented(Text(title, "bold"), above=1))
            tables(found)
    console.print()
    for line in (*together(card), *alternatives(card)):
        console.print(indented(Text(line)))
    for note in card["notes"]:
        console.print(indented(Text(clean(note), "yellow")))
    console.print()


def _style(text: str) -> str:
    if text.startswith(("shows a bias", "like chance")):
        return "bold red"
    return "dim" if text.startswith("n too small") else "green" if text.startswith("none") else ""


def _table(part: Sequence[Column], style: Callable[[str], str]) -> Table:
    out = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for at, (title, _) in enumerate(part):
        out.add_column(title, justify="right" if at else "left", overflow="fold")
    for cells in zip(*(cells for _, cells in part), strict=True):
        out.add_row(*(Text(one, style(one)) for one in cells))
    return out
