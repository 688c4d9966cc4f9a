"""From scored candidates to preference pairs: two replies to one same history, a margin, and what was dropped and why."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING

from expertchat.records import Candidate, Message, PairIds, PreferencePair

if TYPE_CHECKING:
    from expertchat.preferences.config import PairsConfig


@dataclass(frozen=True)
class Choice:
    """The candidates of one history with their scores (None: not to be had). `prompt` is what the policy was shown, as text and ids."""

    prompt: tuple[Message, ...]
    candidates: tuple[Candidate, ...]
    scores: tuple[float | None, ...]
    judge: str
    prompt_ids: Sequence[int] | None = None


@dataclass
class Pairing:
    """The pairs of a round and what became of the rest."""

    pairs: list[PreferencePair] = field(default_factory=list)
    ties: int = 0  # pairs of different texts whose margin is too small
    equal: int = 0  # pairs of one same text (with mode=all), or histories that have no other
    nulls: int = 0  # candidates without a score
    altered: int = 0  # candidates whose text is not what the policy wrote
    thinking: int = 0  # of all others: candidates that thought before they spoke
    cut: int = 0  # candidates dropped because the token limit cut them (pairs.cut=drop)
    stale: int = 0  # histories of a policy too old
    unmatched: int = 0  # histories without two candidates of like length

    @property
    def tie_rate(self) -> float | None:
        """Ties among all pairs of different texts that had two scores; None where there were none."""
        total = self.ties + len(self.pairs)
        return self.ties / total if total else None


def make_pairs(choices: Iterable[Choice], config: PairsConfig, policy_version: int) -> Pairing:
    """Pairs by `config.mode`. A candidate without a score, or with one that is no number, is never chosen nor rejected; equal scores or
    texts never make a pair.

    Neither is one whose text had to be altered: what was judged and what would be trained are not the same; nor one that thought before
    it spoke: its thoughts were not judged. Nor, with cut=drop, one that the token limit cut.
    """
    made = Pairing()
    for choice in choices:
        if any(policy_version - c.policy_version > config.max_lag for c in choice.candidates):
            made.stale += 1
            continue
        spoken = [(value, c) for value, c in zip(choice.scores, choice.candidates, strict=True) if c.altered != "thinking"]
        made.thinking += len(choice.candidates) - len(spoken)
        scored = [(value, c) for value, c in spoken if value is not None and math.isfinite(value)]
        made.nulls += len(spoken) - len(scored)
        whole = [one for one in scored if one[1].altered is None]
        made.altered += len(scored) - len(whole)
        scored = [one for one in whole if not (one[1].cut and config.cut == "drop")]
        made.cut += len(whole) - len(scored)
        if len(scored) < 2:
            continue
        possible = _possible(scored, config)
        couples = [(one, two) for one, two in possible if one[1].text != two[1].text]
        made.unmatched += not possible
        if possible and (config.mode == "all" or not couples):
            made.equal += len(possible) - len(couples) if config.mode == "all" else 1
        if couples and config.mode != "all":
            couples = [max(couples, key=lambda pair: pair[0][0] - pair[1][0])]
        for (high, chosen), (low, rejected) in couples:
            if high - low < config.min_margin or high == low:
                made.ties += 1
            else:
                made.pairs.append(_pair(choice, chosen, rejected, high, low))
    return made


Scored = tuple[float, Candidate]


def _possible(scored: Sequence[Scored], config: PairsConfig) -> list[tuple[Scored, Scored]]:
    """Every (better, worse) that the mode allows; of equals the first stands first: the order of the candidates decides nothing else.

    Of those with one same margin the best against the worst comes first.
    """
    ranked = sorted(scored, key=lambda one: (-one[0], one[1].index))
    if config.mode == "all":
        return list(combinations(ranked, 2))
    if config.mode == "length_matched":
        return [pair for pair in combinations(ranked, 2) if _alike(pair[0][1], pair[1][1], config.length_ratio)]
    return [(one, two) for i, one in enumerate(ranked) for two in reversed(ranked[i + 1 :])]


def _alike(one: Candidate, two: Candidate, ratio: float) -> bool:
    short, long = sorted((one.tokens, two.tokens))
    return long <= ratio * short


def _pair(choice: Choice, chosen: Candidate, rejected: Candidate, high: float, low: float) -> PreferencePair:
    return PreferencePair(
        id=f"{chosen.id}-{rejected.id.rpartition('/')[2]}",
        prompt=[{"role": m.role, "content": m.content} for m in choice.prompt],
        chosen=[{"role": "assistant", "content": chosen.text}],
        rejected=[{"role": "assistant", "content": rejected.text}],
        score_chosen=high,
        score_rejected=low,
        margin=high - low,
        round=chosen.round,
        policy_version=chosen.policy_version,
        provenance={
            "transcript": chosen.transcript,
            "turn": chosen.turn,
            "learner": chosen.speaker,
            "judge": choice.judge,
            "chosen": chosen.id,
            "rejected": rejected.id,
            "tokens_chosen": chosen.tokens,
            "tokens_rejected": rejected.tokens,
            "cut_chosen": int(chosen.cut),
            "cut_rejected": int(rejected.cut),
        },
        ids=_ids(choice, chosen, rejected),
    )


def _ids(choice: Choice, chosen: Candidate, rejected: Candidate) -> PairIds | None:
    if choice.prompt_ids is None or chosen.ids is None or rejected.ids is None:
        return None
    return PairIds(prompt=list(choice.prompt_ids), chosen=chosen.ids, rejected=rejected.ids)
