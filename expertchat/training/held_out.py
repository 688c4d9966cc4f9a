"""Which topics a run is trained on, which choose its checkpoint and which are held out, known before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from expertchat.config import ConfigError
from expertchat.evaluation.parts import Parts, parts_of
from expertchat.evaluation.truth import check_topics
from expertchat.judging.fits import check_references
from expertchat.records import Topic
from expertchat.training.config import OnlineConfig
from expertchat.training.single import given as given_of


def part(topics: Sequence[Topic], config: OnlineConfig) -> Parts:
    """The topics to train on, to choose by and held out. Raises ConfigError where nothing would be left to train on."""
    held, choosing = config.evaluation.topics, config.evaluation.choosing
    found = parts_of(topics, held, choosing)
    if not found.train:
        what = "topics" if config.prompts.file is None else "prompts"
        more = f" and evaluation.choosing={choosing} others choose the checkpoint" if choosing else ""
        said = f"evaluation.topics={held} of {len(topics)} {what} are held out{more}, so none is left to train on"
        raise ConfigError(f"{said}; give more {what} or lower it")
    return found


def check_given(config: OnlineConfig) -> None:
    """Raise ConfigError for given topics that cannot be read, trained on or evaluated on."""
    if config.topics.source != "models" or config.prompts.file is not None:
        given = given_of(config)
        parts = part(given, config)
        judged = given if config.evaluation.asks or config.evaluation.rewarded else parts.train
        if config.asks_judges or config.evaluation.asks:
            check_references(config.judging, [topic.text for topic in judged])
        if config.evaluation.judge == "truth":
            check_topics(topic.text for topic in (*parts.choose, *parts.held_out))
