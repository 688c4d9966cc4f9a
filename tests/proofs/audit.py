"""Whether the judges' card finds planted faults, and nothing else, and whether its intervals hold: `python -m tests.proofs.audit OUT`.

Whole faults (each judge goes by its fault alone) for the flags; faults of half strength for the intervals, whose planted values come from
one set of 3,000 groups. OUT gets flags and coverage as audit.json and audit.md. Three to four minutes of computing, shared by the cores.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy

from expertchat.audit.card import Row, row, truths_of
from expertchat.audit.estimates import share
from expertchat.audit.evidence import Evidence
from expertchat.audit.sheet import Sheet, length_of, sheet
from expertchat.evaluation.draws import Draws
from tests.planted import BIASES, FAULTS, OWN_FLAG, answers, evidence, pairs, ratings, singles

Pool = ProcessPoolExecutor
Task = tuple[int, int, int, bool]  # seed, groups, pairs of each, whether texts are rated
STRENGTH = 0.5
ENDS = ("unanswered", "flips", "identical", "identical_first", "longer", "own", "ties", "same", "again")  # shares that may be all or none
POPULATION = 3000  # groups of the set that the planted values come from


def sheets(found: Evidence) -> list[Sheet]:
    names = sorted({(item.source, item.group) for item in found.items.values()})
    place = {name: i for i, name in enumerate(names)}
    at = {key: place[item.source, item.group] for key, item in found.items.items()}
    _, lengths = length_of(found.items)
    known = truths_of(found, "truth", [])
    return [sheet(found.judges[name], found.items, said, known, lengths, at) for name, said in found.opinions.items()]


def rows(seed: int, groups: int, of_each: int, rated: bool, strength: float, resamples: int) -> dict[str, Row]:
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


def _flagged(task: Task) -> dict[str, list[str]]:
    """What is flagged as a fault of each judge."""
    found = rows(*task, 1.0, 400)
    return {fault: [name for name in BIASES if one.figures[name].flag in ("bias", "chance")] for fault, one in found.items()}


def flags(sets: int, groups: int, of_each: int, rated: bool, pool: Pool) -> dict[str, dict[str, float]]:
    """In what share of the sets each judge has a fault by each figure."""
    found = list(pool.map(_flagged, [(seed, groups, of_each, rated) for seed in range(sets)], chunksize=5))
    return {fault: {name: sum(name in one[fault] for one in found) / sets for name in BIASES} for fault in found[0]}


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


def _values(task: Task) -> dict[str, dict[str, tuple[float, float | None, float | None]]]:
    return {fault: values(one) for fault, one in rows(*task, STRENGTH, 400).items()}


def coverage(
    sets: int, groups: int, of_each: int, rated: bool, pool: Pool, population: int = POPULATION
) -> dict[str, dict[str, tuple[int, int]]]:
    """By figure and judge: in how many sets the interval holds the planted value, of how many that have one.

    A share of next to 0 or 1 is the end of a scale, which an interval cannot miss on both sides: it is left out.
    """
    planted = {fault: values(one) for fault, one in rows(987_654, population, of_each, rated, STRENGTH, 2).items()}
    found: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    for of in pool.map(_values, [(seed, groups, of_each, rated) for seed in range(sets)], chunksize=5):
        for fault, figures in of.items():
            for name, (_, low, high) in figures.items():
                wanted = planted[fault].get(name, (0.0,))[0]
                at_end = name in ENDS and min(wanted, 1 - wanted) < 0.005
                if low is not None and high is not None and name in planted[fault] and not at_end:
                    held, n = found[name].get(fault, (0, 0))
                    found[name][fault] = held + (low <= wanted <= high), n + 1
    return found


def _share_held(task: tuple[int, int, int]) -> list[bool]:
    """Whether an interval holds a share of 0.81, by group beta(8.1, 1.9): by percentiles, by these stretched, and the card's."""
    seed, groups, of_each = task
    rng = numpy.random.default_rng([seed, groups])
    group_N = numpy.repeat(numpy.arange(groups), of_each)
    values_N = (rng.random(groups * of_each) < rng.beta(8.1, 1.9, groups)[group_N]).astype(float)
    draws = Draws.of(groups, 1000, seed)
    found_R = draws.sums(values_N, group_N) / draws.sums(numpy.ones(len(values_N)), group_N)
    low, high = numpy.quantile(found_R, (0.025, 0.975))
    mean, stretch, card = values_N.mean(), (groups / (groups - 1)) ** 0.5, share(values_N, group_N, draws)
    bounds = ((low, high), (mean + stretch * (low - mean), mean + stretch * (high - mean)), (card.low or 0, card.high or 1))
    return [bool(one <= 0.81 <= two) for one, two in bounds]


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


