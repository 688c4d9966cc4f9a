"""The three parts of topics: to train on, to choose the checkpoint by, held out until the end. No topic is in two of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from expertchat.records import Topic
from expertchat.text.written import topic_key
from expertchat.world.facts import load


class Parts(NamedTuple):
    """`choose` is empty where checkpoints are chosen on the topics that are held out, by other histories."""

    train: list[Topic]
    choose: list[Topic]
    held_out: list[Topic]


def parts_of(topics: Sequence[Topic], held: int, choosing: int) -> Parts:
    """Topics of the embedded world by its own parts, where all three are among them; of any others the last `held` are held out, and the
    `choosing` before them choose. Of the world's part at most `held` are held out, and all of its own choose. With held=0 all are all.

    A topic that comes again (also in other letters: Tides) is one topic: what is held out is trained on nowhere.
    """
    if not held:
        return Parts(list(topics), [], list(topics))
    return _of_world(topics, held) or _of_others(topics, held, choosing)


def _of_others(topics: Sequence[Topic], held: int, choosing: int) -> Parts:
    known: dict[str, Topic] = {}
    for topic in topics:
        known.setdefault(topic_key(topic.text), topic)
    once = list(known.values())
    held_out, choose = once[-held:], once[-held - choosing : -held]
    away = {topic_key(topic.text) for topic in (*choose, *held_out)}
    return Parts([topic for topic in topics if topic_key(topic.text) not in away], choose, held_out)


def _of_world(topics: Sequence[Topic], held: int) -> Parts | None:
    world = load()
    if any(topic.text not in world.topics for topic in topics):
        return None
    train, choose, held_out = ([topic for topic in topics if topic.text in world.part(name)] for name in ("train", "choose", "held_out"))
    return Parts(train, choose, held_out[:held]) if train and choose and held_out else None
