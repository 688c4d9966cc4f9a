"""The folder of `expertchat build_pairs`: that of a judge, and beside it every attempt, every outcome, and the pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from expertchat.folder.jsonl import read_records
from expertchat.lab.store import REMEDY, LabFolder
from expertchat.records import PreferencePair, Record
from expertchat.records.building import Attempt, Outcome

R = TypeVar("R", bound=Record)
PAIRS = "pairs.jsonl"


class BuildFolder(LabFolder):
    """A folder of pairs that this process writes; what is there by its id is not written again."""

    logs = (*LabFolder.logs, "attempts", "outcomes", "pairs")

    def __init__(
        self, folder: Path, config: Mapping[str, Any], command_line: list[str], say: Callable[[str], None] = lambda text: None
    ) -> None:
        super().__init__(folder, config, command_line, say)
        self.attempts: dict[str, Attempt] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.pairs: dict[str, PreferencePair] = {}

    def find(self) -> None:
        super().find()
        self.attempts = self._there("attempts", Attempt)
        self.outcomes = self._there("outcomes", Outcome)
        self.pairs = self._there("pairs", PreferencePair)

    def _there(self, name: str, kind: type[R]) -> dict[str, R]:
        return {one.id: one for one in read_records(self.folder / f"{name}.jsonl", kind, REMEDY)}

    def tried(self, attempt: Attempt) -> None:
        """Keep an attempt."""
        self.append_new("attempts", self.attempts, attempt)

    def ended(self, outcome: Outcome, pair: PreferencePair | None = None) -> None:
        """Keep what became of a text: first the pair, then that there is one."""
        if pair is not None:
            self.append_new("pairs", self.pairs, pair)
        self.append_new("outcomes", self.outcomes, outcome)
        self.sync_now_and_then()
