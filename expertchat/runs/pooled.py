"""The replies of an arm, all its seeds together, and arms held against each other reply by reply.

Runs of one seed have the same histories whatever is trained, so two arms are compared history by history: what the topic and the history do
to both falls out. Several arms are several questions, so their probabilities are corrected (Holm 1979).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

from expertchat.evaluation.by_topic import Found, gap_of
from expertchat.evaluation.counts import holm
from expertchat.evaluation.figures import Comparison, figures
from expertchat.evaluation.histories import Held
from expertchat.folder.jsonl import read_records
from expertchat.judging.shares import LEVEL
from expertchat.records import Figure
from expertchat.runs.learnt import Run
from expertchat.trackers.tracking import FINAL

SEED = 0  # of the draws


class Key(NamedTuple):
    """A history of a seed; what was said in it, with the base's reply, tells it from another one of that name."""

    seed: int
    history: str
    topic: str
    said: str


@dataclass(frozen=True)
class Pool:
    """The comparisons of an arm's last evaluations."""

    name: str
    learner: str
    compared: Mapping[Key, Comparison]

    def figures(self, judge: str) -> dict[str, Figure]:
        """All figures, every reply counting alike, topics drawn whole over all seeds."""
        return figures(list(self.compared.values()), judge, SEED)


def pool_of(name: str, runs: Sequence[Run]) -> Pool | None:
    """The replies of an arm; None where a run keeps none or not their topics, as those of earlier versions, or others than its figures
    are of.

    Raises ConfigError for a file that is damaged.
    """
    found: dict[Key, Comparison] = {}
    for run in runs:
        if run.evaluation is None:
            continue
        last = "-final" if run.evaluation.id.endswith(FINAL) else ""
        path = run.reader.evaluation(run.learner, f"{{}}-r{run.evaluation.round:04d}{last}.jsonl")
        own = list(read_records(path, Comparison, "leave the run out"))
        decided = sum(one.outcome is not None for one in own)
        if not own or any(one.topic is None for one in own) or decided != run.evaluation.figures.get("n"):
            return None
        said = _said(run)
        found |= {Key(run.seed, one.history, one.group, said.get(one.history, f"{one.base_tokens} tokens")): one for one in own}
    return Pool(name, runs[0].learner, found) if found else None


def _said(run: Run) -> dict[str, str]:
    """Of each held-out history a digest of its turns and of the base's reply."""
    path = run.reader.evaluation(run.learner, "base-{}.jsonl")
    held = read_records(path, Held, "leave the run out") if path.is_file() else ()
    texts = {one.id: [turn.text for turn in (*one.turns, *([one.reply] if one.reply else []))] for one in held}
    return {name: hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16] for name, said in texts.items()}


def apart(one: Pool, other: Pool) -> Found:
    """How much more often `one` wins than `other`, on the histories that both have."""
    both = [(a.outcome - b.outcome, key.topic) for key, a in one.compared.items()
            if (b := other.compared.get(key)) is not None and a.outcome is not None and b.outcome is not None]  # fmt: skip
    return gap_of([value for value, _ in both], [topic for _, topic in both], seed=SEED)


def held_against(control: Pool, pools: Sequence[Pool]) -> dict[str, dict[str, Any]]:
    """Each arm less the control, by its name, with the probability of such a difference by chance: plain, and corrected (Holm)."""
    found = {pool.name: apart(pool, control) for pool in pools if pool.name != control.name and pool.learner == control.learner}
    asked = [name for name, one in found.items() if one.chance is not None]
    corrected = dict(zip(asked, holm([found[name].chance or 0.0 for name in asked]), strict=True))
    return {
        name: {
            "control": control.name, "minus_control": one.value, "minus_control_low": one.low, "minus_control_high": one.high,
            "minus_control_n": one.n, "minus_control_least": one.least, "minus_control_p": one.chance,
            "minus_control_holm": corrected.get(name),
        }
        for name, one in found.items()
    }  # fmt: skip


def better(pools: Sequence[Pool]) -> dict[str, list[str] | None]:
    """The arms that each arm is shown to be better than, all pairs of arms asked about and corrected for; None where it shares no history
    with any other, so that nothing can be said."""
    pairs = [(one, other, apart(one, other)) for one, other in combinations(pools, 2) if one.learner == other.learner]
    asked = [(one, other, found) for one, other, found in pairs if found.chance is not None]
    corrected = holm([found.chance or 0.0 for _, _, found in asked])
    names: dict[str, list[str] | None] = {pool.name: None for pool in pools}
    for one, other, found in pairs:
        if found.n:
            names[one.name], names[other.name] = names[one.name] or [], names[other.name] or []
    for (one, other, found), chance in zip(asked, corrected, strict=True):
        if chance < 1 - LEVEL:
            first, second = (one, other) if (found.value or 0.0) > 0 else (other, one)
            names[first.name] = [*(names[first.name] or []), second.name]
    return names
