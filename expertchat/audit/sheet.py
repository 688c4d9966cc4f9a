"""What one judge has said, as arrays: its answers by place, its comparisons of two texts, its ratings, and what it said again.

A sign is 1 for the first text of a comparison, -1 for the second, 0 for a tie. Groups are numbered over all the evidence, so that all
judges are drawn alike.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import numpy
from numpy.typing import NDArray

from expertchat.audit.evidence import Key
from expertchat.records import Item, JudgeRef, Opinion, Text
from expertchat.text.likeness import weight, words

Array = NDArray[Any]
SIGNS = {"first": 1, "second": -1, "tie": 0}
TruthOf = Mapping[Key, float]
"""By item: of a pair the sign of the better text, of one text how good it is."""
WHOLE_CONTEXT = 20  # texts to one same history beyond which not all pairs of them are compared: more say nothing new


@dataclass(frozen=True)
class Compared:
    """Comparisons [M]: `sign` after both orders, `same` where these agreed; the rest is known of the texts. NaN: not known."""

    sign: Array
    same: Array  # bool
    group: Array
    truth: Array  # sign of the better one
    gap: Array  # how much better the first one is, NaN where only the sign is known
    longer: Array  # length of the first minus that of the second
    own: Array  # 1 where the first text is by the judge's own model, -1 the second, 0 neither or both
    alike: Array  # bool: both texts are the same
    systems: list[tuple[str | None, str | None]]

    def __len__(self) -> int:
        return len(self.sign)

    def where(self, chosen: Array) -> Compared:
        arrays = {name: getattr(self, name)[chosen] for name in ("sign", "same", "group", "truth", "gap", "longer", "own", "alike")}
        return replace(self, **arrays, systems=[one for one, take in zip(self.systems, chosen, strict=True) if take])


@dataclass(frozen=True)
class Shown:
    """Answers to one order each [V]: `sign` is 1 where the text that stood first is chosen; `pair` numbers what was compared."""

    sign: Array
    group: Array
    alike: Array
    pair: Array
    balanced: bool  # most pairs have answers in both orders


@dataclass(frozen=True)
class Rated:
    """Numbers of texts [K], the mean over the categories: `value`, with the truth (NaN: not known) and the length of the text. A text that
    lacks the number of a category has none: categories are rated high and low, and a mean over the others would be of something else."""

    value: Array
    group: Array
    truth: Array
    length: Array


@dataclass(frozen=True)
class Sheet:
    """All that one judge has said. `again`: (1 where a repeat says the same, group); `flips`: (1 where the orders disagree, group)."""

    judge: JudgeRef
    asked: int
    unanswered: Array  # 0 or 1 of each opinion
    asked_group: Array
    mass: Array
    mass_group: Array
    seconds: Array
    seconds_group: Array
    compared: Compared
    shown: Shown
    rated: Rated
    numbers: tuple[Array, Array]  # each number that it gave, ratings rounded, and its group
    flips: tuple[Array, Array]
    again: tuple[Array, Array]
    texts: dict[tuple[Key, int], float] = field(default_factory=dict)  # its numbers by text
    choices: dict[Key, float] = field(default_factory=dict)  # its signs by pair


def length_of(items: Mapping[Key, Item]) -> tuple[str, dict[tuple[Key, int], float]]:
    """The unit (tokens where all texts have them, else words) and the length of every text."""
    texts = {(key, place): text for key, item in items.items() for place, text in enumerate(item.texts)}
    if texts and all(text.tokens is not None for text in texts.values()):
        return "tokens", {place: float(text.tokens or 0) for place, text in texts.items()}
    return "words", {place: weight(words(text.text)) for place, text in texts.items()}


def own_of(judge: JudgeRef, text: Text) -> bool:
    """Whether a text is by the judge's own model, or a policy that was trained from it: by the last part of both names.

    >>> systems = ["models/SmolLM2 v3", "HF/SmolLM2 + sft/taught v2", "SmolLM3"]
    >>> [own_of(JudgeRef(id="j", form="pairwise", model="HF/SmolLM2"), Text(text="a", system=one)) for one in systems]
    [True, True, False]
    """
    if judge.model is None or text.system is None:
        return False
    mine, whose = _name(judge.model), _name(text.system)
    return whose == mine or whose.startswith(f"{mine}{LEARNT}")


LEARNT = " + "  # between a model and what it was trained with (expertchat.sources.runs.system_name)


def _name(model: str) -> str:
    """The last part of a model's name, with what it was trained with, and without which policy it is."""
    base, plus, learnt = re.sub(r" v\d+$", "", model).partition(LEARNT)
    return f"{base.rstrip('/').split('/')[-1]}{plus}{learnt}".casefold()


