"""The config of `expertchat label`: its form (conf/form), where labels go, and what is done with them."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from expertchat.config import EmbedderConfig, Group, Text, may_name, near
from expertchat.records.lab import Label
from expertchat.sources.config import SourceConfig
from expertchat.text.sentences import listed

MOST_SCALES, MOST_FLAGS = 12, 15  # more lines than these leave no room for the text on a screen of 24


class FormConfig(Group):
    """What a person is asked of an item.

    `scales`: category -> what it asks, each answered by 1..10 or "cannot say". `choice`: of a pair, which text is better (`tie`: or
    neither); a form without it has the texts of a pair rated one by one. `flags`: name -> what it says; one of `spare` is enough, and the
    rest may be left out. `missing`: the annotator may write what is missing. `at_once`: what is complete is kept without a further key.
    """

    name: Text = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    guide: str = ""  # what an annotator should know, shown by the key ?
    scales: dict[str, str] = Field(default_factory=dict)
    choice: bool = False
    tie: bool = True
    flags: dict[str, str] = Field(default_factory=dict)
    spare: list[str] = Field(default_factory=list)
    missing: bool = False
    at_once: bool = False

    @model_validator(mode="after")
    def _asks(self) -> FormConfig:
        problems = []
        if not (self.scales or self.choice or self.flags):
            problems.append("asks nothing: give it scales, flags or choice=true")
        for kind, names, most in (("scales", self.scales, MOST_SCALES), ("flags", self.flags, MOST_FLAGS)):
            problems += [f"{kind}: {name!r} cannot be a name here; rename it" for name in names if not may_name(name)]
            if len(names) > most:
                problems.append(f"{kind}: there are {len(names)}, and a screen has room for {most}; leave some out")
        if both := sorted(set(self.scales) & set(self.flags)):
            problems.append(f"{listed(both)}: a scale and a flag of one name; rename one of them")
        for name in self.spare:
            if name not in self.flags:
                near_one = near(name, self.flags) or f"; there are {', '.join(self.flags) or 'none'}"
                problems.append(f"spare: {name!r} is no flag of the form{near_one}")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def compares(self, pair: bool) -> bool:
        """Whether an item is answered by a choice between its two texts."""
        return pair and self.choice

    def asks_of(self, pair: bool) -> bool:
        """Whether it asks anything of such an item."""
        return self.choice if self.compares(pair) else bool(self.scales or self.flags)

    def lacks(self, label: Label, pair: bool) -> list[str]:
        """What is still to be answered before a label can be kept. A scale with None is answered: cannot say."""
        if set(self.spare) & set(label.flags):
            return []
        if self.compares(pair):
            return [] if label.choice is not None else ["which is better"]
        return [name for name in self.scales if name not in label.ratings]


def annotator_name(name: str) -> str:
    """A name as labels and folders are called by. Raises ValueError where it cannot be one."""
    name = unicodedata.normalize("NFC", name).strip()
    if not (0 < len(name) <= 40 and all(c.isalnum() or c in "_-" for c in name) and name[0].isalnum()):
        raise ValueError("a name has 1 to 40 letters, digits, _ and -, and begins with a letter or a digit")
    return name


class ServeConfig(Group):
    """Where a browser finds the app: on this machine alone, unless `host` names another of its addresses."""

    host: Text = Field(default="localhost", min_length=1)
    port: int = Field(default=8000, ge=1, le=65535)


class LabelConfig(Group):
    """`expertchat label`. `labels`: the folder, with one folder in it for each annotator; unset, beside or in the source."""

    models_dir: Text | None = None
    source: SourceConfig
    form: FormConfig
    embedder: EmbedderConfig
    annotator: Text | None = None
    labels: Text | None = Field(default=None, min_length=1)
    again: float = Field(default=0.1, ge=0, le=1)
    shuffle: bool = True
    seed: int = Field(default=0, ge=0, lt=2**63)
    verdicts: bool = False
    empty_score: float = Field(default=1.0, ge=-1, le=1)
    serve: bool = False
    web: ServeConfig
    export: Literal["trl", "csv"] | None = None
    out: Annotated[Text | None, Field(min_length=1)] = None

    @field_validator("annotator")
    @classmethod
    def _named(cls, name: str | None) -> str | None:
        return None if name is None else annotator_name(name)

    @model_validator(mode="after")
    def _one_thing(self) -> LabelConfig:
        problems = []
        if self.serve and self.export:
            problems.append("serve=true and export are two things: leave one of them out")
        if self.out and not self.export:
            problems.append(f"out={self.out}: there is nothing to write; add export=trl or export=csv")
        if problems:
            raise ValueError("\n".join(problems))
        return self
