"""The folder of `expertchat reward_model`: an epoch's checkpoint is there or not, every figure is written once, one model is the result."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expertchat.backends.reward_folders import MODEL
from expertchat.config import ConfigError
from expertchat.events import AnyEvent, Measured, RoundFinished
from expertchat.folder.jsonl import read_json, read_records
from expertchat.folder.reader import RunReader
from expertchat.folder.run_folder import RunFolder
from expertchat.folder.writing import replace
from expertchat.records import Item, JudgeRef, Metrics, Opinion
from expertchat.training.at_work import round_folder
from expertchat.training.checkpoints import checkpoints, damage, read_state, write_checkpoint

PARTS = "parts.json"
REMEDY = "restore it or name another run.dir"


class RewardFolder(RunFolder):
    """What a run writes: events, the figures of its epochs, checkpoints, and at its end the model and what it says of what is held out."""

    logs = ("events", "metrics", "items", "judges", "opinions")
    folders = ("rounds", MODEL)

    def __init__(
        self, folder: Path, config: Mapping[str, Any], command_line: list[str], parts: Mapping[str, Any],
        say: Callable[[str], None] = lambda text: None, writes: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(folder, config, command_line, say, writes)
        self.parts = dict(parts)  # what is trained on and held out: its digest and its counts
        self.metrics: dict[str, Metrics] = {}
        self._finished: set[int] = set()  # epochs whose end is told
        self._told: set[str] = set()  # figures that are told
        self.last = 0  # the last epoch whose checkpoint is whole

    def begin(self) -> None:
        """`open`, and keep what belongs to the run."""
        self.open()
        if self.writes and not (self.folder / PARTS).is_file():
            with self.writing():
                replace(self.folder / PARTS, json.dumps(self.parts, indent=2) + "\n", sync=True)

    def find(self) -> None:
        before = read_json(self.folder / PARTS)
        if before is not None and before.get("digest") != self.parts["digest"]:
            raise ConfigError(
                f"source: has changed since {self.folder} was begun (other texts, or other numbers of them); restore it, or name another "
                "run.dir"
            )
        self.metrics = {one.id: one for one in read_records(self.folder / "metrics.jsonl", Metrics, REMEDY)}
        for event in RunReader(self.folder, REMEDY).events():
            if isinstance(event, RoundFinished):
                self._finished.add(event.round)
            elif isinstance(event, Measured):
                self._told.add(event.metrics.id)
        self.last = self._whole()

    def _whole(self) -> int:
        """The last epoch whose checkpoint is whole; damaged ones are passed over, and told of."""
        for number in checkpoints(self.folder):
            if (problem := damage(self.folder, number)) is None:
                return number
            self.notes.append(f"the checkpoint of epoch {number} is damaged ({problem}): it goes on with an older one")
        return 0

    def send(self, event: AnyEvent) -> None:
        if not self.writes or self.passes(event):
            return
        if isinstance(event, RoundFinished):
            if event.round in self._finished:
                return
            self._finished.add(event.round)
        elif isinstance(event, Measured):
            if event.metrics.id in self._told:
                return
            self._told.add(event.metrics.id)
        self.append("events", event)

    def keep(self, metrics: Metrics) -> None:
        """Append the figures of an epoch, once."""
        if metrics.id not in self.metrics:
            self.append("metrics", metrics)
            self.metrics[metrics.id] = metrics

    def checkpoint(self, number: int, state: Mapping[str, Any], write: Callable[[Path], None], keep: Sequence[int]) -> None:
        """Let `write` fill the epoch's folder, which counts when everything is in it. Raises WriteError."""
        if self.writes:
            with self.writing():
                self.sync()
                write_checkpoint(self.folder, number, state, write, keep)
        self.last = number

    def state(self, number: int) -> dict[str, Any]:
        return read_state(self.folder, number)

    def place(self, number: int) -> Path:
        return round_folder(self.folder, number)

    def keep_said(self, items: Sequence[Item], judge: JudgeRef, opinions: Sequence[Opinion]) -> None:
        """What is held out and what the result says of it, as `expertchat audit` reads it; what a killed start has written stays."""
        records: tuple[tuple[str, Sequence[Any]], ...] = (("items", items), ("judges", [judge]), ("opinions", opinions))
        for name, ones in records:
            there = {line["id"] for line in RunReader(self.folder, REMEDY).lines(name)}
            for one in ones:
                if one.id not in there:
                    self.append(name, one)
