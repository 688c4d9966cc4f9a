"""The card of a data set of pairs: what there is, how it came about, and what a model could learn from it that is not meant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median, quantiles
from typing import Any

from expertchat.building.held_out import HeldOut, doubles, said_before
from expertchat.evaluation.statistics import bootstrap, wilson
from expertchat.records import PreferencePair
from expertchat.records.building import Attempt, Outcome
from expertchat.text.in_words import line
from expertchat.text.likeness import weight, words

SIDES = ("chosen", "rejected")
UNFAIR = 0.6  # a share of longer chosen texts whose whole interval lies beyond this, or below 1 - this, is told


def card(
    pairs: Sequence[PreferencePair],
    near: float,
    held: HeldOut | None = None,
    outcomes: Iterable[Outcome] = (),
    attempts: Iterable[Attempt] = (),
) -> dict[str, Any]:
    """The figures of a card, as card.json holds them."""
    came, tried = list(outcomes), list(attempts)
    texts = {side: [said(pair, side) for pair in pairs] for side in SIDES}
    lengths = {side: [weight(words(text)) for text in texts[side]] for side in SIDES}
    told: dict[str, Any] = {"schema": 1, "pairs": len(pairs), "texts": len(came)}
    told["types"] = dict(Counter(str(pair.provenance.get("type") or "-") for pair in pairs).most_common())
    told["topics"] = dict(Counter(str(pair.provenance.get("topic") or "-") for pair in pairs).most_common())
    told["dropped"] = dict(Counter(one.reason for one in came if one.reason).most_common())
    told["attempts"] = _attempts(tried, {str(pair.provenance.get("chosen")) for pair in pairs})
    told["scores"] = {side: spread([_score(pair, side) for pair in pairs]) for side in SIDES}
    told["margins"] = spread([pair.margin for pair in pairs])
    prompts = [said_before(pair.prompt) for pair in pairs]
    told["words"] = {"prompt": spread([weight(words(text)) for text in prompts]), **{side: spread(lengths[side]) for side in SIDES}}
    told["length"] = length(lengths["chosen"], lengths["rejected"])
    told["cut"] = {side: sum(bool(pair.provenance.get(f"cut_{side}")) for pair in pairs) for side in SIDES}
    told["doubles"] = {name: dict(zip(("exact", "near"), doubles(found, near), strict=True)) for name, found in texts.items()}
    told["doubles"]["prompt"] = {"exact": len(prompts) - len(set(prompts))}
    told["near"] = near
    told["leakage"] = None if held is None or held.empty else leakage(pairs, held)
    return told


def said(pair: PreferencePair, side: str) -> str:
    """What the reply of one side says."""
    return "\n".join(message["content"] for message in getattr(pair, side))


def _score(pair: PreferencePair, side: str) -> float:
    return pair.score_chosen if side == "chosen" else pair.score_rejected


def _attempts(tried: Sequence[Attempt], chosen: set[str]) -> dict[str, Any]:
    """How often counterparts were written, and why they were not taken."""
    needed = [one.number for one in tried if one.reason is None]
    return {
        "written": len(tried),
        "taken": len(needed),
        "mean": fmean(needed) if needed else None,
        "by_number": {str(number): count for number, count in sorted(Counter(needed).items())},
        "not_taken": dict(Counter(one.reason for one in tried if one.reason).most_common()),
    }


def spread(numbers: Sequence[float]) -> dict[str, float] | None:
    """Mean, quartiles and ends; None of nothing."""
    if not numbers:
        return None
    low, middle, high = quantiles(numbers, n=4, method="inclusive") if len(numbers) > 1 else [numbers[0]] * 3
    return {"mean": fmean(numbers), "least": min(numbers), "lower": low, "median": middle, "upper": high, "most": max(numbers)}


def length(chosen: Sequence[float], rejected: Sequence[float]) -> dict[str, Any] | None:
    """How the lengths of the two sides differ, in words: whoever learns nothing but length is right that often."""
    if not chosen:
        return None
    longer, shorter = (sum(sign * (a - b) > 0 for a, b in zip(chosen, rejected, strict=True)) for sign in (1, -1))
    low, high = wilson(longer, longer + shorter) if longer + shorter else (None, None)
    differences = [a - b for a, b in zip(chosen, rejected, strict=True)]
    interval = bootstrap(differences, lambda found: float(found.mean()), seed=0) if len(differences) > 1 else None
    return {
        "chosen_longer": longer,
        "rejected_longer": shorter,
        "equal": len(chosen) - longer - shorter,
        "share_longer": longer / (longer + shorter) if longer + shorter else None,
        "share_longer_low": low,
        "share_longer_high": high,
        "difference": fmean(differences),
        "difference_low": interval.low if interval else None,
        "difference_high": interval.high if interval else None,
        "median_ratio": median(a / b for a, b in zip(chosen, rejected, strict=True) if b) if any(rejected) else None,
    }


def leakage(pairs: Sequence[PreferencePair], held: HeldOut) -> dict[str, int]:
    """How many pairs hold something of an evaluation."""
    return {
        "topics": sum(held.topic(str(pair.provenance.get("topic") or "")) for pair in pairs),
        "prompts": sum(held.prompt(pair.prompt) for pair in pairs),
        "chosen": sum(held.text(said(pair, "chosen")) for pair in pairs),
        "rejected": sum(held.text(said(pair, "rejected")) for pair in pairs),
    }


# -- in Markdown ----------------------------------------------------------------------------------------------------------


def warnings(told: Mapping[str, Any]) -> list[str]:
    """What should be known before a model is trained on it."""
    found, size = [], told["length"]
    if size and size["share_longer_low"] is not None:
        share, low, high = size["share_longer"], size["share_longer_low"], size["share_longer_high"]
        if low > UNFAIR or high < 1 - UNFAIR:
            side = "longer" if share > 0.5 else "shorter"
            found.append(
                f"the chosen text is the {side} one in {max(share, 1 - share):.0%} of the pairs: a model may learn length alone; "
                "counterpart.length_ratio keeps the two alike"
            )
    for side in SIDES:
        counts = told["doubles"][side]
        if told["pairs"] and (counts["exact"] + counts["near"]) > 0.1 * told["pairs"]:
            found.append(f"{counts['exact']} {side} texts stand in an earlier pair too, {counts['near']} more nearly so")
    if told["leakage"] and any(told["leakage"].values()):
        found.append("some pairs hold what an evaluation uses: " + ", ".join(f"{n} {name}" for name, n in told["leakage"].items() if n))
    return found


def markdown(told: Mapping[str, Any], title: str, judge: str, made: str) -> str:
    """The card as card.md. `made`: the command line."""
    rows: list[tuple[str, str | None]] = [("scores", side) for side in SIDES] + [("margins", None)]
    rows += [("words", side) for side in ("prompt", *SIDES)]
    table = ["| | mean | least | lower quartile | median | upper quartile | most |", "|---|---:|---:|---:|---:|---:|---:|"]
    for name, part in rows:
        numbers = told[name] if part is None else told[name][part]
        cells = [f"{numbers[key]:.2f}" for key in ("mean", "least", "lower", "median", "upper", "most")] if numbers else ["-"] * 6
        table.append(f"| {name if part is None else f'{name}, {part}'} | {' | '.join(cells)} |")
    parts = [f"# {line(title)}: {told['pairs']} preference pair{'' if told['pairs'] == 1 else 's'}", ""]
    parts += [f"Scored by {line(judge)}, on its own scale. Made by `{line(made)}`."]
    parts += ["", *table, "", *_told(told)]
    if warned := warnings(told):
        parts += ["", "## Before you train on it", "", *(f"- {one}" for one in warned)]
    parts += ["", "pairs.jsonl: TRL's conversational preference form, which `datasets` and `trl dpo` read as it is.", ""]
    return "\n".join(parts)


def _told(told: Mapping[str, Any]) -> list[str]:
    """The counts, a line each."""
    tried, size, cut = told["attempts"], told["length"], told["cut"]
    lines = [f"- of {told['texts']} texts: {told['pairs']} chosen" + _listed(told["dropped"], "; not: ")]
    if tried["written"]:
        mean = f", {tried['mean']:.2f} a pair" if tried["mean"] else ""
        lost = _listed(tried["not_taken"], "; not taken: ")
        lines.append(f"- counterparts written: {tried['written']}, taken {tried['taken']}{mean}{lost}")
    if size:
        share = "-" if size["share_longer"] is None else f"{size['share_longer']:.1%}"
        within = "" if size["share_longer_low"] is None else f" ({size['share_longer_low']:.1%} to {size['share_longer_high']:.1%})"
        lines.append(f"- chosen longer in {share}{within} of those that differ, by {size['difference']:+.1f} words on the mean")
    lines.append(f"- cut by the token limit: {cut['chosen']} chosen, {cut['rejected']} rejected")
    double = told["doubles"]
    counts = ", ".join(f"{double[side]['exact']} {side} exact, {double[side]['near']} near" for side in SIDES)
    lines.append(f"- doubles: {counts} (cosine {told['near']:g}), {double['prompt']['exact']} prompts")
    leaks = told["leakage"]
    lines.append("- leakage: nothing was named to look for" if leaks is None else "- leakage, pairs with a held-out" + _listed(leaks, ": "))
    lines.append("- topics: " + ", ".join(f"{line(name)} {count}" for name, count in told["topics"].items()))
    if told["types"].keys() - {"-"}:
        lines.append("- types: " + ", ".join(f"{line(name)} {count}" for name, count in told["types"].items()))
    return lines


def _listed(counts: Mapping[str, int], before: str) -> str:
    return before + ", ".join(f"{name} {count}" for name, count in counts.items()) if counts else ""
