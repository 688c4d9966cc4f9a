"""What Is Missing (Stranges and Yang, arXiv 2603.04429): the question, the reading of the answer, the score, the reward."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from expertchat.judging.nothing import plain, says_nothing
from expertchat.judging.view import Judgement
from expertchat.records import SEATS
from expertchat.text.sentences import one_line, sentences
from expertchat.text.wordings import fill

if TYPE_CHECKING:
    from expertchat.config import Scale
    from expertchat.text.wordings import Prompts, WimWording

_LACKS = re.compile(
    r"\b(?:missing|absent|lack\w*|omit\w*|without|except|apart|besides|however|but|not|never|cannot|no|fehl\w*|nicht|keine?\w?)\b|n['’]t\b",
    re.IGNORECASE,
)


def question(prompts: Prompts, wording: WimWording, judgement: Judgement, special_tokens: Sequence[str] = ()) -> str:
    """The judge's second user message."""
    return fill(prompts.wim[wording], special_tokens, subject=judgement.subject.upper(), topic=judgement.topic)


def is_empty(text: str, prompts: Prompts, wording: WimWording = "missing", seats: Sequence[str] = SEATS) -> bool:
    """Whether the text says that nothing is missing: a whole answer in the empty form, and nothing beside it.

    Asked first what is covered, the judge may say that before: there the last sentence is the answer, if none before it names a lack.
    """
    flat = _bare(text)
    if _in_empty_form(flat, prompts, seats):
        return True
    if wording != "covers_then_missing" or len(parts := sentences(flat)) < 2:
        return False
    return _in_empty_form(_bare(parts[-1]), prompts, seats) and not any(_LACKS.search(part) for part in parts[:-1])


def _bare(text: str) -> str:
    return one_line(text).strip("\"'`*_“”„‘’ ")


def _in_empty_form(flat: str, prompts: Prompts, seats: Sequence[str]) -> bool:
    return says_nothing(flat, seats) or plain(flat) == plain(prompts.wim_empty)


def cosine(reply: Sequence[float], text: Sequence[float]) -> float | None:
    """Cosine of two unit-length vectors, -1..1. HIGH is better: what the text adds to the reply is orthogonal to it.

    None where it is not defined: a vector holds not-a-number or infinity, or has no length.
    """
    if not (is_direction(reply) and is_direction(text)):
        return None
    product = sum(x * y for x, y in zip(reply, text, strict=True))
    return min(1.0, max(-1.0, product)) if math.isfinite(product) else None  # a sum of floats may end a hair outside


def is_direction(vector: Sequence[float]) -> bool:
    """Whether a vector points anywhere."""
    return any(vector) and all(map(math.isfinite, vector))


def is_number(value: float | None) -> bool:
    """Whether there is a value that can be counted with: not None, not-a-number or infinity."""
    return value is not None and math.isfinite(value)


def scale_rating(rating: float, scale: Scale = "symmetric") -> float:
    """A rating 1..10 on -1..1: symmetric (rating - 5.5) / 4.5; fifths (rating - 5) / 5, from -.8 on, as in the code of What Is Missing."""
    return (rating - 5) / 5 if scale == "fifths" else (rating - 5.5) / 4.5


def reward(rating: float | None, wim_score: float | None, z: float, scale: Scale = "symmetric") -> float | None:
    """(1 - z) R + z WIM, with R the rating on `scale`; None where a part that counts is None (never a fallback).

    z = 0 is the numeric arm, z = 1 the WIM arm.
    """
    if (z < 1 and not is_number(rating)) or (z > 0 and not is_number(wim_score)):
        return None
    total = 0.0
    if z < 1 and rating is not None:
        total += (1 - z) * scale_rating(rating, scale)
    if z > 0 and wim_score is not None:
        total += z * wim_score
    return total


def mean_rating(numbers: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    """Weighted mean over the categories with a positive weight; None if one of them has no number."""
    used = {c: w for c, w in weights.items() if w > 0}
    if not used or not all(is_number(numbers.get(c)) for c in used):
        return None
    return sum(w * (numbers[c] or 0.0) for c, w in used.items()) / sum(used.values())
