"""The config of rows that a model is taught: where they are, which columns are what, how a prompt is worded, what is held out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from expertchat.config import Group, Text
from expertchat.sources.config import Encoding


def _one_or_more(value: object) -> object:
    return value if isinstance(value, list) else [] if value is None else [value]


class TaughtColumns(Group):
    """Which columns of a table are what; None: found by the usual names.

    A row is a `prompt` and a `completion`, or `messages`; an `instruction` with an `input` and its `output`; or a `context` and a
    `question` of a `type` about it.
    """

    prompt: Text | None = None
    completion: Text | None = None
    messages: Text | None = None
    instruction: Text | None = None
    input: Text | None = None
    output: Text | None = None
    context: Text | None = None
    question: Text | None = None
    type: Text | None = None
    part: Text | None = None
    group: Text | None = None
    score: Text | None = None


class BestConfig(Group):
    """Which dialogues (or candidates) of a run are taught: those of the best `share` by their score, or of a score of `least` and more.

    `by`: reward (what the judges' ratings and WIM responses come to) or rating. `subject`: whose turns; None: everybody's, each by their
    own score.
    """

    by: Literal["reward", "rating"] = "reward"
    share: float | None = Field(default=0.25, gt=0, le=1)
    least: float | None = None
    subject: Text | None = None

    @model_validator(mode="after")
    def _one_way(self) -> BestConfig:
        if (self.share is None) == (self.least is None):
            raise ValueError("needs share or least, one of them: the best share of all, or all that have at least a score")
        return self


class DataConfig(Group):
    """Rows to teach. `evaluation`: a file of rows that are held out; else those that the rows themselves call so, else `share` of them,
    whole groups, drawn by the seed. `choose`: share of the groups left by which the best round is chosen, and which are not trained on
    either; 0: it is chosen by the held-out rows.

    `template`: chat (the model's own), none (prompts as they stand), alpaca_en, alpaca_de or the path of a file of that form. `task`: the
    instruction of Context | Question | Type rows, None: the template's. `cut`: what becomes of rows with more than train.max_tokens.
    """

    path: Annotated[list[Text], BeforeValidator(_one_or_more)] = Field(default_factory=list)
    evaluation: Text | None = None
    share: float = Field(default=0.1, ge=0, lt=1)
    choose: float = Field(default=0.0, ge=0, lt=1)
    template: Text = "chat"
    task: Text | None = None
    system: Text | None = None
    columns: TaughtColumns = Field(default_factory=TaughtColumns)
    best: BestConfig = Field(default_factory=BestConfig)
    cut: Literal["cut", "drop"] = "cut"
    limit: int | None = Field(default=None, ge=1)
    encoding: Encoding | None = None
    split: Text | None = None
