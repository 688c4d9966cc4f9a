"""What `expertchat pick` keeps: the rows that were judged, and what the judge has picked in each order."""

from __future__ import annotations

from pydantic import Field

from expertchat.records.run import Record


class PickRow(Record):
    """A row: its texts by the names of their columns, and the group that it depends on others by. `said`: what they answer."""

    source: str  # digest of all rows
    group: str
    topic: str = ""
    said: list[str] = Field(default_factory=list)
    texts: dict[str, str]


class Pick(Record):
    """Which text was picked (`id` = row/order) where they stood in `order`; None: none, and `problem` says why. `mass`: the share of the
    probability that the letters hold together."""

    row: str
    order: list[str]
    choice: str | None = None
    mass: float | None = Field(default=None, ge=0, le=1)
    raw: str = ""
    problem: str | None = None
    fault: str | None = None
