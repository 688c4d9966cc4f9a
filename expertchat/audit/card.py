"""The judges' card: a row for each judge with all its figures, the same with disagreeing orders left out, and rankings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any, Literal

import numpy
from numpy.typing import NDArray

from expertchat.audit import agreement, leanings
from expertchat.audit.estimates import NOTHING, Estimate, correlation, mean, share
from expertchat.audit.evidence import Evidence, Key
from expertchat.audit.ranking import Ranking, ranking
from expertchat.audit.sheet import Sheet, length_of, sheet
from expertchat.config import ConfigError
from expertchat.evaluation.draws import Draws
from expertchat.labels.alternative import LEAST_PEOPLE, AlternativeTest, alternative_annotator
from expertchat.records import JudgeRef, Opinion
from expertchat.sources.read import cluster_of
from expertchat.text.card_in_words import THE_TRUTH

Array = NDArray[Any]
Said = list[tuple[Key, Opinion]]
Against = Literal["truth", "label", "people"]
TRUTH = JudgeRef(id=THE_TRUTH, form="rule", note="what is known of the texts")
OF_TRUTH = ("longer", "length_size", "length_rho", "spread", "ties")


@dataclass(frozen=True)
class Row:
    """One judge: its figures by name, and the ranking of the systems by it."""

    judge: JudgeRef
    asked: int
    n: int  # opinions that are answers
    figures: Mapping[str, Estimate]
    ranking: Ranking | None = None

    def values(self) -> dict[str, Any]:
        known = {"judge": self.judge.id, "form": self.judge.form, "wording": self.judge.wording, "model": self.judge.model}
        figures = {name: one.values() for name, one in self.figures.items()}
        return {**known, "asked": self.asked, "n": self.n, "figures": figures, "ranking": self.ranking.values() if self.ranking else None}


@dataclass
class Card:
    """The rows; `left_out`: the same where pairs whose orders disagree are left out instead of counted as ties."""

    against: Against | None
    unit: str  # of length
    groups: int
    items: int
    rows: list[Row] = field(default_factory=list)
    left_out: list[Row] = field(default_factory=list)
    together: dict[str, Estimate] = field(default_factory=dict)
    alternative: dict[str, AlternativeTest] = field(default_factory=dict)  # by judge and what it gives: may it stand in for people
    notes: list[str] = field(default_factory=list)

    def values(self) -> dict[str, Any]:
        return {
            "schema": 1, "against": self.against, "unit": self.unit, "items": self.items, "groups": self.groups,
            "judges": [row.values() for row in self.rows], "left_out": [row.values() for row in self.left_out],
            "together": {name: one.values() for name, one in self.together.items()},
            "alternative": {name: {**asdict(one), "passed": one.passed} for name, one in self.alternative.items()}, "notes": self.notes,
        }  # fmt: skip


def card_of(evidence: Evidence, *, against: Against | Literal["auto"], resamples: int, seed: int, category: str | None = None) -> Card:
    """The card of all judges of the evidence. Raises ConfigError where nothing is left to audit."""
    judges, opinions = _by_form(evidence.judges, _of_category(evidence, category))
    groups = {name: i for i, name in enumerate(sorted({cluster_of(item) for item in evidence.items.values()}))}
    at = {key: groups[cluster_of(item)] for key, item in evidence.items.items()}
    draws = Draws.of(len(groups), resamples, seed)
    unit, lengths = length_of(evidence.items)
    people = sorted(name for name, judge in judges.items() if judge.form == "person" and name in opinions)
    kind = _against(evidence, bool(people), against)
    card = Card(kind, unit, len(groups), len(evidence.items), notes=list(evidence.notes))
    by_people = {name: sheet(judges[name], evidence.items, opinions[name], {}, lengths, at) for name in people}
    sheets: list[Sheet] = []
    for name, said in opinions.items():
        known = truths_of(evidence, kind, [one for who, one in by_people.items() if who != name])
        sheets.append(sheet(judges[name], evidence.items, said, known, lengths, at, kind == "truth"))
    if (true := _by_truth(evidence)) and kind == "truth":
        sheets.append(sheet(TRUTH, evidence.items, true, {}, lengths, at))
    for one in sheets:
        whole = row(one, draws, kind)
        card.rows.append(whole if one.judge is not TRUTH else replace(whole, figures=_no_judge(whole.figures)))
        kept = replace(one, compared=one.compared.where(one.compared.same))
        if not one.compared.same.all():
            card.left_out.append(row(kept, draws, kind))
    asked = [one for one in sheets if one.judge is not TRUTH]
    # Rules are yardsticks that were put beside the judges: how they agree says nothing of these.
    judged = [one for one in asked if one.judge.form != "rule"]
    card.together |= _alphas("judges", judged, draws, at) | _alphas("people", list(by_people.values()), draws, at)
    card.alternative |= _alternatives([one for one in asked if one.judge.form != "person"], list(by_people.values()))
    return card


def row(one: Sheet, draws: Draws, kind: Against | None) -> Row:
    """All figures of one judge; those that cannot be had are NOTHING."""
    identical, identical_first = leanings.alike(one.shown, draws)
    # Two identical texts are there to be told apart from all others, and count nowhere else.
    compared, rated, shown = one.compared.where(~one.compared.alike), one.rated, leanings.apart(one.shown)
    longer = leanings.of_kind(compared, numpy.sign(compared.longer), draws)
    own = leanings.of_kind(compared, compared.own, draws)
    # Of numbers with how good their texts are; of choices with how much better the first text is, which labels and people do not say.
    gap = compared.gap if kind == "truth" else numpy.full(len(compared), numpy.nan)
    said = (rated.value, rated.truth, rated.group) if len(rated.value) else (compared.sign, gap, compared.group)
    points = kind in ("label", "people") and one.judge.form != "reward_model"  # whose scores have a scale of their own
    figures = {
        "unanswered": share(one.unanswered, one.asked_group, draws),
        "mass": share(one.mass, one.mass_group, draws),
        "agreement": agreement.raw(compared, draws),
        "kappa": agreement.kappa(compared, draws),
        "quadratic": agreement.quadratic(rated, draws) if points else NOTHING,
        "rho": agreement.rho(*said, draws),
        "calibration": agreement.calibration(rated, draws, points),
        "first": leanings.first(shown, draws),
        "flips": leanings.flips(one, draws),
        "identical": identical,
        "identical_first": identical_first,
        "longer": longer.won,
        "longer_true": longer.truly,
        "longer_lost": longer.where_lost,
        "longer_bias": longer.leaning,
        "length_size": leanings.length_size(compared, draws),
        "length_rho": agreement.rho(rated.value, rated.length, rated.group, draws, None),
        "own": own.won,
        "own_true": own.truly,
        "own_lost": own.where_lost,
        "own_bias": own.leaning,
        "spread": leanings.spread(rated, draws),
        "ties": leanings.ties(compared, draws),
        "same": leanings.same(shown, compared, one.numbers, draws),
        "again": leanings.again(one, draws),
        "seconds": _thousand(mean(one.seconds, one.seconds_group, draws)),
    }
    return Row(one.judge, one.asked, one.asked - int(one.unanswered.sum()), figures, ranking(compared, draws))


def _no_judge(figures: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """Of the truth: what it is like, and nothing that it would be held against."""
    return {name: one if name in OF_TRUTH else NOTHING for name, one in figures.items()}


def _thousand(one: Estimate) -> Estimate:
    value, low, high = (None if x is None else 1000 * x for x in (one.value, one.low, one.high))
    return replace(one, value=value, low=low, high=high)


# -- what judges are held against -------------------------------------------------------------------------------------------


def _of_category(evidence: Evidence, category: str | None) -> dict[str, Said]:
    if category is None:
        return dict(evidence.opinions)
    found = {name: kept for name, said in evidence.opinions.items() if (kept := [one for one in said if one[1].category == category])}
    if not found:
        there = sorted({one.category for said in evidence.opinions.values() for _, one in said})
        raise ConfigError(f"category={category}: nobody has judged it; there are {', '.join(there)}")
    return found


def _by_form(judges: Mapping[str, JudgeRef], opinions: Mapping[str, Said]) -> tuple[dict[str, JudgeRef], dict[str, Said]]:
    """Judges that gave both a written and an expected number as two, for these are two instruments."""
    found, said = dict(judges), dict[str, Said]()
    for name, ones in opinions.items():
        if not any(one.value is not None and one.expected is not None for _, one in ones):
            said[name] = ones
            continue
        for form, other in (("expected", "value"), ("written", "expected")):
            own = f"{name}, {form}"
            found[own] = judges[name].model_copy(update={"id": own, "form": form})
            said[own] = [(key, one.model_copy(update={other: None})) for key, one in ones]
    return found, said


def _against(evidence: Evidence, people: bool, wanted: str) -> Against | None:
    """What there is of what was asked for. Raises ConfigError where that is not there."""
    items = evidence.items.values()
    there: dict[Against, bool] = {
        "truth": any(text.truth is not None for item in items for text in item.texts),
        "label": any(item.label is not None for item in items),
        "people": people,
    }
    if wanted == "auto":
        return next((kind for kind, known in there.items() if known), None)
    for kind, known in there.items():
        if kind == wanted and known:
            return kind
    have = [kind for kind, known in there.items() if known]
    remedy = f"there is {', '.join(have)}" if have else "leave it at auto"
    raise ConfigError(f"against={wanted}: nothing of the kind is known of these items; {remedy}")


def truths_of(evidence: Evidence, kind: Against | None, people: Sequence[Sheet]) -> dict[Key, float]:
    """What is right of each item: of a pair a sign, of one text a number."""
    signs = {"first": 1.0, "second": -1.0, "tie": 0.0}
    found: dict[Key, float] = {}
    for key, item in evidence.items.items():
        if kind == "people":
            said = [one.choices.get(key) if item.pair else one.texts.get((key, 0)) for one in people]
            if numbers := [number for number in said if number is not None]:
                found[key] = float(numpy.sign(fmean(numbers))) if item.pair else fmean(numbers)
        elif item.pair:
            choice = item.better if kind == "truth" else item.label if kind == "label" else None
            if isinstance(choice, str):
                found[key] = signs[choice]
        else:
            value = item.texts[0].truth if kind == "truth" else item.label if kind == "label" else None
            if isinstance(value, int | float):
                found[key] = float(value)
    return found


def _by_truth(evidence: Evidence) -> Said:
    """The truth as one more judge: what the figures of a judge without fault are."""
    return [
        (key, Opinion(id=f"{item.id}/truth/{place}", item=item.id, judge=TRUTH.id, category="overall", place=place, score=text.truth))
        for key, item in evidence.items.items()
        for place, text in enumerate(item.texts)
        if text.truth is not None
    ]


# -- several together -----------------------------------------------------------------------------------------------------------


def _points(one: Sheet) -> Mapping[tuple[Key, int], float]:
    """Ratings; none of a reward model, whose scores have a scale of their own."""
    return {} if one.judge.form == "reward_model" else one.texts


def _alphas(who: str, sheets: Sequence[Sheet], draws: Draws, at: Mapping[Key, int]) -> dict[str, Estimate]:
    """Krippendorff's alpha among several: of choices (nominal) and of ratings (interval), where two or more have judged the same.

    Scores of reward models have scales of their own, and are left out.
    """
    sides: tuple[tuple[str, Literal["nominal", "interval"], Callable[[Sheet], Mapping[Any, float]]], ...] = (
        ("choices", "nominal", lambda one: one.choices),
        ("ratings", "interval", _points),
    )
    found = {}
    for what, distance, of in sides:
        tables = [table for one in sheets if (table := of(one))]
        units = sorted({unit for table in tables for unit in table if sum(unit in other for other in tables) > 1})
        if len(tables) > 1 and units:
            rows = numpy.asarray([[table.get(unit, numpy.nan) for unit in units] for table in tables])
            group_N = numpy.asarray([at[unit if what == "choices" else unit[0]] for unit in units])
            if (estimate := _alpha(rows, group_N, distance, draws)) is not None:
                found[f"alpha of {who}' {what}"] = estimate
    return found


def _alternatives(judges: Sequence[Sheet], people: Sequence[Sheet]) -> dict[str, AlternativeTest]:
    """The alternative annotator test of each judge, where two or more people have judged what it has."""
    names = {1.0: "first", 0.0: "tie", -1.0: "second"}
    found = {}
    for judge in judges:
        for what in ("choices", "ratings"):

            def answers(one: Sheet, what: str = what) -> dict[Any, float | str]:
                return {key: names[sign] for key, sign in one.choices.items()} if what == "choices" else dict(_points(one))

            own, theirs = answers(judge), {one.judge.id: said for one in people if (said := answers(one))}
            if own and len(theirs) >= LEAST_PEOPLE:
                found[f"{judge.judge.id}, {what}"] = alternative_annotator(own, theirs)
    return found


def _alpha(rows_J_N: Array, group_N: Array, distance: Literal["nominal", "interval"], draws: Draws) -> Estimate | None:
    """Alpha (Krippendorff 2011) by evalica, with the units drawn by their groups; None where all say one thing."""
    import evalica
    import pandas

    values = numpy.unique(rows_J_N[~numpy.isnan(rows_J_N)])
    if len(values) < 2:
        return None
    found = float(evalica.alpha(pandas.DataFrame(rows_J_N), distance).alpha)
    # Places between which the squared distance is the measure's: for choices the corners of a simplex, 1 apart.
    known_J_N = ~numpy.isnan(rows_J_N)
    at_J_N_D = (rows_J_N[..., None] == values) / 2**0.5 if distance == "nominal" else numpy.nan_to_num(rows_J_N)[..., None]
    return correlation(found, alphas(at_J_N_D, known_J_N, group_N, draws), len(group_N), len(numpy.unique(group_N)), draws)


def alphas(at_J_N_D: Array, known_J_N: Array, group_N: Array, draws: Draws) -> Array:
    """Alpha of each draw [R]: one minus the squared distances within units over those of all values, both from sums over units."""
    at_J_N_D = at_J_N_D * known_J_N[..., None]
    size_N, sum_N_D, square_N = known_J_N.sum(axis=0), at_J_N_D.sum(axis=0), (at_J_N_D**2).sum(axis=(0, 2))
    within_N = 2 * (size_N * square_N - (sum_N_D**2).sum(axis=1)) / (size_N - 1)
    total_R, square_R = draws.sums(size_N, group_N), draws.sums(square_N, group_N)
    sums_R = numpy.stack([draws.sums(column, group_N) for column in sum_N_D.T])
    with numpy.errstate(invalid="ignore", divide="ignore"):
        return 1 - draws.sums(within_N, group_N) * (total_R - 1) / (2 * (total_R * square_R - (sums_R**2).sum(axis=0)))
