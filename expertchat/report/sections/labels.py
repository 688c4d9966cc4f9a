"""What people said: how much each of them did, how fast, and how often they say the same the second time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

from expertchat.evaluation.statistics import wilson
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
            again.append(Row(who, sum(twice) / len(twice), *wilson(sum(twice), len(twice)), len(twice)) if twice else Row(who, None, n=0))
            flags[who] = Counter(flag for one in own.values() for flag in one.flags)
            rows[who] = _row(told, own, again[-1])
    if not rows:
        return None
    figure = forest(
        "labels-again", "People who say the same a second time", AGAIN, again, f"Ratings within {NEAR:g} point; Wilson's 95 % intervals."
    )
    parts: list[Figure | Shown] = [Shown("Who labelled how much", COLUMNS, rows), *([figure] if figure is not None else [])]
    known = sorted({flag for found in flags.values() for flag in found})
    if known:
        parts.append(Shown("Flags", known, {who: [Cell(found[flag]) for flag in known] for who, found in flags.items()}))
    return Section(
        "labels", "Labels by people", ["How well people agree with judges and with each other stands on the judges' card."], parts
    )


def same_again(own: Mapping[Key, Label]) -> list[bool]:
    """Of each item that was asked twice and answered both times, whether the second answer is the first one."""
    first = {(label.item, label.place): label for key, label in own.items() if not key.again and not label.skipped}
    found = []
    for key, label in own.items():
        before = first.get((label.item, label.place))
        if not key.again or label.skipped or before is None:
            continue
        if label.choice is not None and before.choice is not None:
            found.append(label.choice == before.choice)
        both = [
            (value, old) for name, value in label.ratings.items() if value is not None and (old := before.ratings.get(name)) is not None
        ]
        found += [abs(value - old) <= NEAR for value, old in both]
    return found


def _row(told: Sequence[Label], own: Mapping[Key, Label], again: Row) -> list[Cell]:
    answered = [label for label in own.values() if not label.skipped]
    seconds = [label.seconds for label in answered if label.seconds > 0]
    return [
        Cell(len({(label.item, label.place) for label in answered})), Cell(sum(label.skipped for label in own.values())),
        Cell(round(median(seconds), 1) if seconds else None), Cell(again.n), Cell(again.value, again.low, again.high),
        Cell(sum(bool(label.flags) for label in answered)), Cell(len(told) - len(own)),
    ]  # fmt: skip
