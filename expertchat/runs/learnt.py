"""A training run as a table of arms sees it: one for each of its learners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expertchat.folder.embedded import KEY, begun_with
from expertchat.folder.reader import RunReader
from expertchat.records import Figure, Metrics, Speaker
from expertchat.trackers.tracking import FINAL

NO_ARM = "(no arm)"


@dataclass(frozen=True)
class Run:
    """What a table needs of one run and one of its learners."""

    reader: RunReader
    learner: Speaker
    rounds: Sequence[Metrics]
    evaluation: Metrics | None  # the last one

    @property
    def folder(self) -> Path:
        return self.reader.folder

    @property
    def config(self) -> Mapping[str, Any]:
        return self.reader.config

    @property
    def made_with(self) -> Mapping[str, Any]:
        """The config, with the id of the embedded models where it names such: other ones are other models under the same names."""
        models = begun_with(self.folder, self.config)
        return self.config if models is None else {**self.config, KEY: models}

    @property
    def finished(self) -> bool:
        """Whether its end is a result."""
        return self.reader.done and self.reader.failure is None

    @property
    def rounds_wanted(self) -> int:
        """Experts that learn by turns share the rounds; the first one begins."""
        learners = self.reader.learners
        return (self.reader.rounds + len(learners) - 1 - learners.index(self.learner)) // len(learners)

    @property
    def at_the_end(self) -> bool:
        """Whether its last evaluation is that of the end, on histories of its own."""
        return self.evaluation is not None and self.evaluation.id.endswith(FINAL)

    @property
    def kept(self) -> int | None:
        """The round whose weights were measured at the end, counted as the run counts; None: the last one's."""
        last = self.evaluation
        return None if last is None or last.weights_of == last.round else last.weights_of

    @property
    def judged(self) -> int:
        """The candidates that were judged for its training."""
        return sum(int(v) for one in self.rounds if isinstance(v := one.figures.get("candidates"), int | float))

    @property
    def arm(self) -> str:
        return str(self.config.get("arm") or NO_ARM)

    @property
    def seed(self) -> int:
        return self.reader.seed or 0

    def figure(self, name: str) -> Figure:
        """A figure of the last evaluation; None where there is none."""
        return self.evaluation.figures.get(name) if self.evaluation else None

    def number(self, name: str) -> float | None:
        value = self.figure(name)
        return value if isinstance(value, int | float) else None
