"""What the figures of the judges' card are called and how they are written, wherever the card is shown: on a screen, in a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

from expertchat.text.sentences import clean, one_line

NONE = "-"  # no figure
THE_TRUTH = "the truth"  # the yardstick's row, which is no judge's; a rule may be called truth
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
AT = {"first": 0.5, "agreement": 0.5, "again": 0.5, "same": 0.0}  # what a value is compared with to tell its direction
CAPTION = (
    "95 % intervals by a bootstrap over groups. None larger than X found: an effect of X would have been found with a probability of .8, "
    "in the unit of its figure. Pairs whose two orders disagree are ties. One of twenty figures shows a bias by chance."
)


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
    """Each judge's name, and what tells it from the others: form and wording, and a number where these do not. Tables go by it."""
    found: list[str] = []
    for row in rows:
        known = [one for one in (row["form"], row["wording"]) if one and one not in row["judge"] and row["judge"] != THE_TRUTH]
        name = one_line(clean(f"{row['judge']} ({', '.join(known)})" if known else row["judge"]))
        found.append(name if name not in found else next(other for n in count(2) if (other := f"{name} {n}") not in found))
    return found


def about(card: Values) -> str:
    """The line above all tables."""
    held = {"truth": "the truth", "label": "the labels of the source", "people": "people", None: "nothing: none is known"}
    read = f"{card['items']:,} items of {card['groups']:,} groups (dialogues or topics)"
    return f"{read}; judges are held against {held[card['against']]}; length in {card['unit']}."


def rankings(card: Values) -> Iterator[tuple[str, Values]]:
    """(judge, ranking) of those that have compared systems."""
    for name, row in zip(names(card["judges"]), card["judges"], strict=True):
        if row["ranking"]:
            yield name, row["ranking"]


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
