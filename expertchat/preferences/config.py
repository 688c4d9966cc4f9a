"""What candidates, rewards and pairs are set to be. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field

from expertchat.config import Group, JudgeName, JudgingConfig, Text
from expertchat.preferences.functions import asks_judges
from expertchat.text.measures import PROGRAMS

if TYPE_CHECKING:
    ProgramName = str
    SourceName = str
else:  # whatever is registered can be named
    ProgramName = Literal[tuple(PROGRAMS)]
    SourceName = Literal["judge", "random", ProgramName]


class CandidateJudging(JudgingConfig):
    """How candidates are judged: as in a conversation, by judges whose weights are named exactly."""

    allowed: ClassVar[tuple[str, ...]] = get_args(JudgeName)


class CandidatesConfig(Group):
    """At every turn of a learner the actor samples `count` replies; the dialogue continues with one of them."""

    count: int = Field(ge=2, le=64)
    continue_with: Literal["best", "first", "random"]
    opening: bool  # whether the opening turn of a dialogue is trained too


class RewardConfig(Group):
    """What becomes of the judgements, or what stands in their place. `source` random and `wim` shuffled are controls, `sign` -1 is one too.

    The other sources are measured by a program (expertchat.text.measures): then no judge is asked. `functions`: in the place of `source`,
    what several reward functions say (expertchat.preferences.functions), weighed by `weights` (None: each counts 1) and added up.
    """

    source: SourceName
    functions: Annotated[list[Text], Field(default_factory=list)]
    weights: list[float] | None = None
    wim: Literal["own", "shuffled"]  # shuffled: each reply is scored with the WIM response to another reply of the round
    sign: Literal[1, -1]
    dialogue_weight: float = Field(ge=0)  # of the whole dialogue's reward (less the round's mean), for the replies that it went on with
    length_penalty: float = Field(ge=0)  # taken off for every 100 new tokens of a reply
    repeat_penalty: float = Field(ge=0)  # taken off for every sentence of a reply that says again what was said before
    repeat_cosine: float = Field(gt=0, le=1)  # how close the embeddings of two sentences are that say the same

    @property
    def kind(self) -> str:
        """Where rewards come from: judge, random, a program's name, or functions."""
        return "functions" if self.functions else self.source

    def judged(self, judging: JudgingConfig) -> bool:
        """Whether judges are asked."""
        return asks_judges(self.functions, judging) if self.functions else self.source == "judge"


class PairsConfig(Group):
    """best_worst: one pair a history; all: every two candidates; length_matched: the largest margin among those of like length.

    A pair whose margin is below `min_margin` is a tie and dropped. `max_lag`: pairs of a policy more versions back are refused.
    """

    mode: Literal["best_worst", "all", "length_matched"]
    min_margin: float = Field(ge=0)
    length_ratio: float = Field(ge=1)  # length_matched: the longer reply has at most this many times the tokens of the shorter
    max_lag: int = Field(ge=0)
    cut: Literal["no_end", "drop"]  # replies cut by the token limit: trained as far as they go, without an end; or in no pair


TYPE = "type"


@dataclass(frozen=True)
class Rules:
    """What is needed to know of a run's config to sample candidates, to have them judged and to score them; `seed` is that of the run."""

    candidates: CandidatesConfig
    judging: CandidateJudging
    reward: RewardConfig
    seed: int
    # Of single prompts: by the prompt, the other cells of its row; what kind of reply it asks for under TYPE.
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
