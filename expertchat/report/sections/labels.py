"""What people said: how much each of them did, how fast, and how often they say the same the second time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean, median

from expertchat.evaluation.by_topic import share_of
from expertchat.folder.jsonl import read_records
from expertchat.labels.run import to_read
from expertchat.labels.store import REMEDY, label_files, standing
from expertchat.labels.tasks import Key
from expertchat.records.lab import Label
from expertchat.report.parts import Cell, Figure, Section, Shown
from expertchat.report.shapes import Axis, Row, forest
from expertchat.report.subject import Subject
from expertchat.text.in_words import line

COLUMNS = ("items", "skipped", "seconds an item, median", "asked twice", "the same again", "flagged", "withdrawn or changed")
AGAIN = Axis("answers that are the same again, %", True, 1.0, 0.0, 1.0)
NEAR = 1.0  # points of a rating within which it is the same


def labels(subject: Subject) -> Section | None:
    """The section of all runs beside which labels lie. How well people agree with judges and each other is on the judges' card."""
    rows: dict[str, list[Cell]] = {}
    again: list[Row] = []
    flags: dict[str, Counter[str]] = {}
    for run in subject.runs:
        for path in label_files(to_read(None, [str(run.folder)])):
            told = list(read_records(path, Label, REMEDY))
            who = line(path.parent.name) + (f", {line(subject.name(run))}" if len(subject.runs) > 1 else "")
            own = standing(told)
            twice = same_again(own)
            again.append(_share(who, twice))
            flags[who] = Counter(flag for one in own.values() for flag in one.flags)
            rows[who] = _row(told, own, again[-1])
    if not rows:
        return None
    note = f"Ratings within {NEAR:g} point; 95 % intervals, in which an item is one answer."
    figure = forest("labels-again", "People who say the same a second time", AGAIN, again, note)
    parts: list[Figure | Shown] = [Shown("Who labelled how much", COLUMNS, rows), *([figure] if figure is not None else [])]
    known = sorted({flag for found in flags.values() for flag in found})
    if known:
        parts.append(Shown("Flags", known, {who: [Cell(found[flag]) for flag in known] for who, found in flags.items()}))
    return Section(
        "labels", "Labels by people", ["How well people agree with judges and with each other stands on the judges' card."], parts
    )


def _share(who: str, twice: Sequence[float]) -> Row:
    """What an annotator says again, as a row: several ratings of one item are one answer."""
    n, found = len(twice), share_of(twice, [str(i) for i in range(len(twice))], seed=0)
    return Row(who, found.value, found.low, found.high, n)


def same_again(own: Mapping[Key, Label]) -> list[float]:
    """Of each item that was asked twice and answered both times, which share of the second answers are the first ones."""
    first = {(label.item, label.place): label for key, label in own.items() if not key.again and not label.skipped}
    found = []
    for key, label in own.items():
        same: list[bool] = []
        before = first.get((label.item, label.place))
        if not key.again or label.skipped or before is None:
            continue
        if label.choice is not None and before.choice is not None:
            same.append(label.choice == before.choice)
        both = [
            (value, old) for name, value in label.ratings.items() if value is not None and (old := before.ratings.get(name)) is not None
        ]
        same += [abs(value - old) <= NEAR for value, old in both]
        if same:
            found.append(fmean(same))
    return found


def _row(told: Sequence[Label], own: Mapping[Key, Label], again: Row) -> list[Cell]:
    answered = [label for label in own.values() if not label.skipped]
    seconds = [label.seconds for label in answered if label.seconds > 0]
    return [
        Cell(len({(label.item, label.place) for label in answered})), Cell(sum(label.skipped for label in own.values())),
        Cell(round(median(seconds), 1) if seconds else None), Cell(again.n), Cell(again.value, again.low, again.high),
        Cell(sum(bool(label.flags) for label in answered)), Cell(len(told) - len(own)),
    ]  # fmt: skip
