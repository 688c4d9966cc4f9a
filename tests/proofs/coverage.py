"""How often 95 % intervals hold what they are of, on simulated evaluations: replies to topics that differ, as those of a study do.

    python -m tests.proofs.coverage             # 500 sets of each kind; exits 1 where one covers less than 93 or more than 97 %, or the
                                                # least effect is shown less often than told, by more than so few sets explain
    python -m tests.proofs.coverage 2000 7      # sets, seed

A set has topics, each with its own chance that the policy's reply wins (beta distributed: `alike` is the correlation of two replies to one
topic), dialogues on each, and some ties. The interval is of the mean over all topics that there might be, not over those of the set. Beside
ours stand: Wilson's, which takes every reply for itself; the percentiles of whole topics, stretched; topics and then dialogues drawn.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy
from numpy.typing import NDArray

from expertchat.evaluation.by_topic import Found, mean_of, ratio_of, share_of
from expertchat.evaluation.draws import POWER
from expertchat.judging.shares import LEVEL, wilson

LEAST, MOST = 0.93, 0.97
FAR = 0.08  # from POWER
TIES = 0.08  # share of comparisons
Rng = numpy.random.Generator
Array = NDArray[numpy.float64]


@dataclass(frozen=True)
class World:
    """`topics` topics with `each` dialogues; two replies to one topic correlate by `alike`; `rate` is the share that wins."""

    topics: int
    each: int
    alike: float
    rate: float = 0.7
    ties: float = TIES

    @property
    def truth(self) -> float:
        """The win rate: a tie is half a win."""
        return self.rate * (1 - self.ties) + self.ties / 2

    @property
    def names(self) -> list[str]:
        return [f"topic {t}" for t in range(self.topics) for _ in range(self.each)]

    def chances(self, rng: Rng, rate: float) -> Array:
        """The chance of every dialogue, that of its topic. [N]"""
        if not self.alike:
            return numpy.full(self.topics * self.each, rate)
        spread = 1 / self.alike - 1
        return numpy.repeat(rng.beta(rate * spread, (1 - rate) * spread, self.topics), self.each)

    def outcomes(self, rng: Rng) -> Array:
        """1, 0, or a tie: .5."""
        won_N = (rng.random(self.topics * self.each) < self.chances(rng, self.rate)).astype(float)
        return numpy.where(rng.random(len(won_N)) < self.ties, 0.5, won_N)

    def facts(self, rng: Rng, mean: float) -> Array:
        """Counts of facts: each topic has its own mean (gamma), and a dialogue is poisson about it."""
        own_T = rng.gamma(1 / self.alike, self.alike * mean, self.topics) if self.alike else numpy.full(self.topics, mean)
        return rng.poisson(numpy.repeat(own_T, self.each)).astype(float)


def share(world: World, rng: Rng, seed: int) -> tuple[Found, float]:
    """A win rate."""
    return share_of(world.outcomes(rng), world.names, seed=seed), world.truth


def ratio(world: World, rng: Rng, seed: int) -> tuple[Found, float]:
    """Facts, times the base's: 1.6."""
    return ratio_of(world.facts(rng, 2.4), world.facts(rng, 1.5), world.names, seed=seed), 1.6


def paired(world: World, rng: Rng, seed: int) -> tuple[Found, float]:
    """Two arms on the same histories, whose chances go with the topic: one wins .1 more often."""
    base_N = world.chances(rng, world.rate)
    one_N, two_N = (
        (rng.random(len(base_N)) < numpy.clip(base_N * factor, 0, 1)).astype(float) for factor in (1.0, 1 - 0.1 / world.rate)
    )
    return mean_of(one_N - two_N, world.names, seed=seed), 0.1


def length_matched(world: World, rng: Rng, seed: int) -> tuple[Found, float]:
    """The win rate of a fourth of the replies: topics have more and fewer of them."""
    outcomes_N = world.outcomes(rng)
    alike_N = rng.random(len(outcomes_N)) < numpy.repeat(rng.uniform(0.1, 0.4, world.topics), world.each)
    names = [name for name, like in zip(world.names, alike_N, strict=True) if like]
    return share_of(outcomes_N[alike_N], names, seed=seed), world.truth


