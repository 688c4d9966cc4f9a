"""What a round came to: its figures, and the limits that they are held against."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from expertchat.evaluation.statistics import scaled_margin
from expertchat.judging.answers import parrot_rate
from expertchat.preferences.candidates import Bundle, Sampled
from expertchat.preferences.pairs import Pairing
from expertchat.records import Figure, Score
from expertchat.text.likeness import blank
from expertchat.text.measures import distinct_n, repeated_sentences

OFTEN = 0.25  # share of replies that are cut
LOST = {
    "equal": "times the same text",
    "ties": "ties (margin below pairs.min_margin)",
    "flat": "histories whose candidates are all worth the same",
    "lone": "histories with fewer than two candidates that count",
    "nulls": "candidates without a score",
    "thinking": "candidates that thought before they spoke (experts.*.thinking=false asks them not to)",
    "altered": "candidates that are not shown as they were written",
    "cut_dropped": "candidates cut at the token limit (pairs.cut=drop)",
    "stale": "histories of an old policy",
    "unmatched": "histories without candidates of like length",
    "too_long": "rows longer than train.max_tokens",
    "surplus": "rows too few for the processes",
    "skipped": "steps not made, their loss or gradient was not finite",
}
"""What keeps candidates from being trained on: a round's figure -> how it is said."""


def round_figures(bundles: Sequence[Bundle], scored: Sequence[Score], pairing: Pairing | None) -> dict[str, Figure]:
    """The figures of the talking and of the pairing, where there was one. What cannot be had is None. `measured` is the mean of what a
    program has measured, in its own unit.
    """
    groups = [one for bundle in bundles for one in bundle.sampled]
    candidates = [c for one in groups for c in one.candidates]
    values = [score.value for score in scored if score.value is not None]
    rewards = [r for one in groups for r in one.rewards]
    wims = [w for one in groups for w in one.wims]
    return {
        "histories": len(groups),
        "candidates": len(candidates),
        **({} if pairing is None else _paired(pairing, len(candidates), values)),
        "beyond": sum(c.beyond is not None for c in candidates),
        "blank": sum(blank(c.text) for c in candidates),
        "cut_rate": _mean([float(c.cut) for c in candidates]),
        "reward_mean": _mean(values),
        "reward_spread": stdev(values) if len(values) > 1 else None,
        **_functions(scored),
        "measured": _mean([score.measured for score in scored if score.measured is not None]),
        "rating_mean": _mean([r.rating for r in rewards if r.rating is not None]),
        "wim_mean": _mean([r.wim for r in rewards if r.wim is not None]),
        "wim_empty": fmean(w.empty for w in wims) if wims else None,
        "parrot_rate": parrot_rate(wims),
        **_faults(groups),
        "length": _mean([c.tokens for c in candidates]),
        "distinct_2": distinct_n([c.text for c in candidates], 2),
        "repeats": _mean([repeat for bundle in bundles for one in bundle.sampled for repeat in _repeats(bundle, one)]),
    }


def _paired(pairing: Pairing, candidates: int, values: Sequence[float]) -> dict[str, Figure]:
    """`margin_scaled` is the mean margin over the standard deviation of all rewards of the round: free of the reward's scale."""
    margins = [pair.margin for pair in pairing.pairs]
    return {
        "pairs": len(pairing.pairs),
        "ties": pairing.ties,
        "equal": pairing.equal,
        "tie_rate": pairing.tie_rate,
        "nulls": pairing.nulls,
        "null_rate": pairing.nulls / candidates if candidates else None,
        "stale": pairing.stale,
        "unmatched": pairing.unmatched,
        "altered": pairing.altered,
        "thinking": pairing.thinking,
        "cut_dropped": pairing.cut,
        "cut_chosen": _mean([float(pair.provenance["cut_chosen"]) for pair in pairing.pairs]),
        "cut_rejected": _mean([float(pair.provenance["cut_rejected"]) for pair in pairing.pairs]),
        "reward_chosen": _mean([pair.score_chosen for pair in pairing.pairs]),
        "reward_rejected": _mean([pair.score_rejected for pair in pairing.pairs]),
        "margin": _mean(margins),
        "margin_scaled": scaled_margin(margins, values),
        "length_chosen": _mean([int(pair.provenance["tokens_chosen"]) for pair in pairing.pairs]),
        "length_rejected": _mean([int(pair.provenance["tokens_rejected"]) for pair in pairing.pairs]),
    }


