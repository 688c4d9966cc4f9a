"""Which topics a run is trained on and which are held out, known before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from expertchat.config import ConfigError
from expertchat.evaluation.truth import check_topics
from expertchat.judging.fits import check_references
from expertchat.records import Topic
from expertchat.training.config import OnlineConfig
from expertchat.training.single import given as given_of


def part(topics: Sequence[Topic], config: OnlineConfig) -> tuple[list[Topic], list[Topic]]:
    """(topics that are trained on, topics held out). Raises ConfigError where nothing would be left to train on."""
    held = config.evaluation.topics
    if len(topics) <= held:
        what = "topics" if config.prompts.file is None else "prompts"
        raise ConfigError(
            f"evaluation.topics={held} of {len(topics)} {what} are held out, so none is left to train on; give more {what} or lower it"
        )
    return (list(topics), list(topics)) if not held else (list(topics[:-held]), list(topics[-held:]))


def check_given(config: OnlineConfig) -> None:
    """Raise ConfigError for given topics that cannot be read, trained on or evaluated on."""
    if config.topics.source != "models" or config.prompts.file is not None:
        given = given_of(config)
        trained, held_out = part(given, config)
        judged = given if config.evaluation.asks else trained
        if config.reward.judged(config.judging) or config.evaluation.asks:
            check_references(config.judging, [topic.text for topic in judged])
        if config.evaluation.judge == "truth":
            check_topics(topic.text for topic in held_out)
