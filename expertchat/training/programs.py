"""Rewards that a program can check: what is measured in a reply, without a judge. They show whether the loop goes where it is asked to.

A new one is a function and a line in PROGRAMS. Each says what it measures in its own unit (`measure`; None for a reply in which there is
nothing to measure, never 0 in its place) and how that becomes a reward between -1 and 1 (`reward`), the range of a judge's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from expertchat.evaluation.text_metrics import distinct_n
from expertchat.likeness import blank, weight, words
from expertchat.text import asks, sentences

MIDDLE = 40  # words of a reply whose length is rewarded with 0: those of the embedded models, and of short answers


def length(text: str) -> float | None:
    """Words of a reply (two characters count as one in Chinese and Japanese, four in Thai); None where it has none.

    >>> length("Tides rise, and fall."), length(" ... ")
    (4.0, None)
    """
    return weight(words(text)) or None


def questions(text: str) -> float | None:
    """The share of a reply's sentences that end with a question mark; None where it has no words.

    >>> questions("Why is that? The Moon pulls."), questions("The Moon pulls."), questions("?")
    (0.5, 0.0, None)
    """
    said = [sentence for sentence in sentences(text) if not blank(sentence)]
    return sum(asks(sentence) for sentence in said) / len(said) if said else None


def variety(text: str) -> float | None:
    """Different words over all words; None where a reply has none.

    >>> variety("the sea and the Moon"), variety("")
    (0.8, None)
    """
    return distinct_n([text], 1)


@dataclass(frozen=True)
class Program:
    """What is measured, how it becomes a reward in [-1, 1] that grows with it, and its name in a table."""

    measure: Callable[[str], float | None]
    reward: Callable[[float], float]
    title: str


def _share(value: float) -> float:
    return 2 * value - 1


def _count(value: float) -> float:
    """From -1 at 0 over 0 at MIDDLE towards 1: every word more counts, one of many less."""
    return (value - MIDDLE) / (value + MIDDLE)


PROGRAMS = {
    "length": Program(length, _count, "words a reply"),
    "questions": Program(questions, _share, "share of questions"),
    "variety": Program(variety, _share, "share of different words"),
}
