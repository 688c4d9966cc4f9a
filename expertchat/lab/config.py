"""The config of `expertchat judge`: what is judged, by whom, how often."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import ConfigDict, Field, RootModel, ValidationInfo, field_validator, model_validator

from expertchat.backends.served.config import ServerConfig
from expertchat.config import (
    ConversationConfig,
    EmbedderConfig,
    EngineConfig,
    ExpertsConfig,
    Group,
    JudgeName,
    JudgingConfig,
    ModelConfig,
    RewardModelConfig,
    RunConfig,
    Text,
    conf_dir,
    may_name,
)
from expertchat.sources.config import SourceConfig
from expertchat.text.written import Example, Principle, written
from expertchat.trackers.config import ReportTo

NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
RuleName = Literal["length", "shorter", "first", "second", "own", "middle", "random", "truth"]
ASSUMED_TURNS = 8  # of a dialogue that is judged, for the memory plan, which knows no items


class JudgeConfig(Group):
    """One judge. `kind` says what judges, and which other keys count.

    model: `model` rates each text (form written, expected, both), by principles (principles) or compares two in both orders (pairwise);
    null is as in judging for `analysis`, `principles` and `examples`; `reference`: it is shown the item's. reward_model: a model that gives
    each text a number. rule: a planted judge whose defect is known; `of` is what `own` prefers, `noise` the share of its answers that are
    drawn at random. recorded: what is in the run folder `of` already (null: the source itself); `by`: only this judge of it.
    """

    kind: Literal["model", "reward_model", "rule", "recorded"]
    form: Literal["written", "expected", "both", "pairwise", "principles"] | None = None
    model: ModelConfig | None = None
    analysis: bool | None = None
    principles: dict[str, Principle] | None = None
    examples: list[Example] | None = None
    reference: bool = False
    reward_model: RewardModelConfig | None = None
    rule: RuleName | None = None
    of: Text | None = None
    by: Text | None = None
    noise: float = Field(default=0.0, ge=0, le=1)
    note: Text | None = None

    @field_validator("principles", "examples", mode="before")
    @classmethod
    def _from_file(cls, value: Any, info: ValidationInfo) -> Any:
        return written(value, str(info.field_name), conf_dir())

    @model_validator(mode="after")
    def _fits_its_kind(self) -> JudgeConfig:
        lacking = [key for key in _NEEDED[self.kind] if getattr(self, key) is None]
        if lacking:
            raise ValueError(f"kind={self.kind} needs {' and '.join(lacking)}")
        if self.rule == "own" and self.of is None:
            raise ValueError("rule=own needs of: the model whose texts it prefers, as the source calls it, such as of=embedded:llama")
        return self


_NEEDED: dict[str, tuple[str, ...]] = {"model": ("form", "model"), "reward_model": ("reward_model",), "rule": ("rule",), "recorded": ()}


class JudgesConfig(RootModel[dict[str, JudgeConfig]]):
    """The judges by name, side by side."""

    model_config = ConfigDict(frozen=True, strict=True)

    @field_validator("root")
    @classmethod
    def _names(cls, judges: dict[str, JudgeConfig]) -> dict[str, JudgeConfig]:
        bad = [name for name in judges if not NAME.fullmatch(name) or not may_name(name)]
        problems = [f"judges.{name}: cannot be a judge's name; take small letters, digits, _ and -, a letter first" for name in bad]
        if problems:
            raise ValueError("\n".join(problems))
        return judges

    def items(self) -> Iterator[tuple[str, JudgeConfig]]:
        yield from self.root.items()


class Alone(Group):
    """What loading models asks of a run's config, of one in which nobody talks with another."""

    run: RunConfig
    engine: EngineConfig

    @property
    def third(self) -> ModelConfig | None:
        return None

    @property
    def moderator(self) -> ModelConfig | None:
        return None

    @property
    def reward_model(self) -> RewardModelConfig | None:
        """There may be several here, and each belongs to its judge."""
        return None

    @property
    def judge_names(self) -> set[JudgeName]:
        return set()

    @property
    def conversation(self) -> ConversationConfig:
        """How large the memory plan takes a dialogue to be."""
        return ConversationConfig(count=self.engine.max_batch or 64, turns=ASSUMED_TURNS)


class Unattended(Alone):
    """The same of one in which nothing is embedded: opinions are ratings and choices."""

    @property
    def embeds(self) -> bool:
        return False

    @property
    def embedder(self) -> EmbedderConfig:
        return EmbedderConfig()


class LabConfig(Unattended):
    """`expertchat judge`. `judging`: categories and what counts as an answer, for all judges. `repeats`: how often each is asked."""

    models_dir: Text | None = None
    view: Literal["live", "plain", "none"]
    report_to: ReportTo
    source: SourceConfig
    judging: JudgingConfig
    judges: JudgesConfig
    repeats: int = Field(ge=1, le=1000)
    engine: EngineConfig
    server: ServerConfig = ServerConfig()

    @model_validator(mode="after")
    def _has_principles(self) -> LabConfig:
        lacking = [name for name, judge in self.judges.items() if judge.form == "principles" and not self.principles_of(judge)]
        if lacking:
            remedy = "take constitution, or a YAML file of yours"
            raise ValueError("\n".join(f"judges.{name}.principles: names none; {remedy}" for name in lacking))
        return self

    def principles_of(self, judge: JudgeConfig) -> dict[str, Principle] | None:
        """The principles that a judge goes by; None where it rates by categories or compares on the whole."""
        return judge.principles or self.judging.principles if judge.form in ("principles", "pairwise") else None

    # -- what loading a model asks of a run's config ----------------------------------------------------------------------

    @property
    def experts(self) -> ExpertsConfig:
        """The models that judge, by their places in the config."""
        models = {seat_of(name): judge.model for name, judge in self.judges.items() if judge.model is not None}
        return ExpertsConfig.model_construct(root=models)


def seat_of(name: str, key: str = "model") -> str:
    """The place of a judge's model in the config, by which its backend and its expert go."""
    return f"judges.{name}.{key}"
