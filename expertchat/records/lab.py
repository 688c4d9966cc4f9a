"""What the judges' lab keeps: items that exist already, what judges say of them, and what people say."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from expertchat.records.run import Record, Turn

Choice = Literal["first", "second", "tie"]
"""Which text of a pair: by its place in the item, whatever order it was shown in."""
Order = Literal["first", "second"]
"""Which text of a pair stood before the other where it was judged."""


class Text(BaseModel):
    """One text that is judged: who wrote it, and what is known of how good it is.

    `truth`: from the embedded world's facts (distinct - repeats - wrong) or a planted value: higher is better. `tokens`: as counted where
    it was made, None where it was not. `turns`: where a whole dialogue is judged, what its subject said, turn by turn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    system: str | None = None  # the model, or what else wrote it
    truth: float | None = None
    tokens: int | None = None
    candidate: str | None = None  # its id in the run that it comes from


class Item(Record):
    """Something to be judged: one text, or two to one same history. The same source gives the same ids.

    `topic` and `turns` (what was said before) are the context; `subject` is the speaker of the judged texts. `group`: what it depends on
    others by (dialogue or topic); intervals draw whole groups. `label`: what a person has said before, a rating 1..10 of one text, a choice
    between two. `type`: what kind of text it is to be (a question that asks for evidence), where a source says so.

    A whole dialogue has all its turns in `turns`, and one text: all that the subject says in it (`whole`).
    """

    source: str  # digest of what was read: labels and opinions about one source are not mixed up with another's
    topic: str = ""
    turns: list[Turn] = Field(default_factory=list)
    subject: str = "a"
    whole: bool = False
    texts: list[Text] = Field(min_length=1, max_length=2)
    group: str
    reference: str | None = None
    label: float | Choice | None = None
    type: str | None = None

    @model_serializer(mode="wrap")
    def _short(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a type as before there were any: the digests of sources stay what they were."""
        return {name: value for name, value in whole(self).items() if name != "type" or value is not None}

    @property
    def kind(self) -> str:
        """What its texts are to be like, where they are judged by their type: that, else its group."""
        return self.type or self.group

    @property
    def pair(self) -> bool:
        """Whether two texts are compared."""
        return len(self.texts) == 2

    @property
    def better(self) -> Choice | None:
        """Which text of a pair is truly the better one; None where it is not known."""
        if not self.pair or (one := self.texts[0].truth) is None or (two := self.texts[1].truth) is None:
            return None
        return "tie" if one == two else "first" if one > two else "second"

    @model_validator(mode="after")
    def _label_fits(self) -> Item:
        if self.label is not None and isinstance(self.label, str) != self.pair:
            raise ValueError(f"label={self.label!r}: one text is rated with a number, of two one is chosen (first, second, tie)")
        return self


Form = Literal["written", "expected", "pairwise", "principles", "rule", "reward_model", "person", "recorded"]


class JudgeRef(Record):
    """A judge and how it was asked; `id` is its name, by which opinions go.

    `model`: the model that judges, to find its own texts among the systems; None for rules and people.
    """

    form: Form
    model: str | None = None
    wording: str | None = None
    note: str | None = None


class Opinion(Record):
    """What one judge says of one item in one category, once: a rating of one text, or a choice between two in one order.

    `id` = item/judge/category[/ORDER-first][/rN]. None in all of value, expected, score and choice is no answer, and `problem` says why.
    """

    item: str
    judge: str
    category: str  # of ratings; the principle; "overall" where there is but one
    place: int = 0  # which text of the item is rated: 0, or 1 for the second of a pair that is rated one by one
    order: Order | None = None  # of a pair: which text stood before the other
    repeat: int = 0
    value: int | None = Field(default=None, ge=1, le=10)  # as written
    expected: float | None = Field(default=None, ge=1, le=10)
    score: float | None = None  # of a reward model or a rule, on its own scale: higher is better
    choice: Choice | None = None
    mass: float | None = Field(default=None, ge=0, le=1)  # the share of the probability that the answers hold together
    seconds: float | None = None  # of wall time, its share of the batch
    raw: str = ""
    problem: str | None = None
    fault: str | None = None

    @property
    def number(self) -> float | None:
        """What it says of one text: expected, else written, else a score."""
        return next((x for x in (self.expected, self.value, self.score) if x is not None), None)

    @property
    def answered(self) -> bool:
        return self.number is not None or self.choice is not None


class Label(Record):
    """What a person says of one item, as of one moment; of several by one annotator on one item and pass, the last counts.

    `place`: which text of a pair that is rated text by text. `shown`: which text of a pair stood on the left. `again`: the item came a
    second time, to see whether the annotator agrees with itself. `withdrawn`: an undo. `seen`: the annotator has looked at the judges'
    opinions of it since, so it stands. Everything is kept as it came.
    """

    item: str
    source: str
    annotator: str
    form: str  # the name of the form
    at: float  # seconds since the epoch
    seconds: float = 0.0  # on the item
    place: int = 0
    shown: Order | None = None
    again: bool = False
    skipped: bool = False
    withdrawn: bool = False
    seen: bool = False
    ratings: dict[str, Annotated[int, Field(ge=1, le=10)] | None] = Field(default_factory=dict)
    choice: Choice | None = None
    flags: list[str] = Field(default_factory=list)
    missing: str | None = None  # What Is Missing, in the annotator's words
    cosine: float | None = None  # its WIM score
    comment: str | None = None
