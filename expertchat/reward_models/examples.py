"""From what is known of texts to rows of training: in which order two texts stand, which rows are the same, which are held out."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, median

from expertchat.backends.base import ValueRequest
from expertchat.config import ConfigError
from expertchat.judging import scored
from expertchat.judging.roles import REWARD_MODEL
from expertchat.lab.models import judgement_of
from expertchat.records import Item
from expertchat.reward_models.config import RewardModelTraining
from expertchat.reward_models.known import Known, of_values
from expertchat.sources.read import cluster_of

SHOWN = 5  # rows that a message names
MOST_OF_ONE = 200  # pairs of texts to one same history, beyond which more say nothing new
Place = tuple[object, ...]


@dataclass(frozen=True)
class Example:
    """A row of training. `requests`: one text with its `value`; of two texts the better one, then the other.

    Of a comparison one request, whose reply is the better one (`value` 1) or the worse one (0).
    """

    requests: tuple[ValueRequest, ...]
    value: float = 1.0


@dataclass(frozen=True)
class Scale:
    """`mean` and `spread` (standard deviation) of the numbers that a regression learns; `bound`: from which number on a text is good."""

    mean: float = 0.0
    spread: float = 1.0
    bound: float = 0.0


@dataclass(frozen=True)
class Parts:
    """What is trained on and what is held out, without a group in both."""

    train: list[Known]
    held_out: list[Known]
    notes: list[str]


def request_of(item: Item, place: int, first: int | None = None) -> ValueRequest:
    """A text of an item as a reward model is shown it by every judge; `first`: the text that stands before it where two are compared."""
    request = scored.request(judgement_of(item, place, REWARD_MODEL, 0, {}, 0, False))
    ahead = None if first is None else item.texts[first].text
    return ValueRequest(f"{item.id}/{place}", request.messages, request.reply, ahead)


def context(item: Item) -> Place:
    """What the texts of an item answer."""
    return item.topic, tuple((turn.speaker, turn.text) for turn in item.turns), item.subject


# -- parts --------------------------------------------------------------------------------------------------------------


def parted(known: Sequence[Known], share: float, seed: int, key: str = "held_out.share") -> Parts:
    """Hold out about a `share` of the items, whole groups of them; groups that answer the same history stay together.

    Raises ConfigError where there is one group alone.
    """
    group_of = _joined(known)
    groups: dict[str, list[Known]] = defaultdict(list)
    for one in known:
        groups[group_of[cluster_of(one.item)]].append(one)
    if len(groups) < 2:
        raise ConfigError(
            f"{key}={share:g}: all {len(known)} items belong to one group ({next(iter(groups))}), and none can be held out; group "
            "them otherwise with source.group=dialogue or item, or name another source with held_out.path"
        )
    order = sorted(groups, key=lambda name: hashlib.sha256(f"{seed} held out {name}".encode("utf-8", "replace")).digest())
    chosen, held = set[str](), 0
    for name in order[:-1]:
        if chosen and held + len(groups[name]) / 2 > share * len(known):
            break
        chosen.add(name)
        held += len(groups[name])
    train = [one for one in known if group_of[cluster_of(one.item)] not in chosen]
    held_out = [one for one in known if group_of[cluster_of(one.item)] in chosen]
    joined = len(set(group_of)) - len(groups)
    notes = [f"{joined} groups answer histories of others, and are held out or trained on together with them"] if joined else []
    return Parts(train, held_out, notes)


def apart(train: Sequence[Known], held_out: Sequence[Known]) -> Parts:
    """Two sources of which one is held out. Raises ConfigError with the rows that are in both."""
    texts = {place for one in train for place in _texts(one.item)}
    both = [one.item.id for one in held_out if any(place in texts for place in _texts(one.item))]
    if both:
        raise ConfigError(
            f"held_out.path: {_rows(both)} also among what is trained on ({len(both)} of {len(held_out)}), so that figures would be too "
            "good; take them out of one of the two, or leave held_out.path away: a share of the groups is held out then"
        )
    histories = {context(one.item) for one in train if one.item.turns}
    shared = sum(context(one.item) in histories for one in held_out)
    notes = [f"held_out.path: {shared} of {len(held_out)} items answer histories that are trained on too, by other texts"] if shared else []
    return Parts(list(train), list(held_out), notes)


def _texts(item: Item) -> list[Place]:
    where = context(item)
    return [(where, text.text) for text in item.texts]


def _answered(item: Item) -> list[Place]:
    """What a group shares with another where it must not be parted from it."""
    return [context(item)] if item.turns else _texts(item)


def _joined(known: Sequence[Known]) -> dict[str, str]:
    """Group -> the first of the groups that answer a history of its own (where nothing was said before: with the same text), over however
    many corners."""
    above: dict[str, str] = {}

    def top(name: str) -> str:
        while above.setdefault(name, name) != name:
            name = above[name]
        return name

    seen: dict[Place, str] = {}
    for one in known:
        name = top(cluster_of(one.item))
        for place in _answered(one.item):
            other = top(seen.setdefault(place, name))
            if other != name:
                above[name] = other
                name = other
    return {name: top(name) for name in above}


def _rows(names: Sequence[str]) -> str:
    shown = list(dict.fromkeys(names))
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return f"{', '.join(shown[:SHOWN])}{more} {'is' if len(shown) == 1 else 'are'}"


# -- one text with its number -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Valued:
    """One text of an item, and its number: the mean of all that are known of it."""

    item: Item
    place: int
    value: float


def valued(known: Iterable[Known]) -> tuple[list[Valued], int]:
    """Every text once, and how often one was there again."""
    found: dict[Place, list[Valued]] = defaultdict(list)
    for one in known:
        for place, (key, value) in enumerate(zip(_texts(one.item), one.values, strict=True)):
            if value is not None:
                found[key].append(Valued(one.item, place, value))
    again = sum(map(len, found.values())) - len(found)
    return [Valued(ones[0].item, ones[0].place, fmean(one.value for one in ones)) for ones in found.values()], again


def spread_of(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation. Raises ConfigError where all are alike."""
    if len(set(values)) < 2:
        raise ConfigError(f"kind=regression: all {len(values)} texts have the number {values[0]:g}, of which nothing can be learnt")
    mean = fmean(values)
    return mean, (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5


def bound_of(values: Sequence[float], threshold: float | None) -> float:
    """From which number on a text is good: the threshold, else just above the median. Raises ConfigError where one class would be empty."""
    middle = median(values)
    bound = threshold if threshold is not None else min((value for value in set(values) if value > middle), default=middle)
    good = sum(value >= bound for value in values)
    if good in (0, len(values)):
        which = "none" if not good else "all"
        remedy = "set another threshold" if threshold is not None else "their numbers are all alike"
        raise ConfigError(f"kind=classification: {which} of {len(values)} texts are good ({bound:g} and above), and one class alone "
                          f"teaches nothing; {remedy} (the numbers go from {min(values):g} to {max(values):g})")  # fmt: skip
    return bound


# -- two texts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preferred:
    """Two texts to one same history, of which `item`'s first or second (`better`, its place) is the better one."""

    item: Item
    better: int


@dataclass(frozen=True)
class Preferences:
    """The pairs, and how many there were besides."""

    pairs: list[Preferred]
    ties: int
    again: int
    against: int  # preferred both ways


def preferences(known: Sequence[Known], min_margin: float = 0.0) -> Preferences:
    """Every pair once: of two texts those that were read as pairs, of single ones each two to one same history."""
    pairs = as_pairs(known, min_margin)
    ties = sum(one.better == "tie" or one.item.texts[0].text == one.item.texts[1].text for one in pairs)
    found: dict[Place, list[Preferred]] = defaultdict(list)
    for one in pairs:
        if one.better in ("first", "second") and one.item.texts[0].text != one.item.texts[1].text:
            key = (context(one.item), frozenset(text.text for text in one.item.texts))
            found[key].append(Preferred(one.item, 0 if one.better == "first" else 1))
    agreed = [ones for ones in found.values() if len({one.item.texts[one.better].text for one in ones}) == 1]
    of_agreed = sum(map(len, agreed))
    against = sum(map(len, found.values())) - of_agreed
    return Preferences([ones[0] for ones in agreed], ties, of_agreed - len(agreed), against)


def as_pairs(known: Sequence[Known], min_margin: float = 0.0) -> list[Known]:
    """What was read as pairs, and of single texts each two to one same history."""
    return [one for one in known if one.item.pair] + _of_single([one for one in known if not one.item.pair], min_margin)


def _of_single(known: Sequence[Known], min_margin: float) -> list[Known]:
    """Texts to one same history, two by two."""
    histories: dict[Place, list[Known]] = defaultdict(list)
    for one in known:
        histories[cluster_of(one.item), context(one.item)].append(one)
    found = []
    for ones in histories.values():
        for one, two in list(combinations(ones, 2))[:MOST_OF_ONE]:
            a, b = one.values[0], two.values[0]
            if a is not None and b is not None:
                both = one.item.model_copy(
                    update={"id": f"{one.item.id}+{two.item.id}", "texts": [one.item.texts[0], two.item.texts[0]], "label": None}
                )
                found.append(of_values(both, (a, b), min_margin))
    return found


def both_ways(pair: Preferred, config: RewardModelTraining) -> list[Example]:
    """A pair as a comparison reads it: in the order that the config names, and with `swap` in the other one too."""
    ahead = first_of(pair.item, config)
    orders = [ahead, 1 - ahead] if config.swap else [ahead]
    return [Example((request_of(pair.item, 1 - first, first),), float(pair.better == 1 - first)) for first in orders]


def first_of(item: Item, config: RewardModelTraining) -> int:
    """The place of the text that stands first. Raises ConfigError where order=system knows neither of two texts, or both."""
    if config.order == "as_read":
        return 0
    if config.order == "drawn":
        return hashlib.sha256(f"{config.run.seed} order {item.id}".encode("utf-8", "replace")).digest()[0] % 2
    own = [place for place, text in enumerate(item.texts) if text.system == config.first]
    if len(own) != 1:
        systems = " and ".join(str(text.system) for text in item.texts)
        raise ConfigError(f"order=system first={config.first}: {item.id} has texts by {systems}; name the system of one of the two")
    return own[0]
