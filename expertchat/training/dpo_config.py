"""The config of `expertchat dpo`: a model, pairs (or judged replies) that are there, how it is trained and held against its base."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from expertchat.config import ConversationConfig, ExpertsConfig, JudgeName, JudgingConfig, ModelConfig, RunConfig, TopicsConfig
from expertchat.evaluation.config import EvaluationConfig
from expertchat.preferences.config import ProgramName, RewardConfig
from expertchat.records import Speaker
from expertchat.sources.preferring import PreferredConfig
from expertchat.training.config import GuardsConfig, TrainConfig
from expertchat.training.offline_config import Kept, OfflineConfig

POLICY, PARTNER = "a", "b"  # who talks in the held-out dialogues


class PreferTrain(TrainConfig):
    """The update: dpo on pairs with any of TRL's losses, or kto on replies that were judged each by itself (of a pair: both).

    `unpaired`: kto's loss. `desirable_weight`, `undesirable_weight`: what good and bad replies count for in it.
    """

    takes: ClassVar[tuple[str, ...]] = ("pairs", "judged")

    unpaired: Literal["kto", "apo_zero_unpaired"]
    desirable_weight: float = Field(gt=0)
    undesirable_weight: float = Field(gt=0)

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if self.update == "kto" and self.unpaired == "kto" and self.micro_batch < 2:
            remedy = "take 2 or more, or train.unpaired=apo_zero_unpaired"
            yield f"train.micro_batch=1: kto holds each reply against another one beside it; {remedy}"


class DpoEvaluation(Kept):
    """Held-out rows: how often the policy's own reward (beta times its log ratio to the base) is the chosen one's. And its replies to
    held-out dialogues against its base's, as online_dpo has it; `judge` none: not; auto: truth for the embedded models, else none.
    """

    judge: Literal["auto", "none", "truth", "pointwise", "pairwise", "reward"]
    by: JudgeName
    measure: ProgramName | None = None
    histories: int = Field(ge=1)
    final: int = Field(ge=1)
    topics: int = Field(ge=1)
    choosing: int = Field(default=0, ge=0)
    turns: int = Field(ge=1)


class DpoConfig(OfflineConfig):
    """`expertchat dpo`. `partner`: who talks with the model in the held-out dialogues (None: itself); `third`: a model that judges."""

    data: PreferredConfig
    train: PreferTrain
    evaluation: DpoEvaluation
    partner: ModelConfig | None = None
    third: ModelConfig | None = None
    topics: TopicsConfig
    judging: JudgingConfig
    guards: GuardsConfig

    @model_validator(mode="after")
    def _can_judge(self) -> DpoConfig:
        evaluation, problems = self.evaluation, []
        if evaluation.judge == "reward" and evaluation.measure is None:
            problems.append("evaluation.judge=reward: needs a program's measure: set evaluation.measure=length, questions or variety")
        if evaluation.judge != "reward" and evaluation.measure is not None:
            problems.append(f"evaluation.measure={evaluation.measure} needs evaluation.judge=reward, not {evaluation.judge}")
        asks = evaluation.judge in ("pointwise", "pairwise")
        if asks and evaluation.by in ("self", "moving", "reward_model"):
            problems.append(f"evaluation.by={evaluation.by} says nothing that can be compared here: use reference, partner or third")
        if asks and evaluation.by == "third" and self.third is None:
            problems.append("evaluation.by=third needs a third model: add +model@third=NAME")
        if asks and evaluation.by.startswith("partner") and self.partner is None:
            problems.append(f"evaluation.by={evaluation.by} needs a partner: model@partner=NAME")
        if self.topics.source == "models":
            problems.append("topics=models: nobody talks here who could propose some; use topics=list or topics=file")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def beside(self) -> dict[str, ModelConfig]:
        """The partner and the judge of the held-out dialogues."""
        found = {"partner": self.partner, "third": self.third} if self.against_base is not None else {}
        return {key: model for key, model in found.items() if model is not None}

    @property
    def turns(self) -> int:
        """Those of the held-out dialogues."""
        return self.evaluation.turns if self.against_base is not None else 0

    @property
    def against_base(self) -> Against | None:
        """The run as an evaluation of policies sees it; None where the policy does not talk."""
        judge = self.evaluation.judge
        if judge == "auto":
            judge = "truth" if self.model.family == "world" else "none"
        return None if judge == "none" else Against(self, judge)


@dataclass(frozen=True)
class Against:
    """A run of one model that was trained on rows, as expertchat.evaluation.config.Evaluated: POLICY talks with PARTNER."""

    config: DpoConfig
    judge: Literal["truth", "pointwise", "pairwise", "reward"]
    learner: str = POLICY
    trained: tuple[Speaker, ...] = (POLICY,)
    learners: tuple[Speaker, ...] = (POLICY,)

    @property
    def evaluation(self) -> EvaluationConfig:
        own = self.config.evaluation
        return EvaluationConfig(
            every=own.every, histories=own.histories, final=own.final, topics=own.topics, choosing=own.choosing, turns=own.turns,
            judge=self.judge, by=own.by, measure=own.measure, keep_best=own.keep_best,
        )  # fmt: skip

    @property
    def experts(self) -> ExpertsConfig:
        return ExpertsConfig.model_construct(root={POLICY: self.config.model, PARTNER: self.config.partner or self.config.model})

    @property
    def third(self) -> ModelConfig | None:
        return self.config.third

    @property
    def judging(self) -> JudgingConfig:
        return self.config.judging

    @property
    def conversation(self) -> ConversationConfig:
        return ConversationConfig(count=1, turns=self.config.evaluation.turns)

    @property
    def reward(self) -> RewardConfig:
        """Nobody is rewarded: what `judge` reward holds against each other is the measure, and more of it is better."""
        return RewardConfig.model_construct(source=self.program or "judge", sign=1)

    @property
    def program(self) -> str | None:
        return self.config.evaluation.measure

    @property
    def run(self) -> RunConfig:
        return self.config.run