def sheet(
    judge: JudgeRef, items: Mapping[Key, Item], said: Sequence[tuple[Key, Opinion]], truth: TruthOf,
    lengths: Mapping[tuple[Key, int], float], at: Mapping[Key, int], by_truth: bool = True,
) -> Sheet:  # fmt: skip
    """Lay out what one judge has said. `truth`: what it is held against; `by_truth`: that is what is known of each text, not what a label
    or a person says; `at`: the group of each item."""
    choices: dict[tuple[Key, str | None, int], list[Opinion]] = defaultdict(list)
    numbers: dict[tuple[Key, int, int], list[float | None]] = defaultdict(list)
    for key, one in said:
        pairwise = one.choice is not None or (one.order is not None and one.number is None)
        if pairwise:
            choices[key, one.order, one.repeat].append(one)
        else:
            numbers[key, one.place, one.repeat].append(one.number)
    signs = {place: verdict for place, ones in choices.items() if (verdict := _verdict(ones)) is not None}
    values = {place: fmean(known) for place, ones in numbers.items() if len(known := [x for x in ones if x is not None]) == len(ones)}
    texts = {(key, place): value for (key, place, repeat), value in values.items() if repeat == 0}
    rows, chosen = _by_choice(choices, signs)
    rows += _by_number(texts, items, {row[0][0] for row in rows})
    of_all = [(int(not one.answered), at[key], one) for key, one in said]
    given = [(_point(one), group) for _, group, one in of_all if one.number is not None and not one.repeat]
    masses = [(one.mass, group) for _, group, one in of_all if one.mass is not None]
    times = [(one.seconds, group) for _, group, one in of_all if one.seconds is not None]
    return Sheet(
        judge, len(said), _array([row[0] for row in of_all]), _whole([row[1] for row in of_all]),
        _array([row[0] for row in masses]), _whole([row[1] for row in masses]),
        _array([row[0] for row in times]), _whole([row[1] for row in times]),
        _compared(judge, rows, items, truth, lengths, at), _shown(signs, items, at), _rated(texts, items, truth, lengths, at, by_truth),
        (_array([row[0] for row in given]), _whole([row[1] for row in given])), _flips(signs, at),
        _again(choices, signs, values, at), texts, chosen,
    )  # fmt: skip


def _array(values: Sequence[Any]) -> Array:
    return numpy.asarray(values, dtype=float)


def _whole(values: Sequence[int]) -> Array:
    return numpy.asarray(values, dtype=int)


def _verdict(ones: Sequence[Opinion]) -> int | None:
    """The sign of several categories or principles: what is said overall, else what most say. None where nothing is answered."""
    overall = [one for one in ones if one.category == "overall"]
    answers = [SIGNS[one.choice] for one in overall or ones if one.choice is not None]
    return int(numpy.sign(sum(answers))) if answers else None


def _point(one: Opinion) -> float:
    """A rating as the point that it is next to; a score has no points."""
    return float(one.number or 0) if one.score is not None else float(round(one.number or 0))


# -- comparisons ------------------------------------------------------------------------------------------------------------

Place = tuple[Key, int]
Row = tuple[Place, Place, int, bool]  # two texts, the sign, whether both orders agreed
Asked = tuple[Key, "str | None", int]  # a pair, which text stood first, which time
Signs = Mapping[Asked, int]


def _by_choice(choices: Mapping[Asked, object], signs: Signs) -> tuple[list[Row], dict[Key, float]]:
    """What was chosen the first time. A pair whose other order has no answer has no sign; where the orders disagree it is a tie."""
    asked: dict[Key, list[str | None]] = defaultdict(list)
    for key, order, repeat in choices:
        if repeat == 0:
            asked[key].append(order)
    rows: list[Row] = []
    for key, orders in asked.items():
        found = [signs.get((key, order, 0)) for order in orders]
        if None in found:
            continue
        agreed = len(set(found)) == 1
        rows.append(((key, 0), (key, 1), (found[0] or 0) if agreed else 0, agreed))
    return rows, {one[0]: float(sign) for one, _, sign, _ in rows}


def _by_number(texts: Mapping[Place, float], items: Mapping[Key, Item], chosen: set[Key]) -> list[Row]:
    """Texts of a pair, and texts to one same history, compared by their numbers."""
    rows: list[Row] = []
    history: dict[tuple[object, ...], list[Place]] = defaultdict(list)
    for key, item in items.items():
        if item.pair:
            if key not in chosen and (key, 0) in texts and (key, 1) in texts:
                rows.append(((key, 0), (key, 1), int(numpy.sign(texts[key, 0] - texts[key, 1])), True))
        elif not item.whole and (key, 0) in texts:
            history[item.source, item.topic, tuple((turn.speaker, turn.text) for turn in item.turns), item.subject].append((key, 0))
    for places in history.values():
        some = places[:WHOLE_CONTEXT]
        rows += [(one, two, int(numpy.sign(texts[one] - texts[two])), True) for i, one in enumerate(some) for two in some[i + 1 :]]
    return rows


