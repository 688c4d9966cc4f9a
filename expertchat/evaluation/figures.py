"""From compared replies to figures: win rates, lengths, manners, and what the embedded world's truth says, with intervals by topic."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

import numpy
from pydantic import Field

from expertchat.evaluation.by_topic import Found, estimate, mean_of, ratio_of, share_of
from expertchat.evaluation.draws import Array
from expertchat.evaluation.manner import Manner
from expertchat.evaluation.truth import Tally
from expertchat.records import Figure, Record, Speaker, Turn, Verdict

RATINGS_APART = 1e-3  # mean ratings that are closer are equal: what else is in a batch changes their last digits
ANSWERED = 0.5  # of the comparisons must have an outcome where a round is chosen by them
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
    manner_policy: Manner | None = None
    manner_base: Manner | None = None
    reward_policy: float | None = None  # what the judges of training make of the reply; None: they were not asked
    reward_base: float | None = None

    @property
    def group(self) -> str:
        """What it is drawn with: its topic; of an earlier version, which kept none, itself."""
        return self.topic or self.history


def outcome(policy: float, base: float, apart: float = 0.0) -> float | None:
    """1, 0.5 or 0: whose number is higher. Numbers not more than `apart` apart are a tie; None where one of them is no number."""
    if not (math.isfinite(policy) and math.isfinite(base)):
        return None
    return 0.5 if abs(policy - base) <= apart else float(policy > base)


def figures(compared: Sequence[Comparison], judge: str, seed: int) -> dict[str, Figure]:
    """All figures of one evaluation, or of several together; the same comparisons in the same order give the same figures."""
    alike = win_figures([c for c in compared if like_length(c.reply.tokens, c.base_tokens)], seed)
    lengths = ratio_of([c.reply.tokens for c in compared], [c.base_tokens for c in compared], [c.group for c in compared], seed=seed)
    return {
        **win_figures(compared, seed),
        "judge": judge,
        "tokens_policy": _mean(c.reply.tokens for c in compared),
        "tokens_base": _mean(c.base_tokens for c in compared),
        **bounded("tokens_ratio", lengths),
        "win_rate_length_matched": alike["win_rate"],
        "win_rate_length_matched_low": alike["win_rate_low"],
        "win_rate_length_matched_high": alike["win_rate_high"],
        "n_length_matched": alike["n"],
        "ties_length_matched": alike["ties"],
        **_rated(compared),
        **_verdicts([v for c in compared for v in c.verdicts], [c for c in compared if c.verdicts]),
        **_truth(compared, seed),
        **_measured(compared, seed),
        **_manners(compared, seed),
        **_apart("reward", compared, seed, lambda c: c.reward_policy, lambda c: c.reward_base, count="n_reward"),
    }


def win_figures(compared: Sequence[Comparison], seed: int) -> dict[str, Figure]:
    """Wins, ties, losses and the interval by topics; ties count half, a comparison without an answer does not count and is in `nulls`.

    Where several judges were asked, a win is one of most of them, and it counts by their share. `win_rate_least`: the least distance from
    one half that so many topics show with a probability of .8.
    """
    known = [(c.outcome, c.group) for c in compared if c.outcome is not None]
    outcomes = [value for value, _ in known]
    found = share_of(outcomes, [topic for _, topic in known], seed=seed)
    return {
        "n": len(known),
        "topics": found.topics,
        **bounded("win_rate", found),
        "win_rate_least": found.least,
        "wins": sum(value > 0.5 for value in outcomes),
        "ties": sum(value == 0.5 for value in outcomes),
        "losses": sum(value < 0.5 for value in outcomes),
        "nulls": len(compared) - len(known),
    }


def bounded(name: str, found: Found) -> dict[str, Figure]:
    """A figure with the bounds of its interval."""
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


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
    flips = sum(None not in said and len(set(said)) > 1 for c in compared for said in _by_order(c.verdicts))
    return {"flips": flips, "first_share": _mean(v.verdict == "A" for v in decided)}


def _by_order(verdicts: Sequence[Verdict]) -> list[list[Speaker | str | None]]:
    """What each judge says in each order, by each principle for itself."""
    said: dict[tuple[str, str | None], list[Speaker | str | None]] = {}
    for one in verdicts:
        said.setdefault((one.judge, one.principle), []).append(one.winner)
    return list(said.values())


Of = Callable[[Comparison], float | None]


def _apart(name: str, compared: Sequence[Comparison], seed: int, policy: Of, base: Of, count: str | None = None) -> dict[str, Figure]:
    """The means of policy and base where both are known, and what lies between them, with its interval; nothing where none is."""
    both = [(c.group, one, other) for c in compared if (one := policy(c)) is not None and (other := base(c)) is not None]
    if not both:
        return {}
    found = mean_of([one - other for _, one, other in both], [topic for topic, _, _ in both], seed=seed)
    return {
        f"{name}_policy": fmean(one for _, one, _ in both),
        f"{name}_base": fmean(other for _, _, other in both),
        **bounded(f"{name}_difference", found),
        **({count: len(both)} if count else {}),
    }


def _measured(compared: Sequence[Comparison], seed: int) -> dict[str, Figure]:
    """What a program measures."""
    found = _apart("measure", compared, seed, lambda c: c.measure_policy, lambda c: c.measure_base)
    topics = {c.group for c in compared if c.measure_policy is not None and c.measure_base is not None}
    return found | ({"measure_topics": len(topics)} if found else {})


def _manners(compared: Sequence[Comparison], seed: int) -> dict[str, Figure]:
    """Questions, agreements and sentences said before, each a reply."""
    found: dict[str, Figure] = {}
    for name in ("questions", "agreements", "again"):
        found |= _apart(name, compared, seed, _of("manner_policy", name), _of("manner_base", name))
    return found


def _of(counts: str, name: str) -> Of:
    """A number of a reply's Tally or Manner."""

    def of(one: Comparison) -> float | None:
        said = getattr(one, counts)
        return None if said is None else float(getattr(said, name))

    return of


