"""The cards of judges: of runs whose texts were judged afterwards, or labelled, and those that `expertchat audit` wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expertchat.audit.config import AuditConfig
from expertchat.folder.reader import RunReader
from expertchat.labels.run import to_read
from expertchat.labels.store import label_files
from expertchat.sources.config import SourceConfig
from expertchat.text.in_words import line

Values = Mapping[str, Any]
RESAMPLES, SEED = 2000, 0  # as conf/audit.yaml has them: one folder has one figure


def cards_of(runs: Mapping[str, RunReader], files: Mapping[Path, Values]) -> dict[str, Values]:
    """The cards by what they are called: of each run, and of each file that holds one and is not that of a run again."""
    cards = {line(name): card for name, run in runs.items() if (card := card_of_run(run)) is not None}
    known = [_told(card) for card in cards.values()]
    written = {line(path.name): found for path, found in files.items() if {"judges", "left_out", "against"} <= found.keys()}
    return cards | {name: card for name, card in written.items() if _told(card) not in known}


def _told(card: Values) -> tuple[object, ...]:
    """What two cards of the same opinions have in common."""
    return (card["items"], card["groups"], *((row["judge"], row["form"], row["asked"]) for row in card["judges"]))


def card_of_run(run: RunReader) -> Values | None:
    """The card of a run whose texts were judged afterwards, or labelled. Raises ConfigError."""
    labelled = to_read(None, [str(run.folder)])
    people = [str(labelled)] if any(label_files(labelled)) else []
    if not (people or run.judges_only or run.path("opinions").is_file()) or run.chooses or run.makes_judge:
        return None
    from expertchat.audit.estimates import needs_lab

    needs_lab()
    from expertchat.audit.card import card_of
    from expertchat.audit.reading import read

    source = SourceConfig(path=[str(run.folder)])
    config = AuditConfig(source=source, labels=people, against="auto", resamples=RESAMPLES, seed=SEED)
    return card_of(read(config), against="auto", resamples=RESAMPLES, seed=SEED).values()
