"""How the judges' card looks: what it shows in words, its figures by theme, the rankings; on a screen, and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TextIO

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from expertchat.text.sentences import clean, one_line
from expertchat.views.arms import Column, fitting
from expertchat.views.console import open_console
from expertchat.views.figures import NONE
from expertchat.views.looks import bar, indented

Values = Mapping[str, Any]
Estimate = Mapping[str, Any]


class Shape(NamedTuple):
    """How a figure is named and written."""

    title: str
    factor: float = 1.0
    digits: int = 2

    def write(self, value: float | None) -> str:
        if value is None:
            return NONE
        text = f"{self.factor * value:.{self.digits}f}"
        return text.removeprefix("-") if float(text) == 0 else text


PERCENT = 100.0
# By theme, in the order of the columns; docs/audit.md says what each is.
THEMES: dict[str, dict[str, Shape]] = {
    "Answers": {
        "unanswered": Shape("unanswered, %", PERCENT, 1),
        "mass": Shape("mass of the answers, %", PERCENT, 1),
        "seconds": Shape("seconds for 1,000", 1.0, 1),
        "spread": Shape("spread of ratings"),
        "ties": Shape("ties, %", PERCENT, 0),
        "same": Shape("one same answer, %", PERCENT, 0),
        "again": Shape("repeats alike, %", PERCENT, 0),
    },
    "Right": {
        "agreement": Shape("agreement, %", PERCENT, 0),
        "kappa": Shape("kappa"),
        "quadratic": Shape("quadratic kappa"),
        "rho": Shape("rho"),
        "calibration": Shape("calibration error"),
    },
    "Place": {
        "first": Shape("first picked, %", PERCENT, 0),
        "flips": Shape("flips when swapped, %", PERCENT, 0),
        "identical": Shape("ties on identical texts, %", PERCENT, 0),
        "identical_first": Shape("first of identical texts, %", PERCENT, 0),
    },
    "Length": {
        "longer": Shape("longer wins, %", PERCENT, 0),
        "longer_true": Shape("longer truly wins, %", PERCENT, 0),
        "longer_lost": Shape("longer wins where it truly lost, %", PERCENT, 0),
        "longer_bias": Shape("leaning to length", PERCENT, 0),
        "length_size": Shape("weight of length"),
        "length_rho": Shape("rho of rating and length"),
    },
    "Own texts": {
        "own": Shape("own wins, %", PERCENT, 0),
        "own_true": Shape("own truly wins, %", PERCENT, 0),
        "own_lost": Shape("own wins where it truly lost, %", PERCENT, 0),
        "own_bias": Shape("leaning to its own", PERCENT, 0),
    },
}
SHAPES = {name: shape for theme in THEMES.values() for name, shape in theme.items()}
# What is flagged: what a leaning is called by its direction, up and down; of scores what is above chance.
FLAGGED: dict[str, tuple[str, str, str]] = {
    "agreement": ("agreement", "better than chance", ""),
    "rho": ("rho", "better than chance", ""),
    "first": ("place", "the first", "the second"),
    "longer_bias": ("length", "the longer", "the shorter"),
    "own_bias": ("own texts", "its own", "others'"),
    "same": ("one answer", "says the same", "too few ties"),
    "again": ("repeats", "steadier than chance", ""),
}
BAR = 8  # cells of a chance
AT = {"first": 0.5, "agreement": 0.5, "again": 0.5, "same": 0.0}  # what a value is compared with to tell its direction
LEFT_OUT = ("Right", "Length", "Own texts")  # themes that disagreeing orders touch


# -- words ------------------------------------------------------------------------------------------------------------------


def written(shape: Shape, figure: Estimate) -> str:
    """ "0.62 (0.55 to 0.68)"."""
    if figure["value"] is None:
        return NONE
    low, high = figure["low"], figure["high"]
    return shape.write(figure["value"]) + ("" if low is None or high is None else f" ({shape.write(low)} to {shape.write(high)})")


def finding(name: str, figure: Estimate) -> str:
    """What a flagged figure shows: "bias: the first", "none larger than 8 found", "n too small: shows nothing"."""
    flag, shape = figure["flag"], SHAPES[name]
    _, up, down = FLAGGED[name]
    least = shape.write(figure["smallest"])
    match flag:
        case None:
            return NONE
        case "too_small":
            return "n too small: shows nothing"
        case "bias":
            return f"shows a bias: {up if figure['value'] > AT.get(name, 0.0) else down}"
        case "none":
            return f"none larger than {least} found"
        case "above":
            return up
        case _:
            return f"like chance: none larger than {least} found"


def names(rows: Sequence[Values]) -> list[str]:
    """Each judge's name, and what tells it from the others: form and wording."""
    found = []
    for row in rows:
        known = [one for one in (row["form"], row["wording"]) if one and one not in row["judge"]]
        found.append(one_line(clean(f"{row['judge']} ({', '.join(known)})" if known else row["judge"])))
    return found


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


