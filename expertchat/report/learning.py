"""How learning went, as a report reads it: of each learner of each run its rounds, its evaluations, and what its records say by round."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from statistics import fmean
from typing import Any

from expertchat.evaluation.statistics import mean_by_cluster, wilson
from expertchat.folder.jsonl import read_lines
from expertchat.folder.reader import RunReader
from expertchat.records import OF_A_SEED, Metrics, round_of
from expertchat.report.shapes import Point, number
from expertchat.report.subject import Subject
from expertchat.runs.arms import bundles, is_training
from expertchat.trackers.tracking import FINAL

RESAMPLES = 600
# What the records say of each candidate or pair of a round, for an interval: the round's figure -> what is read of which file.
OF_RECORDS = {
    "reward_mean": ("scores", "value"), "rating_mean": ("rewards", "rating"), "wim_mean": ("rewards", "wim"),
    "length": ("candidates", "tokens"), "margin": ("pairs", "margin"),
}  # fmt: skip

# What an evaluation's own file says of each history, for an interval: the figure -> where it stands.
OF_HISTORIES = {
    "wrong_policy": ("policy", "wrong"), "wrong_base": ("base", "wrong"), "distinct_policy": ("policy", "distinct"),
    "distinct_base": ("base", "distinct"), "repeats_policy": ("policy", "repeats"), "repeats_base": ("base", "repeats"),
    "tokens_policy": ("reply", "tokens"), "tokens_base": ("base_tokens",), "rating_policy": ("rating_policy",),
    "rating_base": ("rating_base",), "measure_policy": ("measure_policy",), "measure_base": ("measure_base",),
}  # fmt: skip
WHOSE = {"pairs": "learner", "rewards": "subject"}  # the field that says whose they are


@dataclass(frozen=True)
class Learning:
    """One learner of one run; `name`: what it is called beside others. Its evaluations begin with the base's (round 0).

    `of`: how the ids of its records begin, in a run that was merged of several seeds.
    """

    run: RunReader
    learner: str
    name: str
    of: str = ""

    @cached_property
    def _metrics(self) -> list[Metrics]:
        latest = {one.id: one for one in self.run.metrics()}
        return [one for one in latest.values() if one.learner == self.learner and one.id.startswith(self.of)]

    @property
    def rounds(self) -> list[Metrics]:
        return sorted((one for one in self._metrics if one.kind == "round"), key=lambda one: one.round)

    @property
    def evaluations(self) -> list[Metrics]:
        """Those on the way, on the same held-out histories each time."""
        on_the_way = (one for one in self._metrics if one.kind == "evaluation" and not one.id.endswith(FINAL))
        return sorted(on_the_way, key=lambda one: one.round)

    @property
    def final(self) -> Metrics | None:
        """That at the end, on histories of its own."""
        return next((one for one in self._metrics if one.id.endswith(FINAL)), None)

    @property
    def last(self) -> Metrics | None:
        """What is said of the result: the final evaluation, else the last one on the way."""
        return self.final or next((one for one in reversed(self.evaluations) if one.round), None)

    @property
    def arm(self) -> str | None:
        return str(arm) if (arm := self.run.config.get("arm")) else None

    # -- points -------------------------------------------------------------------------------------------------------------

    def by_round(self, key: str) -> list[Point]:
        """A figure of the rounds; its interval is over whole dialogues, where the records have it."""
        found = [Point(one.round, number(one.figures.get(key)), *bounds(one, key)) for one in self.rounds]
        if key not in OF_RECORDS or not self.run.path(OF_RECORDS[key][0]).is_file():
            return found
        spans = self._spans(*OF_RECORDS[key])
        return [Point(one.x, one.value, *spans.get(int(one.x), (one.low, one.high))) for one in found]

    def evaluated(self, key: str) -> list[Point]:
        """A figure of the evaluations on the way. A base's figure stands in later evaluations beside the policy's."""
        return [self._point(one.round, one, key) for one in self.evaluations]

    def at_the_end(self, key: str) -> list[Point]:
        """The same of the last evaluation, at the round whose weights it was made with."""
        if (final := self.final) is None:
            return []
        place = final.round if final.weights_of is None else final.weights_of
        return [self._point(place, final, key)]

    def _point(self, place: float, one: Metrics, key: str) -> Point:
        return Point(place, number(one.figures.get(key)), *self.bounds_of(one, key))

    def bounds_of(self, one: Metrics, key: str) -> tuple[float | None, float | None]:
        """The interval of a figure of an evaluation; of a mean over histories whole topics are drawn."""
        told = bounds(one, key)
        if told != (None, None) or key not in OF_HISTORIES:
            return told
        name = f"{{}}-r{one.round:04d}{'-final' if one is self.final else ''}.jsonl"
        if name not in self._histories:
            every = read_lines(self.run.evaluation(self.learner, name))
            self._histories[name] = [line for _, line in every if str(line.get("id", "")).startswith(self.of)]
        known = [
            (value, str(line.get("topic"))) for line in self._histories[name] if (value := _inside(line, OF_HISTORIES[key])) is not None
        ]
        mean = number(one.figures.get(key))
        if mean is None or not known or abs(fmean(value for value, _ in known) - mean) > 1e-6 * max(1.0, abs(mean)):
            return None, None  # the figure is of something else
        values = [value for value, _ in known]
        low, high = spread_of(values, [topic for _, topic in known])
        return (low if low is None or min(values) < 0 else max(0.0, low)), high  # a count is not below 0

    @cached_property
    def _histories(self) -> dict[str, list[dict[str, Any]]]:
        return {}

    def _spans(self, file: str, field: str) -> dict[int, tuple[float | None, float | None]]:
        """The interval of a mean of each round, whole dialogues drawn."""
        values: dict[int, list[float]] = {}
        clusters: dict[int, list[str]] = {}
        for place, dialogue, value in self._values(file, field):
            values.setdefault(place, []).append(value)
            clusters.setdefault(place, []).append(dialogue)
        return {place: spread_of(found, clusters[place]) for place, found in values.items()}

    def _values(self, file: str, field: str) -> Iterator[tuple[int, str, float]]:
        """(round, dialogue, value) of the learner's own records; of one model in all seats those of each."""
        own = set(self.run.seats) if self.run.config.get("learner") == "one" else {self.learner}
        for one in self.run.lines(file):
            inner = one.get("provenance") if file == "pairs" else one
            who = inner.get(WHOSE.get(file, "speaker")) if isinstance(inner, Mapping) else None
            if file == "rewards" and one.get("candidate") is None:
                continue  # of a whole dialogue
            dialogue = str(inner.get("transcript")) if isinstance(inner, Mapping) else ""
            value, place = number(one.get(field)), one.get("round", round_of(dialogue))
            if value is not None and isinstance(place, int) and who in own and dialogue.startswith(self.of):
                yield place, dialogue, value