def short(kinds: Mapping[str, Mapping[str, Mapping[str, tuple[int, int]]]]) -> list[str]:
    """By figure, over all sets and judges: how often its interval holds the planted value."""
    lines = []
    for kind, found in kinds.items():
        figures = ", ".join(f"{name} {100 * pooled([of]):.1f}" for name, of in found.items())
        lines.append(f"* {kind}: **all {100 * pooled(list(found.values())):.1f}**; {figures}")
    return lines


def pooled(found: Sequence[Mapping[str, tuple[int, int]]]) -> float:
    held, of = (sum(pair[i] for one in found for pair in one.values()) for i in (0, 1))
    return held / of if of else float("nan")


def prove(out: Path, sets: int, groups: int, of_each: int, pool: Pool) -> int:
    """Run all and write the tables; 1 where a fault is missed, or a figure's intervals over all judges lie beyond 95 % +- 3."""
    out.mkdir(parents=True, exist_ok=True)
    began, lines, kept, wrong = time.monotonic(), list[str](), dict[str, object](), list[str]()
    covered: dict[str, Mapping[str, Mapping[str, tuple[int, int]]]] = {}
    for rated in (False, True):
        kind = "ratings" if rated else "pairs"
        flagged = flags(sets, groups, of_each, rated, pool)
        held = covered[kind] = coverage(sets, groups, of_each, rated, pool)
        title = f"{sets} sets of {groups} groups of {of_each} pairs"
        lines += [f"\n### {kind}, whole faults: flagged in how many of {title}\n", *flag_table(flagged)]
        lines += [f"\n### {kind}, half faults ({STRENGTH}): intervals that hold the planted value, %, {title}\n", *coverage_table(held)]
        print("\n".join(lines[-len(flagged) - len(held) - 6 :]), flush=True)
        kept[kind] = {"flags": flagged, "coverage": held}
        shares = [(fault, name, n) for fault, of in flagged.items() for name, n in of.items()]
        wrong += [f"{kind}: {fault} is not found by {name}" for fault, name, n in shares if is_own(fault, name) and n < 0.95]
        wrong += [f"{kind}: {name} holds in {100 * pooled([of]):.1f} %" for name, of in held.items() if abs(pooled([of]) - 0.95) > 0.03]
    lines += ["\n### half faults, all judges together: intervals that hold the planted value, %\n", *short(covered)]
    lines += ["\n### a share of 0.81, 5 answers a group: intervals that hold it, %, 2,000 sets\n"]
    lines += ["| groups | percentile | stretched percentile | card |", "|---|---:|---:|---:|"]
    few = {}
    for n in (6, 12, 40):
        holds = list(pool.map(_share_held, [(seed, n, 5) for seed in range(2000)], chunksize=50))
        few[n] = [float(part) for part in numpy.mean(holds, axis=0)]
    lines += [f"| {n} | " + " | ".join(f"{100 * part:.1f}" for part in of) + " |" for n, of in few.items()]
    kept["few groups"] = few
    lines.append(f"\n{time.monotonic() - began:.0f} s; " + ("; ".join(wrong) if wrong else "nothing beyond 95 % +- 3, no fault missed"))
    (out / "audit.md").write_text("\n".join(lines) + "\n", "utf-8")
    (out / "audit.json").write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    print("\n".join(lines[-6:]))
    return int(bool(wrong))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path, help="the folder of the tables")
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--groups", type=int, default=40)
    parser.add_argument("--of-each", type=int, default=5)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    with ProcessPoolExecutor(options.workers) as workers:
        code = prove(options.out, options.sets, options.groups, options.of_each, workers)
    sys.exit(code)
