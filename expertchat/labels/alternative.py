"""May a judge stand in for people? The alternative annotator test (Calderon, Reichart and Dror 2025, arXiv 2501.10970).

One person is left out at a time, and the judge and that person are compared by how well each agrees with those who remain.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TypeVar

LEAST_PEOPLE = 2
LEAST_ITEMS = 30  # of one person, for a t-test; 50 to 100 are wanted, and three people rather than two
K = TypeVar("K")
Answers = Mapping[K, "float | str"]


@dataclass(frozen=True)
class LeftOut:
    """The judge against one person, on the items that both and somebody else answered.

    `advantage`: on how many the judge agrees with the others at least as well as the person does; `person`: the person at least as well as
    the judge; shares, which add up to more than 1 by the draws. `p`: of the hypothesis that the person is better by `epsilon` or more.
    """

    name: str
    items: int
    advantage: float
    person: float
    p: float
    won: bool = False


@dataclass(frozen=True)
class AlternativeTest:
    """`winning_rate`: the share of the people against whom the judge wins; from 0.5 on it may stand in for them. `advantage`: the mean of
    the judge's advantage probabilities, by which judges are compared. Where there is nothing to test both are None, and `problem` says why.
    """

    epsilon: float
    people: list[LeftOut] = field(default_factory=list)
    winning_rate: float | None = None
    advantage: float | None = None
    left: list[str] = field(default_factory=list)  # people with too few items
    problem: str | None = None

    @property
    def passed(self) -> bool | None:
        return None if self.winning_rate is None else self.winning_rate >= 0.5


def alternative_annotator(
    judge: Answers[K], people: Mapping[str, Answers[K]], epsilon: float = 0.2, q: float = 0.05, least_items: int = LEAST_ITEMS
) -> AlternativeTest:
    """The test of a `judge` against `people`: name -> what was asked -> a choice (text) or a rating (number).

    For each person j and each item i that j, the judge and another person answered, S is the agreement with the others: for choices the
    share of them that say the same, for ratings minus the root of the mean squared difference. The judge scores 1 where S(judge) >= S(j),
    the person where S(j) >= S(judge); the mean of the judge's is its advantage probability. A one-sided t-test of the differences (person -
    judge) against `epsilon` gives p; the judge wins where the hypothesis falls with a false discovery rate of at most `q` (Benjamini and
    Yekutieli 2001). `epsilon` is what a person costs more: 0.2 for experts, 0.15 for skilled annotators, 0.1 for a crowd. As in the
    authors' reference implementation (nitaytech/AltTest).
    """
    answers = {name: {key: value for key, value in own.items() if key in judge} for name, own in people.items()}
    if len(answers) < LEAST_PEOPLE:
        here = len(answers) or "nobody"
        return AlternativeTest(epsilon, problem=f"the test leaves one person out and needs {LEAST_PEOPLE}; there is {here}")
    keys_of_all = [key for own in answers.values() for key in own]
    shared = {key for key, count in Counter(keys_of_all).items() if count >= LEAST_PEOPLE}
    found, left = [], []
    for name, own in answers.items():
        keys = [key for key in own if key in shared]
        if len(keys) < least_items:
            left.append(name)
            continue
        scores = []
        for key in keys:
            others = [other[key] for one, other in answers.items() if one != name and key in other]
            scores.append((_agreement(judge[key], others), _agreement(own[key], others)))
        wins, draws_or_losses = [int(x >= y) for x, y in scores], [int(y >= x) for x, y in scores]
        differences = [b - a for a, b in zip(wins, draws_or_losses, strict=True)]
        found.append(LeftOut(name, len(keys), fmean(wins), fmean(draws_or_losses), below(differences, epsilon)))
    if not found:
        most = max((sum(key in shared for key in own) for own in answers.values()), default=0)
        problem = f"nobody shares {least_items} items with the judge and another person; the most is {most}"
        return AlternativeTest(epsilon, left=left, problem=problem)
    won = rejected([one.p for one in found], q)
    tested = [LeftOut(one.name, one.items, one.advantage, one.person, one.p, n in won) for n, one in enumerate(found)]
    return AlternativeTest(epsilon, tested, len(won) / len(found), fmean(one.advantage for one in found), left)


def _agreement(answer: float | str, others: Sequence[float | str]) -> float:
    """How well an answer agrees with the others'; higher is better."""
    if isinstance(answer, str):
        return fmean(answer == other for other in others)
    return -math.sqrt(fmean((answer - float(other)) ** 2 for other in others))


def below(differences: Sequence[int], epsilon: float) -> float:
    """p of a one-sided t-test that the mean of the differences is `epsilon` or more; 0 or 1 where they are all the same."""
    if len(set(differences)) < 2:
        return 0.0 if fmean(differences) < epsilon else 1.0
    from scipy.stats import ttest_1samp

    return float(ttest_1samp(list(differences), epsilon, alternative="less").pvalue)


def rejected(p_values: Sequence[float], q: float) -> set[int]:
    """Which hypotheses fall, by their places, with a false discovery rate of at most q whatever their dependence.

    Benjamini and Yekutieli (2001): with p_(1) <= ... <= p_(m), the largest i with p_(i) <= i/m * q / (1 + 1/2 + ... + 1/m), and all before.
    """
    count = len(p_values)
    order = sorted(range(count), key=lambda n: p_values[n])
    harmonic = sum(1 / n for n in range(1, count + 1))
    last = max((rank for rank, n in enumerate(order, 1) if p_values[n] <= rank / count * q / harmonic), default=0)
    return set(order[:last])
