"""Figures and texts of a run for trackers: wandb, trackio, TensorBoard. All of them write into the run folder; nothing goes over a network.

metrics.jsonl is the truth. A tracker is told of each record once, also across starts; what it lacks it is told when it is opened, so a run
may be given another one with its next start. Dialogues, replies and opinions are told where a run ends or stops. A tracker that fails is
dropped, and the run goes on.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from expertchat.config import ConfigError, Group
from expertchat.events import Note
from expertchat.folder.jsonl import Log, read_lines
from expertchat.folder.reader import RunReader
from expertchat.folder.writing import saving
from expertchat.records import Metrics
from expertchat.text.sentences import first_line
from expertchat.trackers.packages import TensorBoard, Tracker, Trackio, Wandb
from expertchat.trackers.texts import flat, told_of

FOLDER = "trackers"
FINAL = "-final"  # the end of the id of a run's last evaluation
PACKAGES = {"wandb": ("wandb",), "trackio": ("trackio",), "tensorboard": ("tensorboard", "tensorboardX")}  # any of them will do
Tell = Callable[[Note], None]


class Tracking:
    """The open trackers of a run, told in the order in which they were named."""

    def __init__(self, several: bool, tell: Tell) -> None:
        self._several = several  # experts learn: their figures are kept apart by their names
        self._tell = tell
        self._open: dict[str, tuple[Tracker, Log, set[str]]] = {}
        self._last = 0  # the last round that was told
        self._texts: dict[str, dict[str, int]] = {}  # how many lines of each file a tracker knows

    def log(self, metrics: Metrics) -> None:
        """Tell every tracker, unless it knows the record. Text and figures without a value are left out."""
        for name in list(self._open):
            self._log(name, metrics)

    def end(self, run: RunReader, summary: Mapping[str, Any] | None = None) -> None:
        """Tell of the texts that came since the last start, and of the numbers of the summary; then close."""
        for name in list(self._open):
            with self._dropping(name):
                tracker, log, _ = self._open[name]
                talks, tables, now = told_of(run, self._texts.get(name, {}))
                step = max(run.last_round, self._last)
                if numbers := flat(summary or {}):
                    tracker.ended(step, {f"summary/{key}": value for key, value in numbers.items()})
                if talks:
                    tracker.talks(step, talks)
                for table in tables:
                    tracker.table(step, table)
                log.append(json.dumps({"texts": now}))
        self.close()

    def close(self) -> None:
        """Let the trackers finish. May be called twice."""
        for name in list(self._open):
            tracker, log, _ = self._open[name]
            with self._dropping(name):
                tracker.close()
            log.close()
        self._open = {}

    def add(self, name: str, folder: Path, config: Group, title: str, known: Sequence[Metrics]) -> None:
        """Open a tracker, or go on with its run, and tell it of the `known` records that it lacks."""
        place = folder / f"{name}.jsonl"
        with self._dropping(name), ExitStack() as undone:
            lines = [line for _, line in read_lines(place)]
            with saving(place):
                folder.mkdir(parents=True, exist_ok=True)
                log = Log(place)
            undone.callback(log.close)
            ids = [str(line["run"]) for line in lines if "run" in line]
            number = ids[0] if ids else secrets.token_hex(4)
            self._open[name] = OPEN[name](folder, title, number, config), log, {str(line["logged"]) for line in lines if "logged" in line}
            self._texts[name] = next((dict(line["texts"]) for line in reversed(lines) if "texts" in line), {})
            if not ids:
                log.append(json.dumps({"run": number}))
            undone.pop_all()
        for metrics in known if name in self._open else ():
            self._log(name, metrics)

    def _log(self, name: str, metrics: Metrics) -> None:
        if name not in self._open or metrics.id in self._open[name][2]:
            return
        tracker, log, told = self._open[name]
        self._last = max(self._last, metrics.round)
        kind = "final" if metrics.id.endswith(FINAL) else metrics.kind  # beside an evaluation of the same round, on other histories
        prefix = f"{kind}/{metrics.learner}" if self._several else kind
        values = {f"{prefix}/{key}": float(value) for key, value in metrics.figures.items() if _is_number(value)}  # type: ignore[arg-type]
        with self._dropping(name):
            tracker.log(metrics.round, values)
            log.append(json.dumps({"logged": metrics.id}))
            told.add(metrics.id)

    @contextlib.contextmanager
    def _dropping(self, name: str) -> Iterator[None]:
        """Whatever goes wrong inside, the tracker is dropped with a note."""
        try:
            yield
        except Exception as error:  # whatever a tracker's package raises
            if name in self._open:
                self._open.pop(name)[1].close()
            self._tell(Note(text=f"{name} is left out from here on: {first_line(error)}; metrics.jsonl has everything", level="warning"))


def open_trackers(
    names: Sequence[str], run_folder: Path, config: Group, arm: str | None = None, tell: Tell = lambda note: None
) -> Tracking:
    """The trackers `names` (of `report_to`) for a run with `config`. Raises ConfigError where one is not installed."""
    check_trackers(names)
    tracking = Tracking(len(getattr(config, "learners", ())) > 1, tell)
    known = list(RunReader(run_folder).metrics()) if names else []
    for name in dict.fromkeys(names):
        tracking.add(name, run_folder / FOLDER, config, f"{arm}-{run_folder.name}" if arm else run_folder.name, known)
    return tracking


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError for every tracker that is not installed. Imports nothing."""
    lacking = [name for name in dict.fromkeys(names) if not any(importlib.util.find_spec(package) for package in PACKAGES[name])]
    if lacking:
        raise ConfigError(
            [f"report_to: {name} is not installed: pip install 'expertchat[{name}]', or leave it out of report_to" for name in lacking]
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


OPEN: dict[str, Callable[[Path, str, str, Group], Tracker]] = {"wandb": Wandb, "trackio": Trackio, "tensorboard": TensorBoard}