def about(card: Values) -> str:
    """The line above all tables."""
    held = {"truth": "the truth", "label": "the labels of the source", "people": "people", None: "nothing: none is known"}
    read = f"{card['items']:,} items of {card['groups']:,} groups (dialogues or topics)"
    return f"{read}; judges are held against {held[card['against']]}; length in {card['unit']}."


CAPTION = (
    "95 % intervals by a bootstrap over groups. None larger than X found: an effect of X would have been found with a probability of .8, "
    "in the unit of its figure. Pairs whose two orders disagree are ties. One of twenty figures shows a bias by chance."
)


def rankings(card: Values) -> Iterator[tuple[str, Values]]:
    """(judge, ranking) of those that have compared systems."""
    for name, row in zip(names(card["judges"]), card["judges"], strict=True):
        if row["ranking"]:
            yield name, row["ranking"]


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


def together(card: Values) -> list[str]:
    """Agreement among several, a line each."""
    return [f"Krippendorff's {name}: {written(SHAPES['kappa'], one)}, {one['n']:,} units" for name, one in card["together"].items()]


def alternatives(card: Values) -> list[str]:
    """The alternative annotator test, a line each."""
    found = []
    for name, test in card["alternative"].items():
        if test["problem"]:
            found.append(f"Alternative annotator test of {name}: {test['problem']}")
            continue
        may = "may stand in for a person" if test["passed"] else "may not stand in for a person"
        won = f"wins against {sum(one['won'] for one in test['people'])} of {len(test['people'])} people"
        more = f"mean advantage {test['advantage']:.2f}, epsilon {test['epsilon']:g}"
        found.append(f"Alternative annotator test of {name}: {may} ({won}, {more})")
    return [one_line(clean(line)) for line in found]


# -- Markdown -----------------------------------------------------------------------------------------------------------------


def markdown(card: Values) -> str:
    """The whole card as Markdown."""
    parts = [about(card), _grid(shown(card["judges"])), CAPTION]
    for title, rows in (("", card["judges"]), (" (pairs whose orders disagree left out)", card["left_out"])):
        for theme, shapes in THEMES.items():
            if rows and (found := columns(rows, shapes)) and (not title or theme in LEFT_OUT):
                parts += [f"**{theme}**{title}", _grid([("judge", names(rows)), answered(rows), *found])]
    for name, ranking in rankings(card):
        parts += [f"**Ranking by {name}**", _grid(places(ranking))]
    lines = [f"- {line}" for line in (*together(card), *alternatives(card), *(one_line(clean(note)) for note in card["notes"]))]
    return "\n\n".join([*parts, *(["\n".join(lines)] if lines else [])]) + "\n"


def _grid(columns: Sequence[Column]) -> str:
    rows = [[title for title, _ in columns], *zip(*(cells for _, cells in columns), strict=True)]
    head, *lines = ["| " + " | ".join(one.replace("|", "\\|") for one in row) + " |" for row in rows]
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