def _compared(
    judge: JudgeRef, rows: Sequence[Row], items: Mapping[Key, Item], truth: TruthOf, lengths: Mapping[Place, float], at: Mapping[Key, int]
) -> Compared:
    """The rows with all that is known of their texts."""
    known: list[tuple[float, ...]] = []
    systems: list[tuple[str | None, str | None]] = []
    for one, two, sign, agreed in rows:
        a, b = items[one[0]].texts[one[1]], items[two[0]].texts[two[1]]
        gap = float("nan") if a.truth is None or b.truth is None else a.truth - b.truth
        if one[0] == two[0]:
            better = truth.get(one[0], float("nan"))
        else:
            better = float(numpy.sign(truth.get(one[0], float("nan")) - truth.get(two[0], float("nan"))))
        own = float(own_of(judge, a)) - float(own_of(judge, b))
        known.append((sign, agreed, at[one[0]], better, gap, lengths[one] - lengths[two], own, a.text == b.text))
        systems.append((a.system, b.system))
    columns = numpy.asarray(known, dtype=float).reshape(-1, 8).T
    sign_, same, group, better_, gap_, longer, own_, alike = columns
    return Compared(sign_, same > 0, group.astype(int), better_, gap_, longer, own_, alike > 0, systems)


def _shown(signs: Signs, items: Mapping[Key, Item], at: Mapping[Key, int]) -> Shown:
    """By the place where a text stood. Repeats are left out: they say how steady a judge is, not more of what it prefers."""
    number = {key: n for n, key in enumerate(dict.fromkeys(key for key, _, _ in signs))}
    rows = [
        (sign if order == "first" else -sign, at[key], items[key].texts[0].text == items[key].texts[1].text, number[key])
        for (key, order, repeat), sign in signs.items()
        if order is not None and repeat == 0
    ]
    pairs = {key for key, order, _ in signs if order is not None}
    both = [key for key in pairs if (key, "first", 0) in signs and (key, "second", 0) in signs]
    columns = numpy.asarray(rows, dtype=float).reshape(-1, 4).T
    return Shown(columns[0], columns[1].astype(int), columns[2] > 0, columns[3].astype(int), 2 * len(both) > len(pairs))


def _flips(signs: Signs, at: Mapping[Key, int]) -> tuple[Array, Array]:
    rows = [
        (float(sign != other), at[key])
        for (key, order, repeat), sign in signs.items()
        if order == "first" and repeat == 0 and (other := signs.get((key, "second", 0))) is not None
    ]
    return _array([row[0] for row in rows]), _whole([row[1] for row in rows])


def _again(
    asked: Collection[Asked], signs: Signs, values: Mapping[tuple[Key, int, int], float], at: Mapping[Key, int]
) -> tuple[Array, Array]:
    """Whether a repeat says what was said the first time: the same choice, a number within half a point. People are shown a pair once at a
    time, perhaps the other way round."""

    def first(key: Key, order: str | None) -> int | None:
        """What was chosen the first time, in this order where it was asked in it."""
        orders = [order] if (key, order, 0) in asked else ["first", "second", None]
        return next((sign for one in orders if (sign := signs.get((key, one, 0))) is not None), None)

    rows = [
        (float(sign == before), at[key])
        for (key, order, repeat), sign in signs.items()
        if repeat > 0 and (before := first(key, order)) is not None
    ]
    rows += [
        (float(abs(value - number) <= 0.5), at[key])
        for (key, place, repeat), value in values.items()
        if repeat > 0 and (number := values.get((key, place, 0))) is not None
    ]
    return _array([row[0] for row in rows]), _whole([row[1] for row in rows])


# -- ratings ----------------------------------------------------------------------------------------------------------------


def _rated(
    texts: Mapping[Place, float], items: Mapping[Key, Item], truth: TruthOf, lengths: Mapping[Place, float], at: Mapping[Key, int],
    by_truth: bool,
) -> Rated:  # fmt: skip
    """The truth of one text of a pair is its own, where it is known and ratings are held against it: a sign, which is all that a label or a
    person says of a pair, says nothing of one text."""
    rows = []
    for place, value in texts.items():
        key, item = place[0], items[place[0]]
        of_text = item.texts[place[1]].truth if by_truth else None
        known = (float("nan") if of_text is None else of_text) if item.pair else truth.get(key, float("nan"))
        rows.append((value, at[key], known, lengths[place]))
    columns = numpy.asarray(rows, dtype=float).reshape(-1, 4).T
    return Rated(columns[0], columns[1].astype(int), columns[2], columns[3])
