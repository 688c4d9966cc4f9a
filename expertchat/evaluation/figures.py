"""From compared replies to figures: win rates, lengths, and what the embedded world's truth says, with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean

from pydantic import Field

from expertchat.evaluation.statistics import mean_by_cluster, ratio_of_means, wilson
from expertchat.evaluation.truth import Tally
from expertchat.records import Figure, Record, Speaker, Turn, Verdict

RATINGS_APART = 1e-3  # mean ratings that are closer are equal: what else is in a batch changes their last digits
LENGTH_RATIO = 1.25  # replies whose token counts differ by no more are of like length


class Comparison(Record):
    """The policy's reply to a held-out history beside the base's.

    `outcome`: 1 the policy's is better, 0 the base's, 0.5 neither, of several judges the mean of what they say; None, with the problem,
    where nobody says. A rating is the mean of the judges'.
    """

    history: str
    learner: Speaker
    policy_version: int
    reply: Turn
    base_tokens: int
    outcome: float | None = None
    problem: str | None = None
    policy: Tally | None = None
    base: Tally | None = None
    rating_policy: float | None = None
    rating_base: float | None = None
    verdicts: list[Verdict] = Field(default_factory=list)
    topic: str | None = None
    measure_policy: float | None = None  # what a program measures in the reply, in its own unit
    measure_base: float | None = None


def outcome(policy: float, base: float, apart: float = 0.0) -> float | None:
    """1, 0.5 or 0: whose number is higher. Numbers not more than `apart` apart are a tie; None where one of them is no number."""
    if not (math.isfinite(policy) and math.isfinite(base)):
        return None
    return 0.5 if abs(policy - base) <= apart else float(policy > base)


def figures(compared: Sequence[Comparison], judge: str, seed: int) -> dict[str, Figure]:
    """All figures of one evaluation; the same comparisons in the same order give the same figures."""
    found = win_figures([c.outcome for c in compared])
    alike = [c for c in compared if like_length(c.reply.tokens, c.base_tokens)]
    matched = win_figures([c.outcome for c in alike])
    return {
        **found,
        "judge": judge,
        "tokens_policy": _mean(c.reply.tokens for c in compared),
        "tokens_base": _mean(c.base_tokens for c in compared),
        "win_rate_length_matched": matched["win_rate"],
        "win_rate_length_matched_low": matched["win_rate_low"],
        "win_rate_length_matched_high": matched["win_rate_high"],
        "n_length_matched": matched["n"],
        **_rated(compared),
        **_verdicts([v for c in compared for v in c.verdicts], [c for c in compared if c.verdicts]),
        **_truth(compared, seed),
        **_measured(compared, seed),
    }


def win_figures(outcomes: Sequence[float | None]) -> dict[str, Figure]:
    """Wins, ties, losses and Wilson's interval; ties count half, a comparison without an answer does not count and is named in `nulls`.

    Where several judges were asked, a win is one of most of them, and it counts by their share.
    """
    known = [value for value in outcomes if value is not None]
    n, won = len(known), sum(known)
    low, high = wilson(won, n)
    return {
        "n": n,
        "win_rate": won / n if n else None,
        "win_rate_low": low if n else None,
        "win_rate_high": high if n else None,
        "wins": sum(value > 0.5 for value in known),
        "ties": sum(value == 0.5 for value in known),
        "losses": sum(value < 0.5 for value in known),
        "nulls": len(outcomes) - n,
    }


def like_length(tokens: int, base_tokens: int) -> bool:
    """Whether the longer of two replies has at most LENGTH_RATIO times the tokens of the shorter."""
    return max(tokens, base_tokens) <= LENGTH_RATIO * min(tokens, base_tokens)


def _mean(values: Iterable[float]) -> float | None:
    """The mean of those that are numbers; None where there is none."""
    found = [value for value in values if math.isfinite(value)]
    return fmean(found) if found else None


def _rated(compared: Sequence[Comparison]) -> dict[str, Figure]:
    both = [(c.rating_policy, c.rating_base) for c in compared if c.rating_policy is not None and c.rating_base is not None]
    return {"rating_policy": fmean(p for p, _ in both), "rating_base": fmean(b for _, b in both)} if both else {}


def _verdicts(verdicts: Sequence[Verdict], compared: Sequence[Comparison]) -> dict[str, Figure]:
    """The judges' bias: `flips`, comparisons decided otherwise in the other order; `first_share`, how often A among verdicts A and B."""
    if not compared:
        return {}
    decided = [v for v in verdicts if v.verdict in ("A", "B")]
    orders = [[v.winner for v in c.verdicts if v.judge == judge] for c in compared for judge in {v.judge for v in c.verdicts}]
    flips = sum(None not in said and len(set(said)) > 1 for said in orders)
    return {"flips": flips, "first_share": _mean(v.verdict == "A" for v in decided)}


def _measured(compared: Sequence[Comparison], seed: int) -> dict[str, Figure]:
    """What a program measures, the mean difference of policy and base, and the win rate's interval: both drawn by whole topics."""
    rows = [(c.topic or c.history, c.measure_policy, c.measure_base) for c in compared]
    both = [(topic, policy, base) for topic, policy, base in rows if policy is not None and base is not None]
    if not both:
        return {}
    differences = [policy - base for _, policy, base in both]
    low, high = mean_by_cluster(differences, [topic for topic, _, _ in both], seed=seed)
    found: dict[str, Figure] = {
        "measure_policy": fmean(policy for _, policy, _ in both),
        "measure_base": fmean(base for _, _, base in both),
        "measure_difference": fmean(differences),
        "measure_difference_low": low,
        "measure_difference_high": high,
        "measure_topics": len({topic for topic, _, _ in both}),
    }
    decided = [(c.topic or c.history, c.outcome) for c in compared if c.outcome is not None]
    if decided:
        low, high = mean_by_cluster([value for _, value in decided], [topic for topic, _ in decided], seed=seed)
        found |= {"win_rate_by_topic_low": low, "win_rate_by_topic_high": high}
    return found


def _truth(compared: Sequence[Comparison], seed: int) -> dict[str, Figure]:
    """Facts, repeats and wrong sentences a reply; accuracy over all claims; the ratio of distinct facts by a paired bootstrap."""
    both = [(c.policy, c.base) for c in compared if c.policy is not None and c.base is not None]
    if not both:
        return {}
    policy, base = [p for p, _ in both], [b for _, b in both]
    ratio = ratio_of_means([p.distinct for p in policy], [b.distinct for b in base], seed=seed)
    found: dict[str, Figure] = {
        "distinct_ratio": ratio.value,
        "distinct_ratio_low": ratio.low,
        "distinct_ratio_high": ratio.high,
    }
    for who, tallies in (("policy", policy), ("base", base)):
        claims = sum(t.claims for t in tallies)
        found |= {
            f"distinct_{who}": fmean(t.distinct for t in tallies),
            f"repeats_{who}": fmean(t.repeats for t in tallies),
            f"wrong_{who}": fmean(t.wrong for t in tallies),
            f"accuracy_{who}": (claims - sum(t.wrong for t in tallies)) / claims if claims else None,
        }
    return found
