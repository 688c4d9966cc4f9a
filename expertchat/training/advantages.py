"""From scored candidates to advantages: by how much each reply is better than what its policy usually gives there. No torch here.

RLOO (Ahmadian et al. 2024, arXiv 2402.14740): the reward less the mean of the other replies' to the same history (leave one out).
GRPO (Shao et al. 2024, arXiv 2402.03300): the reward less the mean of the group, over the group's standard deviation. Without that division
it is Dr. GRPO's (Liu et al. 2025, arXiv 2503.20783). With `baseline: role` the baseline is that of the expert who speaks, over all its
replies of the round (role-conditioned advantages: SPIRAL, Liu et al. 2025, arXiv 2506.24119): one policy that plays several experts is not
rewarded for having the easier part.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Literal

from expertchat.preferences.pairs import Choice
from expertchat.records import Candidate, Figure

LEAST_STDEV = 1e-4  # added to a standard deviation before a division by it, as TRL does
Of = Literal["group", "role"]


@dataclass(frozen=True)
class Group:
    """The replies of one history that count, each with its advantage."""

    choice: Choice
    candidates: Sequence[Candidate]
    advantages: Sequence[float]


@dataclass
class Grouping:
    """The groups of a round and what became of the rest."""

    groups: list[Group] = field(default_factory=list)
    candidates: int = 0
    nulls: int = 0  # candidates without a score
    altered: int = 0  # candidates whose text is not what the policy wrote
    thinking: int = 0  # candidates that thought before they spoke
    lone: int = 0  # histories with fewer than two candidates that count
    flat: int = 0  # histories whose candidates are all worth the same: they give no gradient
    spreads: list[float] = field(default_factory=list)  # the standard deviation of each other history's rewards

    def counts(self) -> dict[str, Figure]:
        """The figures of a round that come of it. `spread` is the mean standard deviation of the rewards within a history."""
        return {
            "groups": len(self.groups),
            "flat": self.flat,
            "lone": self.lone,
            "nulls": self.nulls,
            "null_rate": self.nulls / self.candidates if self.candidates else None,
            "altered": self.altered,
            "thinking": self.thinking,
            "spread": fmean(self.spreads) if self.spreads else None,
        }


Counted = tuple[Candidate, float]


def grouped(
    choices: Iterable[Choice],
    *,
    leave_one_out: bool,
    baseline: Of,
    scale: Of | None,
    beta: float = 0.0,
    log_ratios: Mapping[str, float] | None = None,
) -> Grouping:
    """The advantages of a round's candidates: reward less baseline, over the standard deviation of `scale` where one is named.

    A candidate without a score (or with one that is no number) plays no part, nor does one that was altered or thought before it spoke:
    what was judged and what would be trained are not the same. `beta`: taken off the reward for each nat of log policy - log base (RLOO's;
    a candidate of which that is not known plays no part then). Histories without two candidates, or without a spread, are counted.
    """
    made, known = Grouping(), log_ratios or {}
    counted = [(choice, _counted(choice, made, beta, known)) for choice in choices]
    roles: dict[str, list[float]] = {}
    for _, candidates in counted:
        for one, value in candidates:
            roles.setdefault(one.speaker, []).append(value)
    for choice, candidates in counted:
        if len(candidates) < 2:
            made.lone += 1
            continue
        values = [value for _, value in candidates]
        of_role = roles[candidates[0][0].speaker]
        around = of_role if baseline == "role" else values
        divisor = 1.0 if scale is None else stdev(of_role if scale == "role" else values) + LEAST_STDEV
        advantages = [(value - _usual(value, around, leave_one_out)) / divisor for value in values]
        if max(map(abs, advantages)) < 1e-9:
            made.flat += 1
            continue
        made.spreads.append(stdev(values))
        made.groups.append(Group(choice, [one for one, _ in candidates], advantages))
    return made


def _usual(value: float, around: Sequence[float], leave_one_out: bool) -> float:
    """The baseline of one of the values: their mean, or that of all others.

    >>> _usual(4.0, [4.0, 1.0, 1.0], True), _usual(4.0, [4.0, 1.0, 1.0], False)
    (1.0, 2.0)
    """
    if leave_one_out:
        return (math.fsum(around) - value) / (len(around) - 1)
    return fmean(around)


def _counted(choice: Choice, made: Grouping, beta: float, log_ratios: Mapping[str, float]) -> list[Counted]:
    """The candidates of a history that play a part, with their rewards."""
    found = []
    for value, one in zip(choice.scores, choice.candidates, strict=True):
        made.candidates += 1
        ratio = log_ratios.get(one.id) if beta else 0.0
        if one.altered == "thinking":
            made.thinking += 1
        elif value is None or ratio is None or not math.isfinite(value - beta * ratio):
            made.nulls += 1
        elif one.altered is not None:
            made.altered += 1
        else:
            found.append((one, value - beta * ratio))
    return found
