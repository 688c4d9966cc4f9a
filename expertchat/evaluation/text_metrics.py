"""What can be counted in a text without a judge: words, distinct word groups, sentences that were said before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from expertchat.likeness import words
from expertchat.text import sentences


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
    """The share of a reply's sentences that repeat an earlier one, of the reply itself or of `earlier_texts`; 0 where it has none.

    Sentences are compared by their words, so neither case nor punctuation makes one new.
    """
    seen = {_said(sentence) for earlier in earlier_texts for sentence in sentences(earlier)}
    repeats, own = 0, [said for sentence in sentences(text) if (said := _said(sentence))]
    for said in own:
        repeats += said in seen
        seen.add(said)
    return repeats / len(own) if own else 0.0


def _said(sentence: str) -> tuple[str, ...]:
    return tuple(words(sentence))
