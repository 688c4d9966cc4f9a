"""Preference pairs: how far apart the two replies are, in score and in length, and what became of the candidates that made none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from expertchat.evaluation.statistics import wilson
from expertchat.folder.jsonl import read_json
from expertchat.folder.reader import RunReader
from expertchat.records import round_of
from expertchat.report.learning import spread_of
from expertchat.report.parts import Cell, Figure, Section, Shown
from expertchat.report.shapes import Axis, Point, Row, Series, curves, forest, histogram, interval, number, written
from expertchat.report.subject import Subject
from expertchat.report.talk import map_at
from expertchat.report.words import counted
from expertchat.text.in_words import line
from expertchat.text.likeness import weight, words
from expertchat.training.figures import LOST

LONGER = Axis("pairs whose chosen reply is the longer one, %", True, 0.5, 0.0, 1.0)
PLAIN = Axis("")
SIDES = ("chosen", "rejected")
COIN = "Whoever learns nothing but length is right that often; of the pairs whose lengths differ. Wilson's 95 % intervals."


@dataclass(frozen=True)
class Pair:
    """What is shown of a pair. `longer`: tokens of the chosen reply minus the rejected one's; words, where tokens are not known of all."""

    round: int | None
    dialogue: str
    margin: float
    longer: float


@dataclass(frozen=True)
class Made:
    """The pairs of one run."""

    name: str
    run: RunReader
    pairs: Sequence[Pair]
    unit: str

    @property
    def margin(self) -> Row:
        """The mean margin, whole dialogues drawn for its interval."""
        margins = [one.margin for one in self.pairs]
        low, high = spread_of(margins, [one.dialogue for one in self.pairs])
        return Row(self.name, fmean(margins), low, high, len(margins))


def pairs(subject: Subject) -> Section | None:
    """The section of all runs that hold pairs."""
    found = [made for run in subject.runs if (made := read(run, subject.name(run))).pairs]
    if not found:
        return None
    parts: list[Figure | Shown | None] = list(_of_one(found[0]) if len(found) == 1 else _of_several(found))
    parts.append(_lost(found))
    return Section("pairs", "Preference pairs", [_said(one, len(found) > 1) for one in found], [part for part in parts if part is not None])


def read(run: RunReader, name: str) -> Made:
    """The pairs of a run, as far as they are readable."""
    lines = {str(one.get("id")): one for one in run.lines("pairs") if number(one.get("margin")) is not None}
    unit = "tokens" if all(_tokens(one, side) is not None for one in lines.values() for side in SIDES) else "words"
    length = _tokens if unit == "tokens" else _words
    kept = []
    for name_, one in lines.items():
        dialogue = map_at(one, "provenance").get("transcript")  # of rows that were built there is none, and no round
        chosen, rejected = (length(one, side) or 0.0 for side in SIDES)
        place = round_of(str(dialogue)) if dialogue else None
        kept.append(Pair(place, str(dialogue or name_), float(one["margin"]), chosen - rejected))
    return Made(line(name), run, kept, unit)


def _tokens(pair: Mapping[str, Any], side: str) -> float | None:
    """Tokens of a reply, where they were counted; 0 of a reply that says something is not a count."""
    return number(map_at(pair, "provenance").get(f"tokens_{side}")) or (None if _words(pair, side) else 0.0)


def _words(pair: Mapping[str, Any], side: str) -> float:
    """Words of a reply."""
    messages = pair.get(side)
    texts = [str(one.get("content")) for one in messages if isinstance(one, Mapping)] if isinstance(messages, list) else []
    return float(weight(words("\n".join(texts))))


def longer(found: Sequence[Pair], name: str = "") -> Row:
    """How often the chosen reply is the longer one, of those that differ."""
    more, differ = sum(one.longer > 0 for one in found), sum(one.longer != 0 for one in found)
    return Row(name, more / differ, *wilson(more, differ), differ) if differ else Row(name, None, n=0)


def _said(made: Made, several: bool) -> str:
    size, margin = longer(made.pairs), made.margin
    share = "all are of one length"
    if size.value is not None:
        span = interval(size.low, size.high, LONGER)
        share = f"the chosen reply is the longer one in {100 * size.value:.1f} %{span} of the {size.n:,} that differ"
    dialogues = len({one.dialogue for one in made.pairs})
    mean = f"mean margin {written(margin.value, PLAIN)}{interval(margin.low, margin.high, PLAIN)}"
    return f"{made.name}: " * several + f"{counted(len(made.pairs), 'pair')} of {dialogues:,} dialogues or texts, {mean}; {share}."


# -- figures ----------------------------------------------------------------------------------------------------------------


def _of_one(made: Made) -> list[Figure | None]:
    by_round: dict[int, list[Pair]] = {}
    for one in made.pairs:
        if one.round is not None:
            by_round.setdefault(one.round, []).append(one)
    points = [Point(place, row.value, row.low, row.high) for place, found in sorted(by_round.items()) for row in (longer(found),)]
    longer_by_round = curves("pairs-longer", "Pairs whose chosen reply is the longer one", "round", Axis("pairs", True, 0.5, 0.0, 1.0),
                             [Series("", points)], COIN)  # fmt: skip
    if longer_by_round is None:
        longer_by_round = forest("pairs-longer", "The longer reply is chosen", LONGER, [longer(made.pairs, "all")], COIN)
    margins, lengths = [one.margin for one in made.pairs], [one.longer for one in made.pairs]
    return [
        histogram("pairs-margin", "Margins of the pairs", Axis("margin"), "pairs", margins, "Dashed: the median."),
        histogram("pairs-length", "By how much the chosen reply is longer", Axis(made.unit, at=0.0), "pairs", lengths,
                  "Dashed: the median; solid: no difference."),
        longer_by_round,
    ]  # fmt: skip


def _of_several(found: Sequence[Made]) -> list[Figure | None]:
    return [
        forest("pairs-margin", "Mean margin of the pairs", Axis("margin", at=0.0), [one.margin for one in found],
               "Lines: 95 % intervals, whole dialogues drawn. Rewards of different kinds have different scales."),
        forest("pairs-longer", "The longer reply is chosen", LONGER, [longer(one.pairs, one.name) for one in found], COIN),
    ]  # fmt: skip


def _lost(found: Sequence[Made]) -> Shown | None:
    """What kept candidates from being trained on: the rounds' own counts, or those of a data set's card."""
    counts: dict[str, dict[str, int]] = {}
    for made in found:
        of_run: Counter[str] = Counter()
        for metrics in made.run.metrics():
            if metrics.kind == "round":
                of_run.update({said: int(n) for key, said in LOST.items() if (n := number(metrics.figures.get(key)))})
        card = read_json(made.run.folder / "card.json") or {}
        for key in ("dropped", "attempts"):
            inner = card.get(key)
            inner = inner.get("not_taken") if key == "attempts" and isinstance(inner, Mapping) else inner
            of_run.update({line(str(why)): int(n) for why, n in inner.items() if number(n)} if isinstance(inner, Mapping) else {})
        for why, n in of_run.items():
            counts.setdefault(why, {})[made.name] = n
    ordered = sorted(counts.items(), key=lambda one: -sum(one[1].values()))
    rows = {why: [Cell(by.get(made.name, 0)) for made in found] for why, by in ordered}
    return Shown("What no pair was made of", [made.name for made in found], rows) if rows else None
