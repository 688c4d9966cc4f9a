"""The config of `expertchat build_pairs`: what is chosen, what is held against it, and what neither may be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from expertchat.config import ExpertsConfig, Group, ModelConfig, Text
from expertchat.lab.config import JudgeConfig, LabConfig

MODEL = "model"  # the seat of the model that writes counterparts
PLACE_RULES = ("first", "second", "own")  # rules that look at where a text stands, or at whose it is: of one text they say nothing


class ChooseConfig(Group):
    """Which texts are chosen and which are rejected, by the judge's own scale.

    `high`, `low`: a chosen text scores that much at least, a rejected one that much at most; None: the score that the best `high_share`
    of the source's texts reach, and that the worst `low_share` do not pass. `by_type`: an item has a type (a column of it, else its
    group), and these scores are found for each type by itself; a judge that rates a category of that name, or a classifier with a label of
    that name, judges by it.
    """

    high: float | None = None
    low: float | None = None
    high_share: float = Field(gt=0, lt=1)
    low_share: float = Field(gt=0, lt=1)
    min_margin: float = Field(ge=0)
    by_type: bool

    @model_validator(mode="after")
    def _high_is_above_low(self) -> ChooseConfig:
        problems = []
        if self.high is not None and self.low is not None and self.low >= self.high:
            problems.append(f"low={self.low:g} must be below high={self.high:g}: else one same text could be chosen and rejected")
        if self.high is None and self.low is None and self.high_share + self.low_share > 1:
            problems.append(f"high_share={self.high_share:g} and low_share={self.low_share:g} overlap; together they are at most 1")
        if problems:
            raise ValueError("\n".join(problems))
        return self


class CounterpartConfig(Group):
    """What a chosen text is held against. `origin`: generated (by `model`, at most `attempts` times), source (another text of the source
    that answers the same prompt), auto (source where the items are pairs, else generated).

    `asks`: what the model is asked besides, behind the prompt, with {type}, {topic} and {chosen}; None: nothing, it answers as it would.
    `length_ratio`: the longer of the two has at most this many times the words of the shorter. `cut`: as pairs.cut.
    """

    origin: Literal["auto", "generated", "source"]
    attempts: int = Field(ge=1, le=1000)
    asks: Text | None = None
    length_ratio: float | None = Field(default=None, ge=1)
    cut: Literal["no_end", "drop"]

    @model_validator(mode="after")
    def _asks_for_what_is_known(self) -> CounterpartConfig:
        try:
            (self.asks or "").format(type="", topic="", chosen="")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"asks: may use {{type}}, {{topic}} and {{chosen}} ({error}); double a brace that is meant as text") from None
        return self


class HeldOutConfig(Group):
    """What an evaluation uses and no pair may hold: `topics`, and whatever stands in the tables, pairs files and runs of `path`.

    Two texts are alike from the cosine `near` on, of their groups of three letters.
    """

    topics: Annotated[list[Text], Field(default_factory=list)]
    path: Annotated[list[Text], Field(default_factory=list)]
    near: float = Field(gt=0, le=1)


class BuildConfig(LabConfig):
    """`expertchat build_pairs`. One of `judges` scores the texts, or people have (`labels`, a folder of `expertchat label`).
    `prompt`: as the `model` is shown a dialogue, or plain: the turns before the text, the topic where there are none. `count`: so many
    pairs are enough.
    """

    model: ModelConfig | None = None
    labels: Text | None = None
    prompt: Literal["auto", "model", "plain"]
    count: int | None = Field(default=None, ge=1)
    choose: ChooseConfig
    counterpart: CounterpartConfig
    held_out: HeldOutConfig

    @model_validator(mode="after")
    def _fits(self) -> BuildConfig:
        names, problems = list(self.judges.root), []
        if self.labels is not None and names:
            problems.append(f"labels={self.labels}: people judge already; leave {', '.join(names)} out, or labels")
        elif self.labels is None and len(names) != 1:
            there = f"there are {', '.join(names)}" if names else "there is none"
            problems.append(f"judges: one judge scores the texts, but {there}; name one, as judge=truth, judge=expected or judge=recorded")
        if self.counterpart.origin == "generated":
            problems += self.cannot_generate()
        if self.prompt == "model" and self.model is None:
            problems.append("prompt=model: no model is named whose view of a dialogue it is; name it with model=NAME, or leave prompt away")
        if self.repeats != 1:
            problems.append(f"repeats={self.repeats}: a text is scored once here; judge it before, and take judge=recorded")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def cannot_generate(self) -> list[str]:
        """Why no counterpart can be generated and found to score low."""
        found, remedy = [], "take counterpart.origin=source"
        if self.labels is not None:
            found.append(f"counterpart.origin=generated: nobody labels what is generated; {remedy}, or a judge instead of labels")
        for name, judge in self.judges.items():
            if judge.kind == "recorded":
                found.append(f"counterpart.origin=generated: judges.{name} says nothing of what is generated; {remedy}, or another judge")
            if not judges_alone(judge):
                found.append(f"counterpart.origin=generated: judges.{name} compares two texts, and scores none by itself; {remedy}")
        if self.model is None:
            found.append(f"counterpart.origin=generated: no model writes; name it with model=NAME, or {remedy.removeprefix('take ')}")
        return found

    @property
    def experts(self) -> ExpertsConfig:
        """The models that judge and the one that writes, by their places in the config."""
        writes = {MODEL: self.model} if self.model is not None else {}
        return ExpertsConfig.model_construct(root={**super().experts.root, **writes})


def judges_alone(judge: JudgeConfig) -> bool:
    """Whether a judge scores one text by itself."""
    return judge.form != "pairwise" and judge.rule not in PLACE_RULES
