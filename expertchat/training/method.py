"""What a training method is to the loop: rows in, an update, figures out. METHODS has those that there are. Nothing here imports torch.

A new one is a file with a class, and a line in METHODS; `train.update=NAME` chooses it. The class may stand on
expertchat.training.update.Updater, which has the optimizer, the schedule, several processes and what is kept across starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

from expertchat.preferences.pairs import Choice
from expertchat.records import Figure, PreferencePair


@dataclass(frozen=True)
class Rows:
    """What a round gives to train on: its pairs, and the histories with all their candidates and scores, of which they were made.

    `log_ratios`: by candidate, log policy - log base of the policy that has given it, nats a reply; without those of which none is known.

    `shown`: rows of token ids as a file gave them, prompts with what is to follow them (offline methods).
    """

    pairs: Sequence[PreferencePair] = ()
    choices: Sequence[Choice] = ()
    shown: Sequence[Mapping[str, list[int]]] = ()
    log_ratios: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Updated:
    """What an update was: figures averaged over its steps, in the names of a round's metrics. `counts`: what became of the rows given."""

    steps: int = 0
    skipped: int = 0  # steps not made: their loss or gradient was not finite
    rows: int = 0
    too_long: int = 0
    surplus: int = 0  # rows given up because the last batch did not divide by the processes
    figures: dict[str, float] = field(default_factory=dict)
    counts: dict[str, Figure] = field(default_factory=dict)

    def all_figures(self) -> dict[str, Figure]:
        made = {"steps": self.steps, "skipped": self.skipped, "too_long": self.too_long, "surplus": self.surplus}
        return self.counts | made | self.figures


class Stopped(Exception):
    """A signal came during the update: nothing of it counts."""


class Method(Protocol):
    """Trains one learner, round by round; lives as long as the run.

    It is built as expertchat.training.update.Updater is, and counts the learner's version up where an update has changed its weights.
    """

    def update(self, rows: Rows, round: int) -> Updated:
        """Train on a round's rows; without any, nothing changes. Raises Stopped, and ConfigError on numbers that stay broken."""
        ...

    def lower(self, lowest: float) -> float | None:
        """Halve the learning rate, down to the share `lowest` of what was set; the new share, None where it was there."""
        ...

    def save(self, path: Path) -> None:
        """Keep in one file what the next update needs besides the weights. Raises WriteError."""
        ...

    def load(self, path: Path) -> None:
        """Take over what `save` wrote. Raises ConfigError where the file is not whole."""
        ...


@dataclass(frozen=True)
class Entry:
    """Where a method's class stands ("module:Class"), and how many texts of each row it passes through the model, for the memory plan
    (None: all candidates of a history).

    `takes`: what its rows are made of: pairs, groups (histories with all their candidates), shown rows, or shown rows that were judged each
    by itself.
    """

    place: str
    texts: int | None
    takes: Literal["pairs", "groups", "shown", "judged"] = "pairs"


METHODS = {
    "dpo": Entry("expertchat.training.dpo:Dpo", texts=2),
    "kto": Entry("expertchat.training.kto:Kto", texts=2, takes="judged"),
    "sft": Entry("expertchat.training.sft:Sft", texts=1, takes="shown"),
    "rloo": Entry("expertchat.training.rloo:Rloo", texts=None, takes="groups"),
    "grpo": Entry("expertchat.training.grpo:Grpo", texts=None, takes="groups"),
}


def methods(*takes: str) -> list[str]:
    """The names of those whose rows are made of one of these."""
    return [name for name, entry in METHODS.items() if entry.takes in takes]


def method_of(name: str) -> Callable[..., Method]:
    """The class of the method that METHODS calls `name`."""
    module, _, kind = METHODS[name].place.partition(":")
    found: Any = getattr(import_module(module), kind)
    return found  # type: ignore[no-any-return]
