"""What `expertchat build_pairs` keeps: every counterpart that was tried, and what became of every text."""

from __future__ import annotations

from expertchat.records.run import Record


class Attempt(Record):
    """A counterpart that a model has written to a chosen text (`id` = text/xN), as it was judged: `score` on the judge's scale.

    `problem`: why it is not the rejected one; None: it is. `reason` is that in the words that are counted.
    """

    of: str  # the chosen text
    number: int
    text: str
    tokens: int = 0
    cut: bool = False  # the token limit ended it
    score: float | None = None
    truth: float | None = None  # of the embedded world
    reason: str | None = None
    problem: str | None = None


class Outcome(Record):
    """What became of a text of the source (`id` = item, of a pair item/0 and item/1): the pair that it is the chosen one of, or why none.

    `high`, `low`: the scores that a chosen text of its type reaches and a rejected one does not pass.
    """

    item: str
    place: int = 0
    type: str = ""
    score: float | None = None
    high: float | None = None
    low: float | None = None
    attempts: int = 0
    pair: str | None = None
    reason: str | None = None
    problem: str | None = None  # why it has no score
