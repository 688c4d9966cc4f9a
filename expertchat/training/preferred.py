"""Rows with preferences as a model is shown them: token ids, what is left out of them and why, and how they stand with the policy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

from expertchat.backends.likelihood import likelihoods
from expertchat.config import ConfigError
from expertchat.evaluation.by_topic import share_of
from expertchat.records import Demonstration, Figure
from expertchat.records.learning import Preference
from expertchat.training.encoded import SHOWN, Encoder
from expertchat.training.kto import LABEL
from expertchat.training.learner import Learner
from expertchat.training.rows import Row

SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class Preferred:
    """A row in tokens. `replies`: of those that it has, "chosen" before "rejected"."""

    row: Preference
    prompt: list[int]
    replies: dict[str, list[int]]

    @property
    def tokens(self) -> int:
        """Of the prompt with the longest reply."""
        return len(self.prompt) + max(map(len, self.replies.values()))


@dataclass
class Found:
    """The rows that can be trained on or measured, and what is to be said of the others."""

    rows: list[Preferred] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def part(self, name: str) -> list[Preferred]:
        return [one for one in self.rows if one.row.part == name]


def encoded(row: Preference, encoder: Encoder) -> Preferred:
    """A row's tokens. A reply that the token limit cut has no end. Raises ConfigError for a chat that the template refuses."""
    prompt, replies = list[int](), dict[str, list[int]]()
    for side in SIDES:
        text: str | None = getattr(row, side)
        if text is None:
            continue
        shown = Demonstration(
            id=row.id, prompt=row.prompt, completion=[{"role": "assistant", "content": text}], rendered=row.rendered
        )
        one = encoder.encode(shown)
        prompt = one.prompt
        replies[side] = one.completion[:-1] if one.ended and side in row.cut else one.completion
    return Preferred(row, prompt, replies)


def checked(rows: Sequence[Preference], encoder: Encoder) -> Found:
    """All rows as tokens, without those that are too long, say nothing or say twice the same. Raises ConfigError where none is left."""
    found, lost = Found(), {"dropped": list[str](), "same": list[str](), "long": list[str]()}
    for row in rows:
        one = encoded(row, encoder)
        why = _why_not(one, encoder)
        if why is None:
            found.rows.append(one)
        else:
            lost[why].append(row.id)
    if rows and len(lost["dropped"]) == len(rows):
        raise ConfigError("data: the template drops the replies of all rows, and nothing could be trained; take another data.template")
    if not found.part("train"):
        every = [row for row in rows if row.part == "train"]
        long = f"all {len(every)} rows to train on are longer than {encoder.most} tokens (train.max_tokens, or the model's context)"
        why = long if len(lost["long"]) >= len(every) > 0 else f"none of {len(rows)} rows is left to train on ({_counts(lost)})"
        raise ConfigError(f"data: {why}; raise train.max_tokens, or give other rows")
    said = {
        "dropped": "have a reply of which the template leaves nothing",
        "same": "have two replies of the same tokens",
        "long": f"are longer than {encoder.most} tokens (train.max_tokens)",
    }
    found.warnings = [f"{_of(ids, len(rows))} {said[why]}: left out" for why, ids in lost.items() if ids]
    return found


def _why_not(one: Preferred, encoder: Encoder) -> str | None:
    if not all(map(encoder.says, one.replies.values())):
        return "dropped"
    if len(one.replies) == 2 and one.replies["chosen"] == one.replies["rejected"]:
        return "same"
    return "long" if one.tokens > encoder.most else None


def _counts(lost: dict[str, list[str]]) -> str:
    names = {"dropped": "without a reply after the template", "same": "with two equal replies", "long": "too long"}
    return ", ".join(f"{len(ids)} {names[why]}" for why, ids in lost.items() if ids) or "there are none"


def _of(ids: Sequence[str], count: int) -> str:
    more = ", ..." if len(ids) > SHOWN else ""
    return f"{len(ids)} of {count} rows ({', '.join(ids[:SHOWN])}{more})"


