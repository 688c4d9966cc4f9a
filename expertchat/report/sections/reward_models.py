"""Reward models: how they learnt from epoch to epoch, and what they do on what is held out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from expertchat.folder.reader import RunReader
from expertchat.records import Metrics
from expertchat.report.parts import Cell, Figure, Section, Shown
from expertchat.report.shapes import Axis, Point, Row, Series, curves, forest, interval, number, written
from expertchat.report.subject import Subject
from expertchat.reward_models.card import SHOWN
from expertchat.text.in_words import line

RIGHT = Axis("pairs ordered rightly", True, 0.5, 0.0, 1.0)
TYPES = Axis("types named rightly", True, None, 0.0, 1.0)  # how often one is right by chance depends on how many there are
GROUPS = "95 % intervals, whole groups drawn."
CANNOT = "The best epoch was chosen by the same held-out items, which makes its figures a little too good."


def reward_models(subject: Subject) -> Section | None:
    """The section of all runs that make a judge of a model."""
    found = {line(subject.name(run)): run for run in subject.runs if run.makes_judge}
    epochs = {name: sorted({one.id: one for one in run.metrics()}.values(), key=lambda one: one.round) for name, run in found.items()}
    if not any(epochs.values()):
        return None
    several, right = len(found) > 1, TYPES if all(_of_types(run) for run in found.values()) else RIGHT
    figures = {name: run.summary.get("figures") or _latest(epochs[name]) for name, run in found.items()}
    lead = [*(said for name, run in found.items() if (said := _said(name if several else "", run, figures[name]))), CANNOT]
    rows = {title: [_cell(figures[name], key) for name in found] for title, key, _ in SHOWN}
    rows = {title: cells for title, cells in rows.items() if any(cell.value is not None for cell in cells)}
    parts: list[Figure | Shown | None] = [
        Shown("On what was held out", list(found), rows, note=GROUPS.capitalize()),
        forest("reward_models-accuracy", f"Held out: {right.label}", right,
               [Row(name, *_three(one, "accuracy"), n=_count(one)) for name, one in figures.items()], GROUPS) if several else None,
        curves("reward_models-accuracy_by_epoch", f"Held out: {right.label}, by epoch", "epoch", right,
               [Series(name, _points(own, "accuracy")) for name, own in epochs.items()], f"Bars: {GROUPS} Epoch 0: before training."),
        curves("reward_models-truth_by_epoch", "The same against the truth", "epoch", RIGHT,
               [Series(name, _points(own, "truth_accuracy")) for name, own in epochs.items()], f"Bars: {GROUPS}"),
        *_losses(epochs),
    ]  # fmt: skip
    return Section("reward_models", "Reward models", lead, [part for part in parts if part is not None])


def _losses(epochs: Mapping[str, list[Metrics]]) -> list[Figure | None]:
    """Of one model training and held-out loss in one figure; of several one for each."""
    if len(epochs) == 1:
        own = next(iter(epochs.values()))
        series = [Series("training", _points(own, "train_loss")), Series("held out", _points(own, "loss"))]
        return [curves("reward_models-loss", "Loss", "epoch", Axis("loss", low=0.0), series)]
    note = "Losses of different kinds of models are different things."
    found = []
    for key, title in (("train_loss", "Loss in training"), ("loss", "Loss on what is held out")):
        series = [Series(name, _points(own, key)) for name, own in epochs.items()]
        found.append(curves(f"reward_models-{key}", title, "epoch", Axis("loss", low=0.0), series, note))
    return found


def _points(own: list[Metrics], key: str) -> list[Point]:
    return [Point(one.round, *_three(one.figures, key)) for one in own]


def _three(figures: Mapping[str, Any], key: str) -> tuple[float | None, float | None, float | None]:
    return number(figures.get(key)), number(figures.get(f"{key}_low")), number(figures.get(f"{key}_high"))


def _cell(figures: Mapping[str, Any], key: str) -> Cell:
    return Cell(*_three(figures, key))


def _count(figures: Mapping[str, Any]) -> int | None:
    return None if (n := number(figures.get("n"))) is None else int(n)


def _latest(own: list[Metrics]) -> Mapping[str, Any]:
    """Of a run that is not at its end, the last epoch."""
    return own[-1].figures if own else {}


def _said(name: str, run: RunReader, figures: Mapping[str, Any]) -> str:
    value, low, high = _three(figures, "accuracy")
    if value is None:
        return ""
    n, base = _count(figures), line(str(run.summary.get("base") or run.config.get("path") or "a model"))
    share = f"{written(value, RIGHT)}{interval(low, high, RIGHT)} of {f'{n:,} ' if n else ''}held-out"
    what = "texts are given their type" if _of_types(run) else "comparisons are ordered rightly"
    return f"{name}: " * bool(name) + f"from {base}, {share} {what}."


def _of_types(run: RunReader) -> bool:
    return run.summary.get("target", run.config.get("target")) == "type" or run.config.get("kind") == "types"
