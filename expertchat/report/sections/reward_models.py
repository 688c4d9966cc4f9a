"""Reward models: how they learnt from epoch to epoch, and what they do on what is held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from expertchat.folder.reader import RunReader
from expertchat.records import Metrics
from expertchat.report.parts import Cell, Figure, Section, Shown
from expertchat.report.shapes import Axis, Point, Row, Series, curves, forest, interval, number, written
from expertchat.report.subject import Subject
from expertchat.reward_models.card import SHOWN, titled
from expertchat.reward_models.config import TYPES
from expertchat.text.in_words import line

RIGHT = Axis("pairs ordered rightly", True, 0.5, 0.0, 1.0)
NAMED = Axis("types named rightly", True, None, 0.0, 1.0)
TYPE = "accuracy_"  # before a type: how many of its texts are named rightly
GROUPS = "95 % intervals, whole groups drawn."
CANNOT = "The best epoch was chosen by the same held-out items, which makes its figures a little too good."


def reward_models(subject: Subject) -> Section | None:
    """The section of all runs that make a judge of a model: those that order texts, then those that name the type of a text."""
    every = {line(subject.name(run)): run for run in subject.runs if run.makes_judge}
    several, lead, parts = len(every) > 1, list[str](), list[Figure | Shown]()
    for typed in (False, True):
        found = {name: run for name, run in every.items() if (run.config.get("kind") == TYPES) is typed}
        said, shown = _of_kind(found, several, typed)
        lead, parts = [*lead, *said], [*parts, *shown]
    return Section("reward_models", "Reward models", [*lead, CANNOT], parts) if parts else None


def _of_kind(found: Mapping[str, RunReader], several: bool, typed: bool) -> tuple[list[str], list[Figure | Shown]]:
    """What is said and shown of runs whose figures mean the same."""
    epochs = {name: sorted({one.id: one for one in run.metrics()}.values(), key=lambda one: one.round) for name, run in found.items()}
    if not any(epochs.values()):
        return [], []
    figures = {name: run.summary.get("figures") or _latest(epochs[name]) for name, run in found.items()}
    coins = {number(one.get("coin")) for one in figures.values()}
    right = replace(NAMED, at=coins.pop() if len(coins) == 1 else None) if typed else RIGHT
    what, of = right.label[0].upper() + right.label[1:], "-types" if typed else ""
    lead = [said for name, run in found.items() if (said := _said(name if several else "", run, figures[name], typed))]
    kept = [(titled(title, typed), key) for title, key, _ in SHOWN]
    kept += [(f"of the type {line(key.removeprefix(TYPE))}", key) for key in dict.fromkeys(key for one in figures.values() for key in one)
             if typed and key.startswith(TYPE) and not key.endswith(("_low", "_high"))]  # fmt: skip
    rows = {title: [_cell(figures[name], key) for name in found] for title, key in kept}
    rows = {title: cells for title, cells in rows.items() if any(cell.value is not None for cell in cells)}
    parts: list[Figure | Shown | None] = [
        Shown("On what was held out", list(found), rows, note=GROUPS.capitalize()),
        forest(f"reward_models{of}-accuracy", f"{what}, of what is held out", right,
               [Row(name, *_three(one, "accuracy"), n=_count(one)) for name, one in figures.items()], GROUPS) if len(found) > 1 else None,
        curves(f"reward_models{of}-accuracy_by_epoch", f"{what}, by epoch", "epoch", right,
               [Series(name, _points(own, "accuracy")) for name, own in epochs.items()], f"Bars: {GROUPS} Epoch 0: before training."),
        curves(f"reward_models{of}-truth_by_epoch", "The same against the truth", "epoch", right,
               [Series(name, _points(own, "truth_accuracy")) for name, own in epochs.items()], f"Bars: {GROUPS}"),
        *_losses(epochs, of),
    ]  # fmt: skip
    return lead, [part for part in parts if part is not None]


def _losses(epochs: Mapping[str, list[Metrics]], of: str) -> list[Figure | None]:
    """Of one model training and held-out loss in one figure; of several one for each."""
    if len(epochs) == 1:
        own = next(iter(epochs.values()))
        series = [Series("training", _points(own, "train_loss")), Series("held out", _points(own, "loss"))]
        return [curves(f"reward_models{of}-loss", "Loss", "epoch", Axis("loss", low=0.0), series)]
    note = "Losses of different kinds of models are different things."
    found = []
    for key, title in (("train_loss", "Loss in training"), ("loss", "Loss on what is held out")):
        series = [Series(name, _points(own, key)) for name, own in epochs.items()]
        found.append(curves(f"reward_models{of}-{key}", title, "epoch", Axis("loss", low=0.0), series, note))
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


def _said(name: str, run: RunReader, figures: Mapping[str, Any], typed: bool) -> str:
    value, low, high = _three(figures, "accuracy")
    if value is None:
        return ""
    n, base = _count(figures), line(str(run.summary.get("base") or run.config.get("path") or "a model"))
    share = f"{written(value, RIGHT)}{interval(low, high, RIGHT)} of {f'{n:,} ' if n else ''}held-out"
    coin = number(figures.get("coin"))
    by_chance = "" if coin is None else f", by chance {written(coin, RIGHT)}"
    done = f"texts are named by their type{by_chance}" if typed else "comparisons are ordered rightly"
    return f"{name}: " * bool(name) + f"from {base}, {share} {done}."
