"""What several judges say of the candidates of one history, as one reward each (judging.combine)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from expertchat.config import Combine

Values = Mapping[str, float | None]  # judge -> its reward; None: it gave none


def combined(candidates: Sequence[Values], how: Combine) -> list[float | None]:
    """The reward of each of the candidates, which are all of one history; None where what the judges say makes none.

    mean: of those judges that gave a reward. worst: the least of all; a judge that gave none might have given the least, so that then there
    is none. majority: between every two candidates each judge votes for the one that it places higher (it has no vote where it gave either
    none, or both the same); a candidate wins or loses against another by more votes, and its reward is (won - lost) / others, from -1 to 1.
    Others are those candidates between which and this one anybody has rewards to compare. One reward a candidate stays what it is.

    >>> three = [{"a": 0.9, "b": 0.1, "c": 0.2}, {"a": 0.1, "b": 0.3, "c": 0.3}, {"a": 0.0, "b": 0.2, "c": 0.1}]
    >>> [round(x, 2) for x in combined(three, "mean")]
    [0.4, 0.23, 0.1]
    >>> combined(three, "worst")
    [0.1, 0.1, 0.0]
    >>> combined(three, "majority")  # b, c: the second before the first; a, c: the first before the third; all: the second before the third
    [0.0, 1.0, -1.0]
    """
    if all(len(values) <= 1 for values in candidates):
        return [next(iter(values.values()), None) for values in candidates]
    if how == "majority":
        return [_won(values, [other for j, other in enumerate(candidates) if j != i]) for i, values in enumerate(candidates)]
    return [_of_one(values, how) for values in candidates]


def of_dialogue(values: Values, how: Combine) -> float | None:
    """The same of a whole dialogue, which stands beside no other: a majority has nothing to vote on there, and is the mean."""
    return _of_one(values, "mean" if how == "majority" else how)


def _of_one(values: Values, how: Combine) -> float | None:
    given = [value for value in values.values() if value is not None]
    if not given or (how == "worst" and len(given) < len(values)):
        return None
    return min(given) if how == "worst" else fmean(given)


def _won(values: Values, others: Sequence[Values]) -> float | None:
    results = [result for other in others if (result := _against(values, other)) is not None]
    return fmean(results) if results else None


def _against(values: Values, other: Values) -> float | None:
    """1, 0 or -1: whether most judges place one before the other; None where none has rewards for both."""
    both = [(mine, its) for judge, mine in values.items() if mine is not None and (its := other.get(judge)) is not None]
    votes = sum((mine > its) - (mine < its) for mine, its in both)
    return float((votes > 0) - (votes < 0)) if both else None