def _repeats(bundle: Bundle, one: Sampled) -> list[float]:
    earlier = [turn.text for turn in bundle.transcript.turns[: one.candidates[0].turn]]
    return [repeated_sentences(c.text, earlier) for c in one.candidates]


def _functions(scored: Sequence[Score]) -> dict[str, Figure]:
    """Of every reward function what it says in the mean, how far its values spread (standard deviation) and how often it says nothing."""
    found: dict[str, Figure] = {}
    for name in dict.fromkeys(name for score in scored for name in score.parts):
        said = [score.parts.get(name) for score in scored]
        known = [value for value in said if value is not None]
        found[f"function_{name}"] = _mean(known)
        found[f"function_{name}_spread"] = stdev(known) if len(known) > 1 else None
        found[f"function_{name}_nulls"] = len(said) - len(known)
    return found


def _faults(groups: Sequence[Sampled]) -> dict[str, Figure]:
    """How often each kind of null came: "fault_rating_cut", "fault_wim_loop"; kinds that did not come are left out."""
    kinds = Counter(f"fault_rating_{r.fault}" for one in groups for r in one.ratings if r.fault)
    kinds.update(f"fault_wim_{w.fault}" for one in groups for w in one.wims if w.fault)
    return dict(sorted(kinds.items()))


def _mean(values: Sequence[float]) -> float | None:
    """The mean of those that are numbers; None where there is none."""
    known = [value for value in values if math.isfinite(value)]
    return fmean(known) if known else None


def remarks(figures: Mapping[str, Figure], seat: str) -> list[str]:
    """What a round's figures say about its training that somebody should hear, each with the remedy. `seat` has learnt."""
    cut, altered, skipped, made = (figures.get(name) or 0 for name in ("cut_rate", "altered", "skipped", "steps"))
    found = _of_thinking(figures, seat)
    if float(cut) >= OFTEN:
        found.append(
            f"{float(cut):.0%} of the replies were cut at the token limit, and none of them teaches an end: raise "
            f"experts.{seat}.decoding.reply.max_new_tokens, or ask for shorter replies"
        )
    if altered:
        why = "role tokens, thinking, the partner's words, ..."
        found.append(f"{altered} replies are not trained on, because they are not shown as they were written ({why})")
    for name, said in (("beyond", "went on for the partner and were cut there"), ("blank", "say nothing")):
        if number := figures.get(name):
            found.append(f"{number} replies {said}; none of them is trained on")
    if skipped:
        found.append(f"{skipped} of {int(skipped) + int(made)} steps were not made: their loss or gradient was not finite")
    return found


def _of_thinking(figures: Mapping[str, Figure], seat: str) -> list[str]:
    """What is said where candidates thought: none of them is trained on."""
    thought, candidates = int(figures.get("thinking") or 0), int(figures.get("candidates") or 0)
    if not thought:
        return []
    whole = thought >= candidates
    return [
        (f"all {thought} candidates" if whole else f"{thought} of {candidates} candidates")
        + " thought before they spoke; their thoughts are not judged, so they are not trained on"
        + (" and nothing can be learnt as it is" if whole else "")
        + f": set experts.{seat}.thinking=false, or where it is false already, take a model that answers at once"
    ]


def why_nothing(figures: Sequence[Mapping[str, Figure]]) -> str:
    """What became of the candidates of rounds (their figures) that made nothing to train on: the counts, the commonest first."""

    def total(name: str) -> int:
        return sum(int(value) for one in figures if isinstance(value := one.get(name), int | float))

    lost = sorted(((total(name), said) for name, said in LOST.items()), reverse=True)
    counts = [f"{number} {said}" for number, said in lost if number] or ["no candidates"]
    return f"{total('histories')} histories with {total('candidates')} candidates: {', '.join(counts)}"
