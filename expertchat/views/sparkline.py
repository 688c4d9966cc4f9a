"""A row of block characters that shows how a figure went."""

from __future__ import annotations

import math
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
MIDDLE = BLOCKS[3]  # values that are all alike


def sparkline(values: Sequence[float | None], width: int) -> str:
    """Values as a curve of at most `width` cells, from the least (▁) to the greatest (█) of what is shown.

    One cell a value; where there are more values than cells, each cell is the mean of an equal share of them. None, nan and the infinities
    are blanks. The result is as long as the values or as `width`, whichever is less; empty for a width below 1.

    >>> sparkline([1.0, 2.0, None, 3.0], 10)
    '▁▅ █'
    """
    shown = _shares([value if value is not None and math.isfinite(value) else None for value in values], width)
    known = [value for value in shown if value is not None]
    if not known:
        return " " * len(shown)
    low, high = min(known), max(known)
    return "".join(" " if value is None else _block(value, low, high) for value in shown)


def _block(value: float, low: float, high: float) -> str:
    span = high / 2 - low / 2  # halves: the span of two floats of opposite signs may be no float
    return BLOCKS[min(len(BLOCKS) - 1, int((value / 2 - low / 2) / span * len(BLOCKS)))] if span > 0 else MIDDLE


def _shares(values: Sequence[float | None], width: int) -> list[float | None]:
    count = len(values)
    if count <= width:
        return list(values)
    return [_mean(values[i * count // width : (i + 1) * count // width]) for i in range(max(0, width))]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(value / len(known) for value in known) if known else None
