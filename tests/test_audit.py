"""The judges' card: figures by hand, planted faults found and no others, what is refused, and the files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy
import pytest

from expertchat.audit import agreement, leanings
from expertchat.audit.card import Card, alphas, card_of
from expertchat.audit.estimates import Estimate, correlation, leaning, share
from expertchat.audit.evidence import Evidence
from expertchat.audit.ranking import ranking, strengths
from expertchat.audit.sheet import Compared, Rated, length_of, own_of, sheet
from expertchat.evaluation.draws import Draws
from expertchat.records import Choice, Item, JudgeRef, Opinion, Order, Text
from expertchat.sources.runs import system_name
from expertchat.views.audit import finding
from tests.planted import BIASES, FAULTS, OWN_FLAG, Fault, answers, evidence, pairs, ratings, singles
from tests.proofs.audit import coverage, pooled

Captured = pytest.CaptureFixture[str]
ALONE = 400  # resamples


def draws(groups: int) -> Draws:
    return Draws.of(groups, ALONE, 0)


def alone(n: int) -> numpy.ndarray:
    """Each value a group of its own."""
    return numpy.arange(n)


def compared(signs: Sequence[float], truth: Sequence[float] | None = None, **more: Any) -> Compared:
    n, nan = len(signs), float("nan")
    known = {
        "truth": numpy.asarray(truth if truth is not None else [nan] * n), "gap": numpy.full(n, nan), "longer": numpy.zeros(n),
        "own": numpy.zeros(n), "alike": numpy.zeros(n, dtype=bool), "systems": [("x", "y")] * n, "group": alone(n),
    }  # fmt: skip
    return Compared(numpy.asarray(signs, dtype=float), numpy.ones(n, dtype=bool), **{**known, **more})


def near(value: float | None, wanted: float) -> None:
    assert value == pytest.approx(wanted, abs=1e-3)


# -- intervals ----------------------------------------------------------------------------------------------------------------


def test_all_alike_is_as_sure_as_the_groups_are_many() -> None:
    # Wilson at 1: n / (n + t^2). Ten groups, t of 9 degrees of freedom 2.262: 10 / (10 + 5.117) = 0.6615; three, t of 2 4.303: 3 / 21.51.
    near(share(numpy.ones(10), alone(10), draws(10)).low, 0.6615)
    near(share(numpy.ones(3), alone(3), draws(3)).low, 0.1394)
    # Thirty answers in ten groups are no surer than ten: within a group they may be one.
    near(share(numpy.ones(30), numpy.repeat(alone(10), 3), draws(10)).low, 0.6615)


def test_the_smallest_effect_that_would_have_been_found() -> None:
    # 40 answers, 39 degrees of freedom: (2.0227 + 0.8512) x sqrt(0.25 / 40) = 0.2272 from one half.
    values = numpy.tile([0.0, 1.0], 20)
    found = share(values, alone(40), draws(40), 0.5)
    assert found.smallest is not None and 0.2272 <= found.smallest < 0.26  # the draws' own error may be a little more
    assert found.flag == "none"
    # 6 answers: (2.5706 + 0.9195) x sqrt(0.25 / 6) = 0.71, more than the one half that there can be.
    assert share(numpy.ones(6), alone(6), draws(6), 0.5).flag == "too_small"


def test_answers_of_one_group_are_no_evidence_of_many() -> None:
    by_group = numpy.repeat(numpy.tile([0.0, 1.0], 10), 5)  # 20 groups of five, each of one mind
    together = share(by_group, numpy.repeat(alone(20), 5), draws(20))
    apart = share(by_group, alone(100), draws(100))
    assert together.low is not None and apart.low is not None
    # By Wilson with n = 19 and t of 2.093 they reach 0.216, with n = 99 and t of 1.984 but 0.098.
    assert 0.5 - together.low == pytest.approx(0.216, abs=0.01) and 0.5 - apart.low == pytest.approx(0.098, abs=0.01)


def test_a_leaning_is_what_is_left_when_the_truth_is_taken_out() -> None:
    # Where that kind is better it is chosen in 3 of 4, where it is worse in 2 of 4: (0.75 + 0.5) / 2 - 0.5 = 0.125.
    sign, truth = numpy.asarray([1, 1, 1, -1, 1, 1, -1, -1]), numpy.asarray([1] * 4 + [-1] * 4)
    near(leaning(sign, truth, alone(8), draws(8)).value, 0.125)
    # One that knows the truth leans to nothing, though that kind is better in 15 of 20.
    truth = numpy.asarray([1] * 15 + [-1] * 5)
    assert leaning(truth, truth, alone(20), draws(20)).value == 0
    assert leaning(numpy.ones(20), numpy.ones(20), alone(20), draws(20)) == Estimate(None)  # nowhere worse: nothing to tell


def test_a_judges_own_texts_are_those_of_whatever_was_trained_from_it() -> None:
    """As system_name calls them. A judge's model and what was taught from it are both its own: between these two there is nothing to lean
    to, and against another model's texts the taught one's are its own."""
    found = JudgeRef(id="j", form="pairwise", model="HF/SmolLM2")
    taught = system_name("HF/SmolLM2", 0, "my-run"), system_name("HF/SmolLM2", 3, "runs/my-run"), system_name("SmolLM2", 3)
    assert all(own_of(found, Text(text="a", system=one)) for one in taught)
    others = system_name("HF/SmolLM2-360M", 0), system_name("Mixtral", 0, "SmolLM2"), None
    assert not any(own_of(found, Text(text="a", system=one)) for one in others)
    judge_taught = found.model_copy(update={"model": taught[0]})
    assert own_of(judge_taught, Text(text="a", system=f"{taught[0]} v2")) and not own_of(judge_taught, Text(text="a", system="HF/SmolLM2"))


def test_texts_without_spaces_have_a_length() -> None:
    """Characters of Chinese are half a word each: as one word a text of ten would be as long as one of two."""
    texts = [Text(text="蜜蜂采花蜜，酿成蜂蜜。"), Text(text="蜜蜂。")]
    unit, lengths = length_of({("s", "x"): Item(id="x", source="s", texts=texts, group="g")})
    assert (unit, list(lengths.values())) == ("words", [4.5, 1.0])


def test_a_person_who_goes_by_the_side_is_not_steady() -> None:
    """The second time of a pair may be shown the other way round: who then chooses the other text has said something else, and who
    cannot say has said nothing again."""
    texts = [Text(text="one"), Text(text="two")]
    items = {("s", f"x{i}"): Item(id=f"x{i}", source="s", texts=texts, group=f"g{i}") for i in range(3)}

    def said(i: int, order: Order, choice: Choice | None, repeat: int) -> tuple[tuple[str, str], Opinion]:
        about = {"item": f"x{i}", "judge": "ann", "category": "overall"}
        return ("s", f"x{i}"), Opinion(id=f"x{i}/{order}/{repeat}", order=order, choice=choice, repeat=repeat, **about)

    by_side = [said(0, "first", "first", 0), said(0, "second", "second", 1), said(1, "second", "second", 0), said(1, "second", "second", 1),
               said(2, "first", None, 0), said(2, "second", "first", 1)]  # fmt: skip
    places = {(key, place): 1.0 for key in items for place in (0, 1)}
    same, _ = sheet(JudgeRef(id="ann", form="person"), items, by_side, {}, places, {key: i for i, key in enumerate(items)}).again
    assert sorted(same) == [0.0, 1.0]


def test_no_spread_is_no_interval() -> None:
    assert correlation(0.5, numpy.full(9, 0.5), 20, 10, draws(10)).low is None
    full = correlation(1.0, numpy.ones(9), 40, 40, draws(40))
    near(full.low, 2 * 40 / (40 + 2.0227**2) - 1)  # a share of all 40, on the scale from -1


# -- agreement ------------------------------------------------------------------------------------------------------------------


def test_kappa_by_hand_and_as_scikit_learn_has_it() -> None:
    # 20 + 15 of 50 agree: 0.7; by chance (25 x 30 + 25 x 20) / 2500 = 0.5: (0.7 - 0.5) / 0.5.
    table = numpy.asarray([[[20.0, 5.0], [10.0, 15.0]]])
    near(float(agreement.kappas(table, False)[0]), 0.4)
    from sklearn.metrics import cohen_kappa_score

    rng = numpy.random.default_rng(1)
    one, two = rng.integers(10, size=200), rng.integers(10, size=200)
    counts = numpy.zeros((1, 10, 10))
    numpy.add.at(counts[0], (one, two), 1)
    near(float(agreement.kappas(counts, True)[0]), cohen_kappa_score(one, two, weights="quadratic"))


def test_ranks_of_a_draw_are_those_of_the_values_repeated() -> None:
    from scipy.stats import spearmanr

    one, two, times = numpy.asarray([1.0, 2, 2, 5, 7]), numpy.asarray([2.0, 1, 4, 4, 9]), numpy.asarray([[2, 0, 1, 3, 1]])
    found = agreement._spearman(one, two, times.astype(float))[0]
    near(float(found), spearmanr(numpy.repeat(one, times[0]), numpy.repeat(two, times[0])).statistic)


def test_agreement_counts_ties_half() -> None:
    # right, wrong, a tie for a better text; what is truly a tie is left out, or always a tie would be more than a coin: (1 + 0 + 0.5) / 3.
    near(agreement.raw(compared([1, -1, 0, 0], [1, 1, 1, 0]), draws(4)).value, 0.5)


def test_calibration_has_the_truth_on_the_judges_scale() -> None:
    rng = numpy.random.default_rng(0)
    truth = rng.normal(size=400)
    rated = Rated(5 + truth, alone(400), 7 * truth + 3, numpy.ones(400))
    near(agreement.calibration(rated, draws(400), False).value, 0.0)  # the same order: each rating is what its truth is on this scale
    shifted = Rated(5 + truth, alone(400), 4 + truth, numpy.ones(400))
    near(agreement.calibration(shifted, draws(400), True).value, 1.0)  # ratings against labels: one point too high


# -- length and rankings ------------------------------------------------------------------------------------------------------------


def test_the_weight_of_length_is_the_one_that_was_planted() -> None:
    rng = numpy.random.default_rng(3)
    longer = rng.normal(size=4000) * 30
    won = rng.random(4000) < 1 / (1 + numpy.exp(-1.5 * numpy.tanh(longer / longer.std())))
    found = leanings.length_size(compared(numpy.where(won, 1, -1), longer=longer), draws(4000))
    assert found.value is not None and found.low is not None and found.high is not None
    assert found.low < 1.5 < found.high and abs(found.value - 1.5) < 0.2
    # The error that the draws have, against that of the curve: sqrt(1 / sum(x^2 p (1 - p))).
    x = numpy.tanh(longer / longer.std())
    p = 1 / (1 + numpy.exp(-found.value * x))
    assert (found.high - found.low) / 2 / 1.96 == pytest.approx(math.sqrt(1 / float((x * x * p * (1 - p)).sum())), rel=0.1)


def test_a_ranking_by_hand() -> None:
    # x beats y in 30 of 40: its chance by Bradley-Terry is 3 to 1.
    found = ranking(compared([1] * 30 + [-1] * 10), draws(40))
    assert found is not None and [one.system for one in found.places] == ["x", "y"]
    near(found.places[0].chance.value, 0.75)
    assert found.wins.tolist() == [[0, 30], [10, 0]]
    assert ranking(compared([1, 1], systems=[("x", None), ("x", "x")]), draws(2)) is None


def test_draws_of_a_ranking_and_of_alpha_are_those_of_the_library() -> None:
    import evalica
    import pandas

    # As a logistic regression Bradley-Terry has the same strengths.
    wins = numpy.asarray([[0, 7, 9], [3, 0, 6], [1, 4, 0]])
    one, two = numpy.nonzero(wins)
    one, two = (numpy.repeat(side, wins[one, two]) for side in (one, two))
    columns = (one[:, None] == alone(3)).astype(float) - (two[:, None] == alone(3))
    weights, _ = leanings.logistic(columns, numpy.ones(30), alone(30), draws(30))
    assert weights - weights.mean() == pytest.approx(strengths(wins) - strengths(wins).mean(), abs=1e-2)
    # One draw that takes each group once is the sample itself.
    rows = numpy.asarray([[1.0, 2, 3, 3, numpy.nan], [1, 2, 3, 4, 4], [numpy.nan, 3, 3, 4, 4]])
    whole = Draws(numpy.ones((1, 5)))
    found = alphas(numpy.nan_to_num(rows)[..., None], ~numpy.isnan(rows), alone(5), whole)
    near(float(found[0]), evalica.alpha(pandas.DataFrame(rows), "interval").alpha)


def test_length_held_constant() -> None:
    # x wins because it is longer in each pair that it wins: with length held constant nothing is left of that.
    rng = numpy.random.default_rng(5)
    longer = rng.normal(20, 20, size=400)
    won = rng.random(400) < 1 / (1 + numpy.exp(-3 * numpy.tanh(longer / longer.std())))
    found = ranking(compared(numpy.where(won, 1, -1), longer=longer), draws(400))
    assert found is not None and found.places[0].system == "x"
    raw, like = found.places[0].chance.value, found.places[0].like_length.value
    assert raw is not None and like is not None and raw > 0.7 and abs(like - 0.5) < 0.12


# -- planted faults -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted() -> Card:
    rng = numpy.random.default_rng(11)
    items = pairs(40, 5, rng)
    return card_of(evidence(items, {fault: answers(fault, items, rng) for fault in FAULTS}), against="auto", resamples=ALONE, seed=0)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_figure_flags_its_own_fault_and_no_other(planted: Card, fault: str) -> None:
    row = next(row for row in planted.rows if row.judge.id == fault)
    faults = {name: flag for name in BIASES if (flag := row.figures[name].flag) in ("bias", "chance")}
    assert faults == (dict([OWN_FLAG[fault]]) if OWN_FLAG[fault] else {})


def test_the_truth_is_one_more_row_and_says_what_is_right(planted: Card) -> None:
    rows = {row.judge.id: row for row in planted.rows}
    assert planted.against == "truth"
    truth, longer = rows["the truth"].figures["longer"].value, rows["longer"].figures["longer"].value
    assert truth is not None and 0.55 < truth < 0.85 and longer == 1.0  # longer texts truly are better here, but not always
    assert {figure.flag for figure in rows["the truth"].figures.values()} == {None}  # it is not held against itself
    perfect = rows["perfect"].figures  # of the pairs that it has answered
    assert perfect["longer"].value == perfect["longer_true"].value and abs(perfect["longer"].value - truth) < 0.05  # type: ignore[operator]


def test_disagreeing_orders_are_ties_or_left_out(planted: Card) -> None:
    first = next(row for row in planted.rows if row.judge.id == "first")
    left = next(row for row in planted.left_out if row.judge.id == "first")
    assert first.figures["agreement"].value == 0.5 and first.figures["flips"].value == 1.0
    assert left.figures["agreement"].value is None  # no pair is left


def test_planted_ratings() -> None:
    rng = numpy.random.default_rng(12)
    items = singles(pairs(40, 3, rng))
    faults: list[Fault] = ["longer", "own", "middle", "random", "perfect"]
    card = card_of(evidence(items, {one: ratings(one, items, rng) for one in faults}, True), against="auto", resamples=ALONE, seed=0)
    for row in card.rows:
        if row.judge.id == "the truth":
            continue
        faults_found = {name for name in BIASES if row.figures[name].flag in ("bias", "chance")}
        own = OWN_FLAG[row.judge.id]
        assert faults_found == ({own[0]} if own else set())
    assert "alpha of judges' ratings" in card.together


def test_a_rule_beside_the_judges_is_not_one_of_them() -> None:
    items = pairs(30, 3, numpy.random.default_rng(3))
    said = {one: answers(one, items, numpy.random.default_rng(4)) for one in ("longer", "perfect", "random")}
    with_rule, without = evidence(items, said), evidence(items, {one: said[one] for one in ("longer", "perfect")})
    with_rule.judges["random"] = with_rule.judges["random"].model_copy(update={"form": "rule"})
    one, other = (card_of(found, against="auto", resamples=ALONE, seed=0).together for found in (with_rule, without))
    assert one == other and list(one) == ["alpha of judges' choices"]


def test_three_rows_show_nothing() -> None:
    rng = numpy.random.default_rng(0)
    items = pairs(3, 1, rng, identical=0)
    said = {fault: answers(fault, items, rng, unanswered=0) for fault in FAULTS}
    card = card_of(evidence(items, said), against="auto", resamples=ALONE, seed=0)
    flags = {figure.flag for row in card.rows for figure in row.figures.values()}
    assert flags <= {None, "too_small"}
    assert finding("first", card.rows[0].figures["first"].values()) == "n too small: shows nothing"


class Here:
    """A pool of this process alone."""

    @staticmethod
    def map(work: Any, tasks: Any, chunksize: int) -> Any:
        return map(work, tasks)


def test_intervals_hold_what_was_planted() -> None:
    # 6 sets, 6 judges of half a fault, some 25 figures each: the proof has 200 sets (python -m tests.proofs.audit).
    held = coverage(6, 20, 4, False, Here(), 300)  # type: ignore[arg-type]
    assert len(held) > 20
    assert 0.91 < pooled(list(held.values())) < 0.985


def test_scores_of_a_reward_model_are_no_points() -> None:
    """The same order on a scale of its own: ranks are as right, and points are not asked about."""
    rng = numpy.random.default_rng(5)
    items = [one.model_copy(update={"label": min(10.0, max(1.0, 5.5 + (one.texts[0].truth or 0)))}) for one in singles(pairs(20, 3, rng))]
    said = ratings("perfect", items, rng)
    lower = [one.model_copy(update={"expected": None if one.expected is None else one.expected - 6}) for one in said]

    def figures(form: str, opinions: list[Opinion]) -> dict[str, Estimate]:
        found = Evidence()
        assert found.add("planted", items, [JudgeRef(id="perfect", form=form, model="m")], opinions) == []  # type: ignore[arg-type]
        return dict(card_of(found, against="label", seed=0, resamples=200).rows[0].figures)

    rated, scored = figures("expected", said), figures("reward_model", lower)
    assert rated["rho"].value == scored["rho"].value and rated["quadratic"].value is not None and scored["quadratic"].value is None
    assert scored["calibration"].value is not None and scored["calibration"].value < 1.0  # by ranks; it is six points off
