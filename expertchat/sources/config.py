"""What a command reads that exists already: where it is, what of it is judged, and which columns of a table are what."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from expertchat.config import Group, Text

Unit = Literal["auto", "transcripts", "turns", "candidates", "pairs", "evaluations"]
LEAVE = "none"  # as the name of a column: leave it alone, whatever it is called


def _of_texts(name: str) -> str:
    """The name of an encoding, if it is one of texts: Python knows others (hex, zlib), which decode nothing that is text."""
    try:
        b"a".decode(name)
    except (LookupError, ValueError) as error:
        if not isinstance(error, UnicodeDecodeError):  # which is half a letter of utf-16
            raise ValueError("is no encoding that Python knows for texts; take utf-8, utf-16, cp1252 or latin-1") from None
    return name


Encoding = Annotated[Text, AfterValidator(_of_texts)]


def _one_or_more(value: object) -> object:
    return value if isinstance(value, list) else [] if value is None else [value]


class ColumnsConfig(Group):
    """Which columns of a table are what; None: found by the usual names, `none`: not taken.

    Judged is one `text`, or `a` against `b` (and `c`: each two of the three). `label`: what a person has said, a rating or a choice.
    """

    id: Text | None = None
    topic: Text | None = None
    prompt: Text | None = None
    text: Text | None = None
    a: Text | None = None
    b: Text | None = None
    c: Text | None = None
    reference: Text | None = None
    label: Text | None = None
    group: Text | None = None
    type: Text | None = None
    system: Text | None = None
    system_a: Text | None = None
    system_b: Text | None = None
    system_c: Text | None = None
    truth: Text | None = None
    truth_a: Text | None = None
    truth_b: Text | None = None
    truth_c: Text | None = None


class SourceConfig(Group):
    """`path`: run folders, tables (.csv, .tsv, .jsonl, .json, .parquet), folders of `datasets`, or hf:OWNER/NAME; several are read
    together.

    `unit`: what of a run is one item. `pairs_of`: which pairs of a history's candidates. `limit`: so many items of each source at most,
    drawn by `seed`. `identical`: so many pairs of one same text are put in, which no judge can tell apart.
    """

    path: Annotated[list[Text], BeforeValidator(_one_or_more)] = Field(default_factory=list)
    unit: Unit = "auto"
    subject: Text | None = None
    pairs_of: Literal["first", "all", "kept"] = "first"
    group: Literal["auto", "topic", "dialogue", "item"] = "auto"
    columns: ColumnsConfig = Field(default_factory=ColumnsConfig)
    topic: Text | None = None
    scale: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    encoding: Encoding | None = None
    split: Text | None = None
    incomplete: Literal["refuse", "skip"] = "refuse"
    limit: int | None = Field(default=None, ge=1)
    identical: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**63)

    @field_validator("path")
    @classmethod
    def _named_once(cls, paths: list[str]) -> list[str]:
        if any(not path.strip() for path in paths):
            raise ValueError("holds an empty name; name a run folder, a table or a data set")
        return list(dict.fromkeys(paths))

    @model_validator(mode="after")
    def _scale_goes_up(self) -> SourceConfig:
        if self.scale is not None and not self.scale[0] < self.scale[1]:
            raise ValueError(f"scale={self.scale}: must be [lowest, highest] of the label column, such as [1, 5]")
        return self
