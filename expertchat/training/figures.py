"""What a round came to: its figures, and the limits that they are held against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

from expertchat.evaluation.statistics import scaled_margin
from expertchat.evaluation.text_metrics import distinct_n, repeated_sentences
from expertchat.preferences.pairs import Pairing
from expertchat.records import Figure
from expertchat.training.config import GuardsConfig
from expertchat.training.rollout import Bundle, Sampled

OFTEN = 0.25  # share of replies that are cut
PARROT = "parrot"  # the fault of a WIM response that repeats the reply


def round_figures(bundles: Sequence[Bundle], scores: Mapping[str, float | None], pairing: Pairing) -> dict[str, Figure]:
    """The figures of the talking and the pairing. What cannot be had is None.

    `margin_scaled` is the mean margin over the standard deviation of all rewards of the round: free of the reward's scale.
    """
    groups = [one for bundle in bundles for one in bundle.sampled]
    candidates = [c for one in groups for c in one.candidates]
    values = [v for c in candidates if (v := scores[c.id]) is not None]
    rewards = [r for one in groups for r in one.rewards]
    wims = [w for one in groups for w in one.wims]
    margins = [pair.margin for pair in pairing.pairs]
    return {
        "histories": len(groups),
        "candidates": len(candidates),
        "pairs": len(pairing.pairs),
        "ties": pairing.ties,
        "tie_rate": pairing.tie_rate,
        "nulls": pairing.nulls,
        "null_rate": pairing.nulls / len(candidates) if candidates else None,
        "stale": pairing.stale,
        "unmatched": pairing.unmatched,
        "altered": pairing.altered,
        "cut_dropped": pairing.cut,
        "cut_rate": _mean([float(c.cut) for c in candidates]),
        "cut_chosen": _mean([float(pair.provenance["cut_chosen"]) for pair in pairing.pairs]),
        "cut_rejected": _mean([float(pair.provenance["cut_rejected"]) for pair in pairing.pairs]),
        "reward_mean": _mean(values),
        "reward_chosen": _mean([pair.score_chosen for pair in pairing.pairs]),
        "reward_rejected": _mean([pair.score_rejected for pair in pairing.pairs]),
        "margin": _mean(margins),
        "margin_scaled": scaled_margin(margins, values),
        "rating_mean": _mean([r.rating for r in rewards if r.rating is not None]),
        "wim_mean": _mean([r.wim for r in rewards if r.wim is not None]),
        "wim_empty": fmean(w.empty for w in wims) if wims else None,
        "parrot_rate": fmean(w.fault == PARROT for w in wims) if wims else None,
        **_faults(groups),
        "length": _mean([c.tokens for c in candidates]),
        "length_chosen": _mean([int(pair.provenance["tokens_chosen"]) for pair in pairing.pairs]),
        "length_rejected": _mean([int(pair.provenance["tokens_rejected"]) for pair in pairing.pairs]),
        "distinct_2": distinct_n([c.text for c in candidates], 2),
        "repeats": _mean([repeat for bundle in bundles for one in bundle.sampled for repeat in _repeats(bundle, one)]),
    }


def _repeats(bundle: Bundle, one: Sampled) -> list[float]:
    earlier = [turn.text for turn in bundle.transcript.turns[: one.candidates[0].turn]]
    return [repeated_sentences(c.text, earlier) for c in one.candidates]


def _faults(groups: Sequence[Sampled]) -> dict[str, Figure]:
    """How often each kind of null came: "fault_rating_cut", "fault_wim_loop"; kinds that did not come are left out."""
    kinds = Counter(f"fault_rating_{r.fault}" for one in groups for r in one.ratings if r.fault)
    kinds.update(f"fault_wim_{w.fault}" for one in groups for w in one.wims if w.fault)
    return dict(sorted(kinds.items()))


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def remarks(figures: Mapping[str, Figure], seat: str) -> list[str]:
    """What a round's figures say about its training that somebody should hear, each with the remedy. `seat` has learnt."""
    cut, altered, skipped, made = (figures.get(name) or 0 for name in ("cut_rate", "altered", "skipped", "steps"))
    found = []
    if float(cut) >= OFTEN:
        found.append(
            f"{float(cut):.0%} of the replies were cut at the token limit, and none of them teaches an end: raise "
            f"experts.{seat}.decoding.reply.max_new_tokens, or ask for shorter replies"
        )
    if altered:
        found.append(f"{altered} replies are in no pair, because they are not shown as they were written (role tokens, thinking, ...)")
    if skipped:
        found.append(f"{skipped} of {int(skipped) + int(made)} steps were not made: their loss or gradient was not finite")
    return found


def alarms(figures: Mapping[str, Figure], base_length: float | None, guards: GuardsConfig) -> list[str]:
    """What is beyond a limit, each with its number and the limit. `base_length`: tokens of the base's replies."""
    length = figures.get("length")
    ratio = length / base_length if isinstance(length, int | float) and base_length else None
    held: list[tuple[str, Figure, float | None, bool]] = [
        ("KL to the base", figures.get("kl"), guards.max_kl, True),
        ("reply length over the base's", ratio, guards.max_length_ratio, True),
        ("null rate", figures.get("null_rate"), guards.max_null_rate, True),
        ("share of WIM responses that parrot the reply", figures.get("parrot_rate"), guards.max_parrot_rate, True),
        ("distinct-2", figures.get("distinct_2"), guards.min_distinct_2, False),
    ]
    found = []
    for name, value, limit, upper in held:
        if limit is not None and isinstance(value, int | float) and (value > limit if upper else value < limit):
            found.append(f"{name} is {value:.3g}, {'above' if upper else 'below'} the limit of {limit:g}")
    return found