FIGURES: dict[str, Callable[[World, Rng, int], tuple[Found, float]]] = {
    "win rate": share, "of like length": length_matched, "facts, x base": ratio, "arm - arm": paired,
}  # fmt: skip
POWERS = [World(topics, 400 // topics, alike, ties=ties) for topics, alike in ((20, 0.05), (10, 0.2)) for ties in (0.0, 0.4, 0.8)]
# The study's own shape, and those with fewer topics; how alike the replies to one topic are is not known beforehand.
WORLDS = [World(topics, 400 // topics, alike) for topics in (20, 10, 6) for alike in (0.0, 0.05, 0.2)]


def covered(world: World, figure: str, sets: int, seed: int) -> tuple[float, float]:
    """The share of sets whose interval holds the truth, and its mean width."""
    rng, held, width = numpy.random.default_rng((seed, world.topics, int(100 * world.alike))), 0, 0.0
    for i in range(sets):
        found, truth = FIGURES[figure](world, rng, i)
        if found.low is not None and found.high is not None:
            held += found.low <= truth <= found.high
            width += found.high - found.low
    return held / sets, width / sets


def power(world: World, sets: int, seed: int) -> tuple[float, float]:
    """The least effect that is told where there is none, and the share of sets that show an effect of this size."""
    rng, even = numpy.random.default_rng((seed, int(100 * world.ties))), replace(world, rate=0.5)
    told = [share_of(even.outcomes(rng), even.names, seed=i).least or math.nan for i in range(sets)]
    least = float(numpy.mean(told))
    there = replace(world, rate=0.5 + least / (1 - world.ties))
    shown = [(share_of(there.outcomes(rng), there.names, seed=i).chance or 0.0) < 1 - LEVEL for i in range(sets)]
    return least, float(numpy.mean(shown))


def others(world: World, sets: int, seed: int) -> Iterator[tuple[str, float]]:
    """How often other intervals of the same win rates cover."""
    rng, truth = numpy.random.default_rng((seed, world.topics, int(100 * world.alike))), world.truth
    held = {"replies alone (Wilson)": 0, "topics, percentiles": 0, "topics, then dialogues": 0}
    group_N = numpy.repeat(numpy.arange(world.topics), world.each)
    for i in range(sets):
        values_N = world.outcomes(rng)
        low, high = wilson(values_N.sum(), len(values_N))
        held["replies alone (Wilson)"] += low <= truth <= high
        weights_R_T = numpy.random.default_rng(i).multinomial(world.topics, numpy.full(world.topics, 1 / world.topics), 1000)
        means_R = weights_R_T @ numpy.bincount(group_N, weights=values_N) / len(values_N)
        stretch = (world.topics / (world.topics - 1)) ** 0.5
        low, high = (values_N.mean() + stretch * (bound - values_N.mean()) for bound in numpy.quantile(means_R, (0.025, 0.975)))
        held["topics, percentiles"] += low <= truth <= high
        low, high = numpy.quantile(_twice(values_N.reshape(world.topics, world.each), numpy.random.default_rng(i)), (0.025, 0.975))
        held["topics, then dialogues"] += low <= truth <= high
    yield from ((name, count / sets) for name, count in held.items())


def _twice(values_T_D: Array, rng: Rng, resamples: int = 1000) -> Array:
    """Means of draws of topics, and of dialogues in each that was drawn. [R]"""
    topics, each = values_T_D.shape
    drawn_R_T = rng.integers(topics, size=(resamples, topics))
    dialogues_R_T_D = rng.integers(each, size=(resamples, topics, each))
    found: Array = values_T_D[drawn_R_T[:, :, None], dialogues_R_T_D].mean(axis=(1, 2))
    return found


def _powers(sets: int, seed: int) -> bool:
    """Print how often the least effect is shown; whether that is too far from what is promised."""
    print(f"\nThe least effect on a win rate, and how often one of this size is shown (promised: {100 * POWER:.0f} %):\n\n"
          "| topics x dialogues | alike | ties | least effect | shown |\n|---|---|---|---|---|")  # fmt: skip
    far = []
    for world in POWERS:
        least, found = power(world, sets, seed)
        far.append(abs(found - POWER) > FAR + 2 * math.sqrt(POWER * (1 - POWER) / sets))
        print(f"| {world.topics} x {world.each} | {world.alike:g} | {world.ties:.0%} | {least:.3f} | {100 * found:.1f} % |", flush=True)
    return any(far)


def main(arguments: Sequence[str]) -> int:
    sets, seed = (int(value) for value in [*arguments, *("500", "0")[len(arguments) :]])
    print(f"95 % intervals of {sets} simulated sets each: how many hold the truth (mean width)\n")
    print("| topics x dialogues | alike | " + " | ".join(FIGURES) + " |\n|---|---|" + "---|" * len(FIGURES))
    worst = []
    for world in WORLDS:
        cells = {name: covered(world, name, sets, seed) for name in FIGURES}
        worst += [(share, f"{name} of {world.topics} topics, alike {world.alike:g}") for name, (share, _) in cells.items()]
        shown = " | ".join(f"{100 * share:.1f} % ({width:.3f})" for share, width in cells.values())
        print(f"| {world.topics} x {world.each} | {world.alike:g} | {shown} |", flush=True)
    print("\nOther intervals of the win rate:\n\n| topics x dialogues | alike | replies alone (Wilson) | topics, percentiles | "
          "topics, then dialogues |\n|---|---|---|---|---|")  # fmt: skip
    for world in WORLDS:
        shown = " | ".join(f"{100 * share:.1f} %" for _, share in others(world, sets, seed))
        print(f"| {world.topics} x {world.each} | {world.alike:g} | {shown} |", flush=True)
    weak = _powers(sets, seed)
    beyond = [f"{name}: {100 * share:.1f} %" for share, name in worst if not LEAST <= share <= MOST]
    chance = 2 * math.sqrt(0.95 * 0.05 / sets)
    mean = sum(share for share, _ in worst) / len(worst)
    print(f"\n{len(worst)} kinds: {100 * min(worst)[0]:.1f} to {100 * max(worst)[0]:.1f} %, mean {100 * mean:.2f} %.")
    expected = len(worst) * math.erfc((MOST - 0.95) / math.sqrt(0.95 * 0.05 / sets) / math.sqrt(2))
    print(f"Beyond 93 to 97 %: {', '.join(beyond) or 'none'}; of exact intervals {expected:.1f} would be, by the luck of {sets} sets.")
    return int(weak or any(not LEAST - chance <= share <= MOST + chance for share, _ in worst))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
