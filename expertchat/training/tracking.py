"""Figures of a run for trackers: wandb, trackio, TensorBoard. All of them write into the run folder; nothing goes over a network.

metrics.jsonl is the truth. A tracker is told of each record once, also across starts; what it lacks it is told when it is opened, so a run
may be given another one with its next start. A tracker that fails is dropped, and the run goes on.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import math
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from expertchat.config import ConfigError, Group
from expertchat.events import Note
from expertchat.folder.jsonl import Log, read_lines
from expertchat.folder.reader import RunReader
from expertchat.folder.writing import saving
from expertchat.records import Metrics
from expertchat.text.sentences import first_line

PROJECT = "expertchat"
FOLDER = "trackers"
FINAL = "-final"  # the end of the id of a run's last evaluation
PACKAGES = {"wandb": ("wandb",), "trackio": ("trackio",), "tensorboard": ("tensorboard", "tensorboardX")}  # any of them will do
Tell = Callable[[Note], None]


class Tracker(Protocol):
    """One tracker's run. May raise whatever its package raises."""

    def log(self, step: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class Tracking:
    """The open trackers of a run, told in the order in which they were named."""

    def __init__(self, several: bool, tell: Tell) -> None:
        self._several = several  # experts learn: their figures are kept apart by their names
        self._tell = tell
        self._open: dict[str, tuple[Tracker, Log, set[str]]] = {}

    def log(self, metrics: Metrics) -> None:
        """Tell every tracker, unless it knows the record. Text and figures without a value are left out."""
        for name in list(self._open):
            self._log(name, metrics)

    def close(self) -> None:
        """Let the trackers finish. Called once."""
        for name in list(self._open):
            tracker, log, _ = self._open[name]
            with self._dropping(name):
                tracker.close()
            log.close()
        self._open = {}

    def add(self, name: str, folder: Path, config: Group, title: str, known: Sequence[Metrics]) -> None:
        """Open a tracker, or go on with its run, and tell it of the `known` records that it lacks."""
        place = folder / f"{name}.jsonl"
        lines = [line for _, line in read_lines(place)]
        with saving(place):
            folder.mkdir(parents=True, exist_ok=True)
            log = Log(place)
        ids = [str(line["run"]) for line in lines if "run" in line]
        number = ids[0] if ids else secrets.token_hex(4)
        with self._dropping(name):
            self._open[name] = OPEN[name](folder, title, number, config), log, {str(line["logged"]) for line in lines if "logged" in line}
            if not ids:
                log.append(json.dumps({"run": number}))
        for metrics in known if name in self._open else ():
            self._log(name, metrics)

    def _log(self, name: str, metrics: Metrics) -> None:
        if name not in self._open or metrics.id in self._open[name][2]:
            return
        tracker, log, told = self._open[name]
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


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Environment variables for a while, where the user has not set them."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


class _Wandb:
    """Offline unless WANDB_MODE says otherwise; `wandb sync` sends it later, the starts of a run under one id."""

    def __init__(self, folder: Path, title: str, number: str, config: Group) -> None:
        wandb = import_module("wandb")
        own = str(folder / "wandb")
        with _environment(WANDB_MODE="offline", WANDB_ERROR_REPORTING="false", WANDB_CACHE_DIR=own, WANDB_DATA_DIR=own):
            settings = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False)
            self._run = wandb.init(
                project=PROJECT,
                name=title,
                id=number,
                resume="allow",
                dir=str(folder),
                config=config.model_dump(mode="json"),
                settings=settings,
            )

    def log(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    """Local, in trackers/trackio: `TRACKIO_DIR=... trackio show` draws it. A run is known by its name there."""

    def __init__(self, folder: Path, title: str, number: str, config: Group) -> None:
        for module in [name for name in sys.modules if name.partition(".")[0] == "trackio"]:
            del sys.modules[module]  # it reads TRACKIO_DIR once, and another run of this process (a sweep) has its own
        with _environment(TRACKIO_DIR=str(folder / "trackio")):
            self._trackio = import_module("trackio")
        settings: dict[str, Any] = {"embed": False, "auto_log_cpu": False, "auto_log_gpu": False}
        with contextlib.redirect_stdout(io.StringIO()):  # the screen belongs to the view
            self._run = self._trackio.init(PROJECT, f"{title}-{number}", resume="allow", config=config.model_dump(mode="json"), **settings)

    def log(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._trackio.finish()


class _TensorBoard:
    """Event files in trackers/tensorboard, by torch where tensorboard is installed, else by tensorboardX."""

    def __init__(self, folder: Path, title: str, number: str, config: Group) -> None:
        module = "torch.utils.tensorboard" if importlib.util.find_spec("tensorboard") else "tensorboardX"
        suffix = f".{secrets.token_hex(4)}"  # tensorboardX would write over the file of a start in the same second
        self._writer = import_module(module).SummaryWriter(str(folder / "tensorboard"), filename_suffix=suffix)
        self._writer.add_text("config", f"```\n{config.model_dump_json(indent=1)}\n```", 0)

    def log(self, step: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()  # a run may be killed at any moment

    def close(self) -> None:
        self._writer.close()


OPEN: dict[str, Callable[[Path, str, str, Group], Tracker]] = {"wandb": _Wandb, "trackio": _Trackio, "tensorboard": _TensorBoard}