OF_CLAIMS: dict[str, Callable[[Tally], int]] = {"accuracy": lambda t: t.claims - t.wrong, "repeat_rate": lambda t: t.repeats}


def _truth(compared: Sequence[Comparison], seed: int) -> dict[str, Figure]:
    """Facts, repeats and wrong sentences a reply; accuracy and repeats over all claims; facts over the base's; the score that decides.

    A longer reply has more repeats, so those of all claims tell whether the policy repeats more or only says more.
    """
    both = [(c.policy, c.base, c.group) for c in compared if c.policy is not None and c.base is not None]
    if not both:
        return {}
    topics = [topic for _, _, topic in both]
    ratio = ratio_of([p.distinct for p, _, _ in both], [b.distinct for _, b, _ in both], topics, seed=seed)
    found: dict[str, Figure] = bounded("distinct_ratio", ratio)
    for name, field in (("repeats", "repeats"), ("wrong", "wrong"), ("truth", "score")):
        found |= _apart(name, compared, seed, _of("policy", field), _of("base", field))
    for who, tallies in (("policy", [p for p, _, _ in both]), ("base", [b for _, b, _ in both])):
        found[f"distinct_{who}"] = fmean(t.distinct for t in tallies)
        said = sum(t.claims for t in tallies)
        for name, part in OF_CLAIMS.items():
            found[f"{name}_{who}"] = sum(part(t) for t in tallies) / said if said else None
    for name, part in OF_CLAIMS.items():
        shares = [[part(p), p.claims, part(b), b.claims] for p, b, _ in both]
        found |= bounded(f"{name}_difference", estimate(shares, topics, _shares_apart, seed=seed))
    return found


def _shares_apart(sums: Array) -> Array:
    """The first sum over the second, less the third over the fourth."""
    with numpy.errstate(invalid="ignore", divide="ignore"):
        found: Array = sums[..., 0] / sums[..., 1] - sums[..., 2] / sums[..., 3]
    return found
