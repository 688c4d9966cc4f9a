"""What a program measures in a reply, and how that becomes a reward: the form of every entry of expertchat.text.measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

MIDDLE = 40  # words of a reply whose length is rewarded with 0: those of the embedded models, and of short answers


@dataclass(frozen=True)
class Program:
    """What is measured in a reply, in its own unit (None where there is nothing to measure), how it becomes a reward in [-1, 1] that grows
    with it, and its name in a table.
    """

    measure: Callable[[str], float | None]
    reward: Callable[[float], float]
    title: str


def share(value: float) -> float:
    """A share 0..1 as a reward.

    >>> share(0.0), share(0.5), share(1.0)
    (-1.0, 0.0, 1.0)
    """
    return 2 * value - 1


def count(value: float) -> float:
    """A number of words as a reward: from -1 at 0 over 0 at MIDDLE towards 1; every word more counts, one of many less.

    >>> count(0), count(MIDDLE), count(3 * MIDDLE)
    (-1.0, 0.0, 0.5)
    """
    return (value - MIDDLE) / (value + MIDDLE)
