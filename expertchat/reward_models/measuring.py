"""How good a reward model is on what it was not trained on, in the figures by which judges are audited, each with its interval.

What it says becomes opinions, as of any judge: a number for each text, or of a comparison a choice in both orders. So `expertchat audit`
reads the same, and the figures of a model and of a judge compare.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy
from numpy.typing import NDArray

from expertchat.audit import agreement, leanings
from expertchat.audit.estimates import Estimate, share
from expertchat.audit.evidence import Key, key_of
from expertchat.audit.sheet import Sheet, length_of, sheet
from expertchat.backends.base import Valued
from expertchat.backends.reward_model import RewardModel
from expertchat.evaluation.draws import Draws
from expertchat.lab.judge import ORDERS, OVERALL, opinion_id
from expertchat.lab.models import between
from expertchat.records import Figure, Item, JudgeRef, Opinion, Order
from expertchat.reward_models.config import RewardModelTraining
from expertchat.reward_models.examples import Scale, request_of
from expertchat.reward_models.known import Known
from expertchat.sources.read import cluster_of

NAME = "reward_model"
CHOOSING = "choosing_"  # begins the names of figures on the items by which the best epoch is chosen
BINS = 10
NAMED_ORDERS: dict[str, Order] = {"as_read": "first", "turned": "second"}  # of the two texts of a pair
Array = NDArray[Any]


def opinions_of(model: RewardModel, items: Sequence[Item]) -> list[Opinion]:
    """What a model says of items: a number for each text, or of a pair a choice in both orders."""
    if model.compares:
        asked = [(item, order) for item in items for order in ORDERS]
        given = model.value([request_of(item, *((1, 0) if order == "first" else (0, 1))) for item, order in asked])
        return [between(item.id, NAME, order, one) for (item, order), one in zip(asked, given, strict=True)]
    texts = [(item, place) for item in items for place in range(len(item.texts))]
    found = model.value([replace(request_of(item, place), label=item.type) for item, place in texts])
    return [_opinion(item, place, one) for (item, place), one in zip(texts, found, strict=True)]


def _opinion(item: Item, place: int, given: Valued) -> Opinion:
    name = opinion_id(item.id, NAME, OVERALL, place)
    return Opinion(id=name, item=item.id, judge=NAME, category=OVERALL, place=place, score=given.score, problem=given.problem,
                   raw=given.likeliest or "")  # fmt: skip


def judge_ref(config: RewardModelTraining, path: str) -> JudgeRef:
    """The model, as one of the judges that an audit reads."""
    return JudgeRef(id=NAME, form="pairwise" if config.kind == "comparison" else "reward_model", model=path)


@dataclass(frozen=True)
class Measure:
    """What a model is measured by: held-out items, what is known of them, and what the truth and people say beside it."""

    config: RewardModelTraining
    known: Sequence[Known]
    truth: Sequence[Known]
    people: Sequence[Known]
    scale: Scale = field(default_factory=Scale)

    @property
    def items(self) -> list[Item]:
        return [one.item for one in self.known]

    def figures(self, opinions: Sequence[Opinion]) -> dict[str, Figure]:
        """All figures of what was said."""
        items = {key_of(one.item): one.item for one in self.known}
        keys = {item.id: key for key, item in items.items()}
        names = {name: i for i, name in enumerate(sorted({cluster_of(item) for item in items.values()}))}
        at = {key: names[cluster_of(item)] for key, item in items.items()}
        draws = Draws.of(len(names), self.config.resamples, self.config.run.seed)
        said, lengths = [(keys[one.item], one) for one in opinions], length_of(items)[1]
        judge = judge_ref(self.config, NAME)

        def against(known: Sequence[Known]) -> Sheet:
            return sheet(judge, items, said, _right(known, self.config.kind), lengths, at)

        own = against(self.known)
        found = {"accuracy": agreement.raw(own.compared, draws), **_others(own, draws), **self._rho(own, at, draws)}
        for name, known in (("truth_accuracy", self.truth), ("people_accuracy", self.people)):
            if known:
                found[name] = agreement.raw(against(known).compared, draws)
        if self.config.kind == "comparison":
            found |= {f"accuracy_{name}": self._in_order(order, opinions, keys, at, draws) for name, order in NAMED_ORDERS.items()}
        values: dict[str, Figure] = {"n": found["accuracy"].n, "groups": found["accuracy"].groups}
        for name, one in found.items():
            values |= {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
        return values | self._sure(own, opinions) | {"unanswered": int(own.unanswered.sum())}

    def _rho(self, own: Sheet, at: Mapping[Key, int], draws: Draws) -> dict[str, Estimate]:
        """Of the numbers that it gives with those that are known, which of the texts of a pair need not be the truth."""
        if not len(own.rated.value):
            return {}
        score_N, value_N = _columns(self._texts(own))
        group_N = numpy.asarray([at[key] for key, _, _ in self._known(own)], dtype=int)
        return {"rho": agreement.rho(score_N, value_N, group_N, draws)}

    def _in_order(
        self, order: Order, opinions: Sequence[Opinion], keys: Mapping[str, Key], at: Mapping[Key, int], draws: Draws
    ) -> Estimate:
        """The share of pairs that are decided rightly in one order alone, a tie half."""
        better_of = {one.item.id: one.better for one in self.known if one.sign}
        told = [one for one in opinions if one.order == order and one.choice is not None and one.item in better_of]
        right = [0.5 if one.choice == "tie" else float(one.choice == better_of[one.item]) for one in told]
        groups = numpy.asarray([at[keys[one.item]] for one in told], dtype=int)
        return share(numpy.asarray(right, dtype=float), groups, draws, 0.5, score=True)

    # -- how sure it is, and whether it may be -----------------------------------------------------------------------------

    def _sure(self, own: Sheet, opinions: Sequence[Opinion]) -> dict[str, Figure]:
        """The loss on what is held out; of probabilities the calibration error, of a regression the error in points."""
        if self.config.kind == "regression":
            mean, spread = self.scale.mean, self.scale.spread
            errors = [value - (mean + spread * score) for score, value in self._texts(own)]
            square = sum(error * error for error in errors) / len(errors) if errors else None
            loss = None if square is None else square / spread**2
            return {"loss": loss, "error": None if square is None else math.sqrt(square)}
        if self.config.kind == "classification":
            odds_N, right_N = _columns([(score, float(value >= self.scale.bound)) for score, value in self._texts(own)])
        else:
            odds_N, right_N = _columns(self._pairs(own, opinions))
        if not len(odds_N):
            return {"loss": None, "calibration": None, "brier": None}
        chance_N = 1 / (1 + numpy.exp(-numpy.clip(odds_N, -500, 500)))
        loss = float(numpy.logaddexp(0, numpy.where(right_N > 0, -odds_N, odds_N)).mean())
        return {"loss": loss, "calibration": calibration_error(chance_N, right_N), "brier": float(((chance_N - right_N) ** 2).mean())}

    def _texts(self, own: Sheet) -> list[tuple[float, float]]:
        """(score, number that is known) of each text."""
        return [(score, value) for _, score, value in self._known(own)]

    def _known(self, own: Sheet) -> list[tuple[Key, float, float]]:
        """The same with the item of each."""
        return [
            (key, own.texts[key, place], value)
            for one in self.known
            for key in (key_of(one.item),)
            for place, value in enumerate(one.values)
            if value is not None and (key, place) in own.texts
        ]

    def _pairs(self, own: Sheet, opinions: Sequence[Opinion]) -> list[tuple[float, float]]:
        """(log odds that the first text is the better one, whether it is) of each pair, of a comparison in each order."""
        signs = {one.item.id: (key_of(one.item), one.sign) for one in self.known if one.sign}
        if self.config.kind == "comparison":
            told = [(one, signs[one.item][1]) for one in opinions if one.raw and one.item in signs]
            return [(float(one.raw), float((sign or 0) < 0) if one.order == "first" else float((sign or 0) > 0)) for one, sign in told]
        return [
            (own.texts[key, 0] - own.texts[key, 1], float((sign or 0) > 0))
            for key, sign in signs.values()
            if (key, 0) in own.texts and (key, 1) in own.texts
        ]


def _columns(rows: Sequence[tuple[float, float]]) -> tuple[Array, Array]:
    columns = numpy.asarray(rows, dtype=float).reshape(-1, 2).T
    return columns[0], columns[1]


def _right(known: Sequence[Known], kind: str) -> dict[Key, float]:
    """What is right of each item: of a pair a sign, of one text its number."""
    found: dict[Key, float] = {}
    for one in known:
        value = one.sign if one.item.pair else one.values[0]
        if value is not None:
            found[key_of(one.item)] = value
    return found


def _others(own: Sheet, draws: Draws) -> dict[str, Estimate]:
    """What it leans to: length, and of a comparison the text that stands first."""
    compared = own.compared.where(~own.compared.alike)
    longer = leanings.of_kind(compared, numpy.sign(compared.longer), draws)
    found = {"longer": longer.won, "longer_true": longer.truly, "longer_bias": longer.leaning}
    if len(own.rated.value):
        found["length_rho"] = agreement.rho(own.rated.value, own.rated.length, own.rated.group, draws, None)
    if len(own.shown.sign):
        found["first"] = leanings.first(leanings.apart(own.shown), draws)
        found["flips"] = leanings.flips(own, draws)
    return found


def calibration_error(chance_N: Array, right_N: Array) -> float:
    """The expected calibration error (Naeini et al. 2015): over bins of equally many, how far chances lie from how often they came true.

    >>> calibration_error(numpy.array([.9, .9, .1, .1]), numpy.array([1., 0., 0., 0.]))  # bins of one: .1, .9, .1, .1
    0.3
    """
    order = numpy.argsort(chance_N, kind="stable")
    bins = [part for part in numpy.array_split(order, min(BINS, len(order))) if len(part)]
    return float(sum(len(part) * abs(chance_N[part].mean() - right_N[part].mean()) for part in bins) / len(order))


def better(one: Mapping[str, Figure], two: Mapping[str, Figure] | None, of: str = "") -> bool:
    """Whether an epoch is better than another one: by accuracy, of equal ones by the loss; `of` CHOOSING: on the items to choose by."""
    return two is None or _rank(one, of) > _rank(two, of)


def _rank(figures: Mapping[str, Figure], of: str) -> tuple[float, float]:
    accuracy, loss = figures.get(f"{of}accuracy"), figures.get(f"{of}loss")
    return (
        float(accuracy) if isinstance(accuracy, int | float) else -math.inf,
        -float(loss) if isinstance(loss, int | float) else -math.inf,
    )