def as_pair(one: Preferred) -> Row:
    """A row as dpo takes it."""
    return {"prompt_ids": one.prompt, "chosen_ids": one.replies["chosen"], "rejected_ids": one.replies["rejected"]}


def as_judged(one: Preferred) -> Iterator[Row]:
    """The replies of a row, each by itself, as kto takes them."""
    for side, reply in one.replies.items():
        yield {"prompt_ids": one.prompt, "completion_ids": reply, LABEL: [int(side == "chosen")]}


# -- how the policy stands to them ----------------------------------------------------------------------------------------


class Stand(NamedTuple):
    """Of one row: log policy - log base of each reply (nats; None: it has none); whether the policy finds the chosen one likelier."""

    chosen: float | None
    rejected: float | None
    likelier: bool | None


def stands(learner: Learner, rows: Sequence[Preferred]) -> list[Stand]:
    """How each row stands with the learner's present policy; before any update that is its base, whatever half precision makes of it."""
    asked = [(tuple(one.prompt), [tuple(reply) for reply in one.replies.values()]) for one in rows]
    of_policy, found = likelihoods(learner.policy, asked), []
    of_base = likelihoods(learner.base, asked) if learner.version else of_policy
    for one, mine, its in zip(rows, of_policy, of_base, strict=True):
        ratios = {side: a.logp - b.logp for side, a, b in zip(one.replies, mine, its, strict=True)}
        likelier = mine[0].logp > mine[1].logp if len(mine) == 2 else None
        found.append(Stand(ratios.get("chosen"), ratios.get("rejected"), likelier))
    return found


def group_of(one: Preferred) -> str:
    """Rows of one group are alike: its own, its topic, or the row alone."""
    return one.row.group or one.row.topic or one.row.id


def figures_of(found: Sequence[Stand], beta: float, groups: Sequence[str] | None = None) -> dict[str, Figure]:
    """`accuracy`: how often the policy's own reward, beta times its log ratio, is on the side of the chosen one (of a single reply: above
    0 for a good one), a tie counting a half; its interval draws whole groups, without `groups` rows.
    `heldout_margin`: the mean of its differences in pairs.
    `heldout_loss`: the mean of -log sigmoid of what lies on the right side, DPO's own, log 2 for a tie. `likelier`: how often the policy
    finds the chosen one of a pair likelier as a whole. None where there is nothing, or a number is not finite.

    >>> found = figures_of([Stand(2.0, 1.0, True), Stand(0.0, 0.0, False)], 0.1)  # one right, one tie
    >>> found["accuracy"], round(found["heldout_loss"], 4)  # (log(1 + exp(-.1)) + log 2) / 2
    (0.75, 0.6688)
    """
    good = [value for one in found for value in (one.chosen, one.rejected) if value is not None]
    if not good or not all(map(math.isfinite, good)):
        names = ("accuracy", "accuracy_low", "accuracy_high", "heldout_margin", "heldout_loss", "likelier")
        return {**dict.fromkeys(names), "rows": len(found)}
    apart = [one.chosen - one.rejected for one in found if one.chosen is not None and one.rejected is not None]
    single = [one.chosen if one.chosen is not None else -(one.rejected or 0.0) for one in found if None in (one.chosen, one.rejected)]
    right = share_of([_right(one) for one in found], groups or [str(i) for i in range(len(found))], seed=0)
    known = [one.likelier for one in found if one.likelier is not None]
    return {
        "accuracy": right.value,
        "accuracy_low": right.low,
        "accuracy_high": right.high,
        "heldout_margin": beta * fmean(apart) if apart else None,
        "heldout_loss": fmean(_loss(beta * value) for value in (*apart, *single)),
        "likelier": fmean(map(float, known)) if known else None,
        "rows": len(found),
    }


def _right(one: Stand) -> float:
    """1 where the policy's own reward is on the right side, 0.5 where it is on none."""
    value = (one.chosen or 0.0) - (one.rejected or 0.0)
    return 0.5 if value == 0 else float(value > 0)


def _loss(value: float) -> float:
    """-log sigmoid, for large numbers too."""
    return math.log1p(math.exp(-abs(value))) + max(0.0, -value)