def spread_of(values: Sequence[float], clusters: Sequence[str]) -> tuple[float | None, float | None]:
    """The interval of a mean, whole clusters drawn. None where all values are alike: such draws know nothing of what might have come."""
    if min(values) == max(values):
        return None, None
    low, high = mean_by_cluster(values, clusters, seed=0, resamples=RESAMPLES)
    return low, high


def _inside(line: Mapping[str, Any], path: Sequence[str]) -> float | None:
    found: Any = line
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return number(found)


def bounds(one: Metrics, key: str) -> tuple[float | None, float | None]:
    """The interval that stands beside a figure; of the share of samples that are right, Wilson's, where their number is known."""
    share, samples = number(one.figures.get(key)), number(one.figures.get("exact_n"))
    if key == "exact" and share is not None and samples:
        return wilson(round(share * samples), int(samples))
    return number(one.figures.get(f"{key}_low")), number(one.figures.get(f"{key}_high"))


def learnings(subject: Subject) -> list[Learning]:
    """Every learner of every run that learns, in the order of the runs; an arm goes before a folder's name."""
    found = []
    for run in subject.trained:
        names = [str(run.config["arm"])] if run.config.get("arm") and len(subject.trained) > 1 else []
        names += [subject.name(run)] if len(subject.trained) > 1 else []
        seeds = _seeds(run)
        for who, of in product(run.learners, seeds):
            own = [f"expert {who}"] * (len(run.learners) > 1) + [f"seed {of[1:-1]}"] * (len(seeds) > 1)
            found.append(Learning(run, who, ", ".join([*names, *own]), of))
    return found


def _seeds(run: RunReader) -> list[str]:
    """How the ids of a merged run's seeds begin ("s0/"); of any other run "" alone."""
    known = {match[0] for one in run.lines("metrics") if (match := OF_A_SEED.match(str(one.get("id"))))} if run.seed is None else set()
    return sorted(known) or [""]


def by_arm(found: Sequence[Learning]) -> dict[str, list[Learning]]:
    """The same by what differs in nothing but its seed, for many runs at once; runs without a seed of their own stand alone."""
    several = len({one.learner for one in found}) > 1
    names = {(run.folder, run.learner): f"{name}, expert {run.learner}" if several else name
             for name, same in bundles([one.run for one in found if is_training(one.run)]) for run in same}  # fmt: skip
    arms: dict[str, list[Learning]] = {}
    for one in found:
        arms.setdefault(names.get((one.run.folder, one.learner), one.name), []).append(one)
    return arms


def pooled(several: Iterable[Sequence[Point]]) -> list[Point]:
    """Points of several seeds as one line: the mean at each x, from the lowest seed to the highest."""
    at: dict[float, list[float]] = {}
    for points in several:
        for point in points:
            if point.value is not None:
                at.setdefault(point.x, []).append(point.value)
    return [Point(x, fmean(values), *((min(values), max(values)) if len(values) > 1 else ())) for x, values in sorted(at.items())]


def figure_of(metrics: Metrics | None, key: str) -> Any:
    return None if metrics is None else metrics.figures.get(key)
