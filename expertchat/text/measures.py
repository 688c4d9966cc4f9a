"""Rewards that a program can check: what is measured in a reply, without a judge. They show whether the loop goes where it is asked to.

A new one is a function and a line in PROGRAMS: then reward.source and evaluation.measure know its name. Each says what it measures in its
own unit (`measure`; None for a reply in which there is nothing to measure, never 0 in its place) and how that becomes a reward between
-1 and 1 (`reward`), the range of a judge's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from expertchat.text.likeness import blank, weight, words
from expertchat.text.program import Program, count, share
from expertchat.text.sentences import asks, counted


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
    said = [sentence for sentence in counted(text) if not blank(sentence)]
    return sum(asks(sentence) for sentence in said) / len(said) if said else None


def variety(text: str) -> float | None:
    """Different words over all words; None where a reply has none.

    >>> variety("the sea and the Moon"), variety("")
    (0.8, None)
    """
    return distinct_n([text], 1)


def distinct_n(texts: Iterable[str], n: int) -> float | None:
    """Different groups of n words over all groups of n words in the texts together: distinct-n (Li et al. 2016, arXiv 1510.03055).

    1: nothing is ever said twice; towards 0: always the same. No group reaches over the end of a text; None where there is no group.
    It falls with the amount of text, so compare it between equally many texts of about one length. Raises ValueError for n < 1.
    """
    if n < 1:
        raise ValueError(f"groups of {n} words")
    groups = [tuple(one[i : i + n]) for one in map(words, texts) for i in range(len(one) - n + 1)]
    return len(set(groups)) / len(groups) if groups else None


def repeated_sentences(text: str, earlier_texts: Sequence[str] = ()) -> float:
    """The share of a reply's sentences that repeat an earlier one, of the reply itself or of `earlier_texts`; 0 where it has none."""
    repeats, every = said_again(text, earlier_texts)
    return repeats / every if every else 0.0


def said_again(text: str, earlier_texts: Sequence[str] = ()) -> tuple[int, int]:
    """How many of a reply's sentences repeat an earlier one, and how many it has.

    Sentences are compared by their words, so neither case nor punctuation makes one new.

    >>> said_again("Tides rise. Why? TIDES RISE!", ["Why?"])
    (2, 3)
    """
    seen = {_said(sentence) for earlier in earlier_texts for sentence in counted(earlier)}
    repeats, own = 0, [said for sentence in counted(text) if (said := _said(sentence))]
    for said in own:
        repeats += said in seen
        seen.add(said)
    return repeats, len(own)


def _said(sentence: str) -> tuple[str, ...]:
    return tuple(words(sentence))


# -- the registry --------------------------------------------------------------------------------------------------------

PROGRAMS = {
    "length": Program(length, count, "words a reply"),
    "questions": Program(questions, share, "share of questions"),
    "variety": Program(variety, share, "share of different words"),
}
