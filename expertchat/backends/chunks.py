"""Long texts for embedders: pieces that fit, and one vector out of those of the pieces."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from expertchat.text.sentences import sentences

Count = Callable[[str], int]


def chunk(text: str, limit: int, count: Count) -> list[str]:
    """Pieces of at most `limit` tokens by `count`, split at sentences where possible, else at words, else at characters."""
    if count(text) <= limit:
        return [text]

    def by_words(sentence: str) -> list[str]:
        return _pack(sentence.split(), limit, count, lambda word: _halve(word, limit, count))

    return _pack(sentences(text), limit, count, by_words)


def _pack(parts: Sequence[str], limit: int, count: Count, split: Callable[[str], list[str]]) -> list[str]:
    """Parts joined by spaces as long as they fit; a part that is too long by itself is `split`."""
    packed: list[str] = []
    for part in parts:
        if count(part) > limit:
            packed.extend(split(part))
        elif packed and count(f"{packed[-1]} {part}") <= limit:
            packed[-1] = f"{packed[-1]} {part}"
        else:
            packed.append(part)
    return packed


def _halve(word: str, limit: int, count: Count) -> list[str]:
    if count(word) <= limit or len(word) < 2:
        return [word]
    middle = len(word) // 2
    return _halve(word[:middle], limit, count) + _halve(word[middle:], limit, count)


def weighted_mean(vectors: Sequence[Sequence[float]], weights: Sequence[float]) -> tuple[float, ...]:
    """The mean of `vectors` with `weights`, scaled to length 1."""
    return tuple(unit([sum(w * x for w, x in zip(weights, column, strict=True)) for column in zip(*vectors, strict=True)]))


def unit(vector: Sequence[float]) -> list[float]:
    """A vector of length 1; one without length stays as it is."""
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector] if length > 0 else list(vector)
