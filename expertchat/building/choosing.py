"""Which texts are chosen, and what becomes of all others."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from expertchat.building.config import BuildConfig, ChooseConfig
from expertchat.building.counterpart import BLANK, CUT, HELD_OUT, UNSCORED, Low
from expertchat.building.held_out import HeldOut
from expertchat.building.scoring import Scored
from expertchat.records import PreferencePair
from expertchat.records.building import Attempt, Outcome
from expertchat.text.likeness import blank
from expertchat.text.sentences import neutralise

Prompt = list[dict[str, str]]

# Why a text is not chosen, as it is counted; what is said of a counterpart is said there.
NOT_HIGH, NO_PROMPT, NO_ROOM, AGAIN = "does not score high", "no prompt", "no room in the context", "stands in an earlier pair"
REJECTED, ALONE, BETWEEN, ENOUGH = "is the rejected one", "no other text with its prompt", "neither the best nor the worst", "not needed"
NO_LOW = "no low counterpart"


class Bounds(NamedTuple):
    """The scores that a chosen text of a type reaches, and that a rejected one does not pass."""

    high: float
    low: float


def bounds(texts: Sequence[Scored], choose: ChooseConfig, free: bool) -> dict[str, Bounds]:
    """The bounds of each type; `free`: what is not set binds nothing (where two texts are there to be held against each other)."""
    by_type: dict[str, list[float]] = defaultdict(list)
    for one in texts:
        if one.score is not None:
            by_type[one.type].append(one.score)
    found = {}
    for kind, scores in by_type.items():
        high = choose.high if choose.high is not None else -math.inf if free else _best(scores, choose.high_share)
        low = choose.low if choose.low is not None else math.inf if free else -_best([-score for score in scores], choose.low_share)
        found[kind] = Bounds(high, low)
    return found


def _best(scores: Sequence[float], share: float) -> float:
    """The score that the best `share` of the texts reach: that of the last one among them, and at least of the best."""
    ranked = sorted(scores, reverse=True)
    return ranked[max(1, round(share * len(ranked))) - 1]


def drawn(texts: Sequence[Scored], seed: int) -> list[Scored]:
    """The texts in an order that the seed draws, wherever each of them stands."""
    return sorted(texts, key=lambda one: hashlib.sha256(f"{seed} {one.id}".encode("utf-8", "replace")).digest())


@dataclass
class Sorting:
    """Sorts texts out: which may be chosen, and why others are not. `prompts`: by item. `texts`: chosen so far, with their prompts."""

    config: BuildConfig
    held: HeldOut
    prompts: Mapping[str, Prompt | None]
    bounds: Mapping[str, Bounds]
    taken: set[tuple[str, str]] = field(default_factory=set)

    def why_not(self, one: Scored) -> str | None:
        """Why a text is not chosen; None: it is, and no other one of its prompt and words will be, unless it is `freed`."""
        prompt, text = self.prompts[one.item.id], one.text.text
        if one.score is None:
            return UNSCORED
        if one.score < self.bounds[one.type].high:
            return NOT_HIGH
        if blank(text):
            return BLANK
        if one.cut and self.config.counterpart.cut == "drop":
            return CUT
        if prompt is None:
            return NO_PROMPT
        if self.held.topic(one.item.topic) or self.held.text(text) or self.held.prompt(prompt):
            return HELD_OUT
        if (key := (json.dumps(prompt), text)) in self.taken:
            return AGAIN
        self.taken.add(key)
        return None

    def freed(self, one: Scored) -> None:
        """No pair came of a text that was chosen: another one of its prompt and words may be."""
        self.taken.discard((json.dumps(self.prompts[one.item.id]), one.text.text))

    def outcome(self, one: Scored, reason: str | None = None, **more: object) -> Outcome:
        """What became of a text."""
        at = self.bounds.get(one.type)
        known = {} if at is None else {key: value for key, value in (("high", at.high), ("low", at.low)) if math.isfinite(value)}
        about = {"item": one.item.id, "place": one.place, "type": one.type, "score": one.score, "problem": one.problem}
        return Outcome.model_validate({"id": one.id, "reason": reason, **about, **known, **more})


def couples(texts: Sequence[Scored], prompts: Mapping[str, Prompt | None]) -> Iterator[list[Scored]]:
    """Texts that answer one same prompt, each group from the best to the worst, those without a score at its end: the two of a pair, and
    single texts of a source with equal prompts.
    """
    groups: dict[str, list[Scored]] = defaultdict(list)
    for one in texts:
        groups[one.item.id if one.item.pair else json.dumps(prompts[one.item.id]) if prompts[one.item.id] else one.id].append(one)
    for group in groups.values():
        yield sorted(group, key=lambda one: -math.inf if one.score is None else one.score, reverse=True)


def matched(group: Sequence[Scored], sorting: Sorting, low: Low) -> list[tuple[Scored, str | None, Scored | None]]:
    """The texts of a group, each with why it is not chosen, the chosen one with the rejected one: the worst that may be one."""
    best, others = group[0], group[1:]
    if not others:
        return [(best, UNSCORED if best.score is None else ALONE, None)]
    reason, partner = sorting.why_not(best), None
    chosen = reason is None
    for other in reversed(others) if chosen else ():
        bound = sorting.bounds[best.type].low
        why = low.before_judging(best.text.text, other.text.text, other.cut) or low.by_score(best.score or 0.0, other.score, bound)
        if why is None:
            partner = other
            break
        reason = reason or why  # of the worst one, which lies furthest from the best
    if partner is not None:
        reason = None
    elif chosen:
        sorting.freed(best)
    rest = [(one, UNSCORED if one.score is None else REJECTED if one is partner else BETWEEN, None) for one in others]
    return [(best, reason, partner), *rest]


def pair_of(
    chosen: Scored, prompt: Prompt, text: str, score: float, about: Mapping[str, str | int], judge: str, special_tokens: Sequence[str]
) -> PreferencePair:
    """A chosen text beside a rejected `text`. `about`: what is to be known of the rejected one: rejected, tokens_rejected, cut_rejected,
    attempts. Texts are harmless: neither holds role tokens.
    """
    own = chosen.text
    return PreferencePair(
        id=chosen.id,
        prompt=prompt,
        chosen=[{"role": "assistant", "content": neutralise(own.text, special_tokens).strip()}],
        rejected=[{"role": "assistant", "content": neutralise(text, special_tokens).strip()}],
        score_chosen=float(chosen.score or 0.0),
        score_rejected=float(score),
        margin=float((chosen.score or 0.0) - score),
        round=0,
        policy_version=0,
        provenance={
            "source": chosen.item.source,
            "topic": chosen.item.topic,
            "type": chosen.type,
            "judge": judge,
            "chosen": chosen.id,
            "chosen_by": own.system or "",
            **_tokens("chosen", own.tokens),
            "cut_chosen": int(chosen.cut),
            **about,
        },
    )


def of_attempt(attempt: Attempt, model: str) -> dict[str, str | int]:
    """What is to be known of a rejected text that was written for it."""
    return {
        "rejected": attempt.id,
        "rejected_by": model,
        "tokens_rejected": attempt.tokens,
        "cut_rejected": int(attempt.cut),
        "attempts": attempt.number,
    }


def of_source(rejected: Scored) -> dict[str, str | int]:
    """What is to be known of a rejected text of the source."""
    text = rejected.text
    return {
        "rejected": rejected.id,
        "rejected_by": text.system or "",
        **_tokens("rejected", text.tokens),
        "cut_rejected": int(rejected.cut),
        "attempts": 0,
    }


def _tokens(side: str, count: int | None) -> dict[str, int]:
    """A text that people wrote has no tokens that were counted: not 0, but none."""
    return {} if count is None else {f"tokens_{side}": count}
