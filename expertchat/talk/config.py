"""The config of `expertchat converse`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

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


class ConverseConfig(Group):
    """`expertchat converse`. `models_dir`: the folder that holds one folder for each model."""

    models_dir: Text | None = None
    run: RunConfig
    view: Literal["live", "plain", "none"]
    report_to: ReportTo
    show_thinking: bool = False
    experts: ExpertsConfig
    third: ModelConfig | None = None
    moderator: ModelConfig | None = None
    conversation: PartConversationConfig
    topics: TopicsConfig
    judging: JudgingConfig
    reward_model: RewardModelConfig | None = None
    embedder: EmbedderConfig
    engine: EngineConfig

    @property
    def judge_names(self) -> set[JudgeName]:
        """Who judges."""
        return set(self.judging.judges)

    @property
    def embeds(self) -> bool:
        """Whether anything is embedded."""
        return self.topics.source == "models" or (self.judging.wim.enabled and self.judge_names != {"reward_model"})

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
