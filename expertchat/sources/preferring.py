"""The config of pairs and of single judged replies that a model is trained on: where they are, which columns are what, what is held out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from expertchat.config import Group, Text
from expertchat.sources.config import Encoding


def _one_or_more(value: object) -> object:
    return value if isinstance(value, list) else [] if value is None else [value]


class PreferredColumns(Group):
    """Which columns of a table are what; None: by these very names, or by usual ones. A pair is `chosen` and `rejected` after a `prompt`
    (or with it in front of both); a single reply is a `completion` with its `label`, which says whether it is a good one.
    """

    prompt: Text | None = None
    chosen: Text | None = None
    rejected: Text | None = None
    completion: Text | None = None
    label: Text | None = None
    score_chosen: Text | None = None
    score_rejected: Text | None = None
    group: Text | None = None
    topic: Text | None = None
    part: Text | None = None


class PreferredConfig(Group):
    """Rows with preferences. `evaluation`: a file of rows that are held out; else those that a column `part` calls so, else `share` of
    them, whole groups (all that have one prompt, or one topic), drawn by the seed.

    `template`: chat (the model's own), none (prompts that are texts stand as they are). `incomplete`: rows that cannot be read.
    """

    path: Annotated[list[Text], BeforeValidator(_one_or_more)] = Field(default_factory=list)
    evaluation: Text | None = None
    share: float = Field(default=0.1, ge=0, lt=1)
    template: Literal["chat", "none"] = "chat"
    columns: PreferredColumns = Field(default_factory=PreferredColumns)
    min_margin: float | None = Field(default=None, ge=0)  # pairs with scores that are closer are left out
    incomplete: Literal["refuse", "skip"] = "refuse"
    limit: int | None = Field(default=None, ge=1)
    encoding: Encoding | None = None
    split: Text | None = None
