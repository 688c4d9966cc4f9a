"""Points on a screen of letters, with lines where nothing has changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

NARROW = 8  # a field in which no dot has its place
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Dot(NamedTuple):
    """A point with its name."""

    name: str
    x: float
    y: float


def scatter(dots: Sequence[Dot], across: str, up: str, width: int = 60, height: int = 11) -> list[str]:
    """The dots as letters in a field of `width` x `height`, the lines x = 0 and y = 0 in it, and below it who is who.

    Two at one place are one *; empty without dots that are numbers, or where the field has no room for them.

    >>> for line in scatter([Dot("one", -1.0, 0.0), Dot("two", 1.0, 2.0)], "reward", "truth", 9, 3): print(line)
    truth (up) against reward (across)
     2  ┤    │   B
        ┤    │
     0  ┤A───┼────
         -1      1
    A one  B two
    """
    known = [dot for dot in dots if math.isfinite(dot.x) and math.isfinite(dot.y)][: len(LETTERS)]
    if not known or width < NARROW:
        return []
    left, right = _ends([0.0, *(dot.x for dot in known)])
    low, high = _ends([0.0, *(dot.y for dot in known)])

    def column(x: float) -> int:
        return round((x - left) / (right - left) * (width - 1))

    def row(y: float) -> int:
        return round((high - y) / (high - low) * (height - 1))

    field = [[" "] * width for _ in range(height)]
    for at in range(width):
        field[row(0)][at] = "─"
    for line in field:
        line[column(0)] = "│"
    field[row(0)][column(0)] = "┼"
    for letter, dot in zip(LETTERS, known, strict=False):
        cell = field[row(dot.y)][column(dot.x)]
        field[row(dot.y)][column(dot.x)] = "*" if cell in LETTERS else letter
    marks = {0: f"{high:.2g}", height - 1: f"{low:.2g}", row(0): "0"}
    edge = max(map(len, marks.values())) + 1
    lines = [f"{marks.get(i, ''):>{edge}}  ┤{''.join(cells)}".rstrip() for i, cells in enumerate(field)]
    ends = f"{left:.2g}".ljust(width - len(f"{right:.2g}")) + f"{right:.2g}"
    names = "  ".join(f"{letter} {dot.name}" for letter, dot in zip(LETTERS, known, strict=False))
    return [f"{up} (up) against {across} (across)", *lines, f"{'':>{edge}}   {ends}", names]


def _ends(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
