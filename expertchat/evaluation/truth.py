"""The ground truth of the embedded world: what a reply adds to its dialogue, by the facts themselves and without a judge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict

from expertchat.config import ConfigError, near
from expertchat.records import Turn
from expertchat.world.facts import World, load


class Tally(BaseModel):
    """What is in a reply. `distinct`: true facts that nobody had said; `repeats`: facts said before, in the dialogue or in the reply.

    `wrong`: sentences that claim what is false or of another topic; `claims`: all that claim anything, repeats among them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    distinct: int
    repeats: int
    wrong: int
    claims: int

    @property
    def score(self) -> int:
        """What decides which of two replies is the better one."""
        return self.distinct - self.repeats - self.wrong


def tally(topic: str, turns: Sequence[Turn], reply: str, world: World | None = None) -> Tally:
    """Count a reply to a history. Raises ConfigError for a topic that is not of the world."""
    world = world or load()
    check_topics([topic], world)
    truth = world.read([*(turn.text for turn in turns), reply], topic)[-1]
    wrong = truth.count("wrong") + truth.count("off topic")
    return Tally(distinct=len(truth.facts), repeats=truth.repeats, wrong=wrong, claims=truth.claims)


def check_topics(topics: Iterable[str], world: World | None = None) -> None:
    """Raises ConfigError that names every topic whose truth is not known, with the remedy."""
    known = (world or load()).topics
    remedy = "use topics=embedded, or let a model judge: evaluation=pointwise or evaluation=pairwise"
    unknown = [topic for topic in dict.fromkeys(topics) if topic not in known]
    if unknown:
        raise ConfigError([f"evaluation.judge=truth: nothing is known of {topic!r}{near(topic, known)}; {remedy}" for topic in unknown])
