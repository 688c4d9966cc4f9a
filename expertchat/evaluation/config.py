"""How a policy is evaluated, and what an evaluation asks of the run that it belongs to."""

from __future__ import annotations

from typing import Literal, Protocol

from pydantic import Field

from expertchat.config import ConversationConfig, ExpertsConfig, Group, JudgeName, JudgingConfig, ModelConfig, RunConfig
from expertchat.preferences.config import ProgramName, RewardConfig
from expertchat.records import Speaker


class EvaluationConfig(Group):
    """Policy against its base on held-out topics, every `every` rounds (0: only before and after) and at the end.

    `histories` dialogues before a reply of the learner, `final` of them at the end; `topics`: how many are held out, and `choosing`: by how
    many others the checkpoint is chosen (0: by the same; the embedded world has a part for it). `rewarded`: how many of the final
    replies the judges of training judge, too. `judge` truth needs the embedded world; pointwise and pairwise ask the judge `by`, which is
    never the one that learns; reward holds the replies against each other by the program `measure` (None: that of reward.source), in the
    direction of reward.sign.
    """

    every: int = Field(ge=0)
    histories: int = Field(ge=1)
    final: int = Field(ge=1)
    topics: int = Field(ge=0)
    choosing: int = Field(default=0, ge=0)
    rewarded: int = Field(default=0, ge=0)
    turns: int = Field(ge=1)  # of a history at most
    judge: Literal["truth", "pointwise", "pairwise", "reward"]
    by: JudgeName
    measure: ProgramName | None = None
    keep_best: bool  # the run's adapter is that of the best evaluation, else that of the last round

    @property
    def asks(self) -> bool:
        """Whether a model judges."""
        return self.judge in ("pointwise", "pairwise")


class Evaluated(Protocol):
    """A run whose policies are evaluated: what an evaluation needs to know of its config."""

    @property
    def evaluation(self) -> EvaluationConfig: ...

    @property
    def experts(self) -> ExpertsConfig: ...

    @property
    def third(self) -> ModelConfig | None: ...

    @property
    def learner(self) -> str: ...

    @property
    def trained(self) -> tuple[Speaker, ...]:
        """At whose turns a policy learns."""
        ...

    @property
    def learners(self) -> tuple[Speaker, ...]:
        """Whose policy is evaluated: each set of trained weights once."""
        ...

    @property
    def conversation(self) -> ConversationConfig: ...

    @property
    def judging(self) -> JudgingConfig: ...

    @property
    def reward(self) -> RewardConfig: ...

    @property
    def program(self) -> ProgramName | None:
        """What a program measures in the replies, for the reward or for the evaluation."""
        ...

    @property
    def run(self) -> RunConfig: ...
