"""The config of `expertchat converse`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from expertchat.backends.served.config import ServerConfig
from expertchat.config import (
    ALTERNATE,
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
    TopicsConfig,
)
from expertchat.judging.fits import judging_problems
from expertchat.records import Speaker
from expertchat.trackers.config import ReportTo


def talk_problems(experts: ExpertsConfig, conversation: ConversationConfig, moderator: ModelConfig | None) -> list[str]:
    """What is wrong with who talks when."""
    found, opener, order = list[str](), conversation.opener, conversation.order
    if opener != ALTERNATE and opener not in experts.seats:
        found.append(f"conversation.opener={opener}: is no expert; take {ALTERNATE}, or one of {', '.join(experts.seats)}")
    if order == "moderator" and moderator is None:
        found.append("conversation.order=moderator needs a model that picks who is next: add +model@moderator=NAME")
    elif order == "moderator" and moderator is not None and not moderator.prompts.moderate:
        found.append(
            f"conversation.order=moderator: the wordings of the moderator (family {moderator.family}) have no `moderate`; the embedded "
            "models were not trained to moderate: take another model, or conversation.order=round_robin or random"
        )
    elif moderator is not None and order != "moderator":
        found.append(f"moderator: nobody asks it with conversation.order={order}; add conversation.order=moderator, or take it away")
    return found


class PartConversationConfig(ConversationConfig):
    """`part` [i, n]: only the dialogues whose index % n == i, one of n tasks of an array; ids, topics, seeds are those of the whole run."""

    part: Annotated[list[int], Field(min_length=2, max_length=2)] | None = None

    @model_validator(mode="after")
    def _is_a_part(self) -> PartConversationConfig:
        if self.part is not None:
            i, n = self.part
            if not 0 <= i < n:
                raise ValueError(f"part={self.part} is [i, n], the i-th of n parts counted from 0: take 0 <= i < n")
            if n > self.count:
                raise ValueError(f"part={self.part} has more parts than there are dialogues (count={self.count}): take fewer parts")
        return self


class TableConfig(Group):
    """Of a person at the table: `seconds` for a turn (None: no limit). `guess`: whether everybody is asked afterwards who of the others was
    a human; auto: where a person sits there. `rate`: whether a person who sits where a judge does is asked for ratings (auto), or not."""

    guess: Literal["auto", "always", "never"] = "auto"
    rate: Literal["auto", "never"] = "auto"
    seconds: float | None = Field(default=None, gt=0)


class BranchConfig(Group):
    """Where a dialogue goes on from: the first `turns` turns of a `dialogue` of another `run`, the last of them as `edited` (None: as it
    was). `expertchat branch` writes it."""

    run: Text
    dialogue: Text
    turns: int = Field(ge=1)
    edited: Text | None = None


class ConverseConfig(Group):
    """`expertchat converse`. `models_dir`: the folder that holds one folder for each model."""

    models_dir: Text | None = None
    run: RunConfig
    view: Literal["live", "plain", "none", "step"]
    report_to: ReportTo
    show_thinking: bool = False
    experts: ExpertsConfig
    third: ModelConfig | None = None
    moderator: ModelConfig | None = None
    conversation: PartConversationConfig
    table: TableConfig = Field(default_factory=TableConfig)
    branch: BranchConfig | None = None
    topics: TopicsConfig
    judging: JudgingConfig
    reward_model: RewardModelConfig | None = None
    embedder: EmbedderConfig
    engine: EngineConfig
    server: ServerConfig = ServerConfig()

    @property
    def judge_names(self) -> set[JudgeName]:
        """Who judges."""
        return set(self.judging.judges)

    @property
    def embeds(self) -> bool:
        """Whether anything is embedded."""
        return self.topics.source == "models" or (self.judging.wim.enabled and self.judge_names != {"reward_model"})

    @property
    def people(self) -> set[Speaker]:
        """The seats in which a person sits."""
        return {seat for seat, model in self.experts.items() if model.backend == "human"}

    @property
    def unasked(self) -> set[Speaker]:
        """Those of them who are not asked for ratings."""
        return self.people if self.table.rate == "never" else set()

    @property
    def guesses(self) -> bool:
        """Whether everybody is asked who of the others was a human."""
        return self.table.guess == "always" or (self.table.guess == "auto" and bool(self.people))

    @property
    def seated(self) -> bool:
        """Whether somebody types while it runs."""
        return bool(self.people) or self.view == "step"

    @model_validator(mode="after")
    def _people(self) -> ConverseConfig:
        problems = [
            f"{name}.backend=human: a person sits among the experts alone"
            for name, model in (("third", self.third), ("moderator", self.moderator))
            if model is not None and model.backend == "human"
        ]
        if self.people == set(self.experts.seats):
            problems.append("experts: a person sits in every seat, and no model is left to talk with; set backend=local for one of them")
        if self.table.seconds is not None and not self.people:
            problems.append(f"table.seconds={self.table.seconds:g}: nobody types a turn; set experts.NAME.backend=human, or leave it away")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @model_validator(mode="after")
    def _turns(self) -> ConverseConfig:
        if problems := talk_problems(self.experts, self.conversation, self.moderator):
            raise ValueError("\n".join(problems))
        return self

    @model_validator(mode="after")
    def _judges(self) -> ConverseConfig:
        problems = judging_problems(self.judging, self, self.judging.judges, self.experts.seats)
        if self.judging.references is not None and self.topics.source == "models":
            problems.append("judging.references needs topics that are known before: use topics=list or topics=file")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @model_validator(mode="after")
    def _part(self) -> ConverseConfig:
        if self.conversation.part is not None and self.topics.source == "models":
            raise ValueError(
                "conversation.part with topics=models: a proposed topic depends on those before it, so the parts would not agree on them; "
                "use topics=list or topics=file (the topics.jsonl of a run is such a file), or give each task a seed of its own"
            )
        return self
