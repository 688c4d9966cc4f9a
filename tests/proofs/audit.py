"""Whether the judges' card finds planted faults, and nothing else, and whether its intervals hold: `python -m tests.proofs.audit OUT`.

Whole faults (each judge goes by its fault alone) for the flags; faults of half strength for the intervals, whose planted values come from
one set of 3,000 groups. OUT gets flags and coverage as audit.json and audit.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy

from expertchat.audit.card import Row, row, truths_of
from expertchat.audit.estimates import Draws, share
from expertchat.audit.evidence import Evidence
from expertchat.audit.sheet import Sheet, length_of, sheet
from tests.planted import BIASES, FAULTS, OWN_FLAG, answers, evidence, pairs, ratings, singles

STRENGTH = 0.5
POPULATION = 3000  # groups of the set that the planted values come from


def sheets(found: Evidence) -> list[Sheet]:
    names = sorted({(item.source, item.group) for item in found.items.values()})
    place = {name: i for i, name in enumerate(names)}
    at = {key: place[item.source, item.group] for key, item in found.items.items()}
    _, lengths = length_of(found.items)
    known = truths_of(found, "truth", [])
    return [sheet(found.judges[name], found.items, said, known, lengths, at) for name, said in found.opinions.items()]


def rows(seed: int, groups: int, of_each: int, strength: float, rated: bool, resamples: int) -> dict[str, Row]:
    """The rows of all planted judges over one set."""
    rng = numpy.random.default_rng([seed, groups, int(rated)])
    items = pairs(groups, of_each, rng)
    faults = [fault for fault in FAULTS if not (rated and fault == "first")]
    if rated:
        items = singles(items)
        found = evidence(items, {fault: ratings(fault, items, rng, strength) for fault in faults}, True)
    else:
        found = evidence(items, {fault: answers(fault, items, rng, strength) for fault in faults})
    draws = Draws.of(groups, resamples, seed)
    return {one.judge.id: row(one, draws, "truth") for one in sheets(found)}


# -- flags --------------------------------------------------------------------------------------------------------------------


def flags(sets: int, groups: int, of_each: int, rated: bool) -> dict[str, dict[str, float]]:
    """In what share of the sets each judge has a fault by each figure."""
    counts: dict[str, dict[str, int]] = {fault: dict.fromkeys(BIASES, 0) for fault in FAULTS}
    for seed in range(sets):
        for fault, one in rows(seed, groups, of_each, 1.0, rated, 400).items():
            for name in BIASES:
                counts[fault][name] += one.figures[name].flag in ("bias", "chance")
    return {fault: {name: n / sets for name, n in of.items()} for fault, of in counts.items() if not (rated and fault == "first")}


def is_own(fault: str, name: str) -> bool:
    own = OWN_FLAG[fault]
    return own is not None and own[0] == name


# -- intervals ----------------------------------------------------------------------------------------------------------------


def values(one: Row) -> dict[str, tuple[float, float | None, float | None]]:
    """Every figure of a row, the chances of its ranking among them."""
    found = {name: (figure.value, figure.low, figure.high) for name, figure in one.figures.items() if figure.value is not None}
    for place in one.ranking.places if one.ranking else ():
        for name, figure in ((f"chance {place.system}", place.chance), (f"like length {place.system}", place.like_length)):
            if figure.value is not None:
                found[name] = (figure.value, figure.low, figure.high)
    return found


def coverage(sets: int, groups: int, of_each: int, rated: bool) -> dict[str, dict[str, tuple[int, int]]]:
    """By figure and judge: in how many sets the interval holds the planted value, of how many that have one."""
    planted = {fault: values(one) for fault, one in rows(987_654, POPULATION, of_each, STRENGTH, rated, 2).items()}
    found: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    for seed in range(sets):
        for fault, one in rows(seed, groups, of_each, STRENGTH, rated, 400).items():
            for name, (_, low, high) in values(one).items():
                if low is None or high is None or name not in planted[fault]:
                    continue
                held, of = found[name].get(fault, (0, 0))
                found[name][fault] = held + (low <= planted[fault][name][0] <= high), of + 1
        if seed % 50 == 49:
            print(f"{'ratings' if rated else 'pairs'}, {groups} groups: {seed + 1} of {sets} sets", flush=True)
    return found


def of_shares(sets: int, groups: int, of_each: int) -> dict[str, float]:
    """How often an interval holds a share: by the draws' percentiles, by these stretched by sqrt(G / (G - 1)), and by the card's way."""
    held = dict.fromkeys(("percentile", "stretched percentile", "card"), 0)
    truth = 0.8  # beta(8, 2) by group
    for seed in range(sets):
        rng = numpy.random.default_rng([seed, groups])
        group_N = numpy.repeat(numpy.arange(groups), of_each)
        values_N = (rng.random(groups * of_each) < rng.beta(8, 2, groups)[group_N]).astype(float)
        draws = Draws.of(groups, 1000, seed)
        found_R = draws.sums(values_N, group_N) / draws.sums(numpy.ones(len(values_N)), group_N)
        low, high = numpy.quantile(found_R, (0.025, 0.975))
        mean, stretch = values_N.mean(), (groups / (groups - 1)) ** 0.5
        card = share(values_N, group_N, draws)
        held["percentile"] += low <= truth <= high
        held["stretched percentile"] += mean + stretch * (low - mean) <= truth <= mean + stretch * (high - mean)
        held["card"] += (card.low or 0) <= truth <= (card.high or 1)
    return {name: n / sets for name, n in held.items()}


# -- the tables ---------------------------------------------------------------------------------------------------------------


def flag_table(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    lines = ["| planted | " + " | ".join(BIASES) + " |", "|---|" + "---:|" * len(BIASES)]
    for fault, of in found.items():
        cells = [f"**{100 * share:.0f} %**" if is_own(fault, name) else f"{100 * share:.0f} %" for name, share in of.items()]
        lines.append(f"| {fault} | " + " | ".join(cells) + " |")
    return lines


def coverage_table(found: Mapping[str, Mapping[str, tuple[int, int]]]) -> list[str]:
    lines = ["| figure | " + " | ".join(FAULTS) + " | all |", "|---|" + "---:|" * (len(FAULTS) + 1)]
    for name, of in found.items():
        cells = [f"{100 * of[fault][0] / of[fault][1]:.1f}" if fault in of else "-" for fault in FAULTS]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {100 * pooled([of]):.1f} |")
    lines.append("| all figures |" + " |" * len(FAULTS) + f" {100 * pooled(list(found.values())):.1f} |")
    return lines


def pooled(found: Sequence[Mapping[str, tuple[int, int]]]) -> float:
    held, of = (sum(pair[i] for one in found for pair in one.values()) for i in (0, 1))
    return held / of if of else float("nan")


def prove(out: Path, sets: int, groups: int, of_each: int) -> int:
    """Run all and write the tables; 1 where a fault is missed, or a figure's intervals over all judges lie beyond 95 % +- 3."""
    out.mkdir(parents=True, exist_ok=True)
    began, lines, kept, wrong = time.monotonic(), list[str](), dict[str, object](), list[str]()
    for rated in (False, True):
        kind = "ratings" if rated else "pairs"
        flagged = flags(sets, groups, of_each, rated)
        held = coverage(sets, groups, of_each, rated)
        title = f"{sets} sets of {groups} groups of {of_each} pairs"
        lines += [f"\n### {kind}, whole faults: flagged in how many of {title}\n", *flag_table(flagged)]
        lines += [f"\n### {kind}, half faults ({STRENGTH}): intervals that hold the planted value, %, {title}\n", *coverage_table(held)]
        kept[kind] = {"flags": flagged, "coverage": held}
        shares = [(fault, name, n) for fault, of in flagged.items() for name, n in of.items()]
        wrong += [f"{kind}: {fault} is not found by {name}" for fault, name, n in shares if is_own(fault, name) and n < 0.95]
        wrong += [f"{kind}: {name} holds in {100 * pooled([of]):.1f} %" for name, of in held.items() if abs(pooled([of]) - 0.95) > 0.03]
    lines += ["\n### a share of 0.8, 5 answers a group: intervals that hold it, %, 2,000 sets\n"]
    lines += ["| groups | percentile | stretched percentile | card |", "|---|---:|---:|---:|"]
    few = {n: of_shares(2000, n, 5) for n in (6, 12, 40)}
    lines += [f"| {n} | " + " | ".join(f"{100 * held:.1f}" for held in of.values()) + " |" for n, of in few.items()]
    kept["few groups"] = few
    lines.append(f"\n{time.monotonic() - began:.0f} s; " + ("; ".join(wrong) if wrong else "nothing beyond 95 % +- 3, no fault missed"))
    (out / "audit.md").write_text("\n".join(lines) + "\n", "utf-8")
    (out / "audit.json").write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    print("\n".join(lines))
    return int(bool(wrong))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path, help="the folder of the tables")
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--groups", type=int, default=40)
    parser.add_argument("--of-each", type=int, default=5)
    options = parser.parse_args()
    sys.exit(prove(options.out, options.sets, options.groups, options.of_each))
