"""What a run needs loaded, from its config alone: said once, for the loading, the memory plan and the checks before a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expertchat.config import ModelConfig
from expertchat.talk.config import ConverseConfig

if TYPE_CHECKING:
    from expertchat.training.config import OnlineDpoConfig

    CastConfig = ConverseConfig | OnlineDpoConfig


def seats_of(config: CastConfig) -> dict[str, ModelConfig]:
    """The models that a run needs, by seat."""
    seats = dict(config.experts.items())
    if config.third is not None and "third" in judges_of(config):
        seats["third"] = config.third
    if config.moderator is not None:
        seats["moderator"] = config.moderator
    return seats


def judges_of(config: CastConfig) -> set[str]:
    """Who judges: in the run, unless its rewards ask nobody, and in its evaluations."""
    if isinstance(config, ConverseConfig):
        return {config.judging.judge}
    judging = {config.judging.judge} if config.reward.source == "judge" else set()
    return judging | ({config.evaluation.by} if config.evaluation.asks else set())


def wants_embedder(config: CastConfig) -> bool:
    """Whether anything is embedded: WIM texts, topics that models propose, the sentences that a penalty for repeats compares."""
    if config.topics.source == "models":
        return True
    if isinstance(config, ConverseConfig):
        return config.judging.wim.enabled
    reward = config.reward
    return (reward.source == "judge" and config.judging.wim.enabled) or (reward.source != "random" and reward.repeat_penalty > 0)


def model_paths(config: CastConfig) -> list[str]:
    """The models' paths, by which the embedder is chosen; a merged model of the embedded world counts as embedded."""
    return ["embedded:" if model.family == "world" else model.path for model in seats_of(config).values()]
