"""What a reward model is taught: what is known of texts, which rows are the same, which are held out, in which order two texts stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertchat.backends.base import Valued
from expertchat.command.compose import load
from expertchat.config import ConfigError
from expertchat.lab.models import between
from expertchat.records import Item, Text, Turn
from expertchat.reward_models.config import RewardModelTraining
from expertchat.reward_models.examples import apart, both_ways, bound_of, parted, preferences, request_of, spread_of, valued
from expertchat.reward_models.known import Known, of_values
from expertchat.reward_models.material import read_material
from expertchat.reward_models.measuring import CHOOSING, Measure, better, calibration_error


def item(name: str, *texts: str, group: str = "g", asked: str = "Why?", system: Sequence[str] = ("one", "two")) -> Item:
    turns = [Turn(speaker="b", text=asked)]
    said = [Text(text=text, system=who) for text, who in zip(texts, system, strict=False)]
    return Item(id=name, source="s", topic="herons", turns=turns, texts=said, group=group)


def config(*overrides: str) -> RewardModelTraining:
    found = load("reward_model", ["source.path=[x.csv]", "view=none", *overrides])
    assert isinstance(found, RewardModelTraining)
    return found


# -- values and pairs -----------------------------------------------------------------------------------------------------


def test_of_two_numbers_the_higher_one_is_better_unless_they_are_too_near() -> None:
    pair = item("p", "A.", "B.")
    assert of_values(pair, (3.0, 2.0), 0.5).better == "first"
    assert of_values(pair, (2.0, 3.0), 1.0).better == "tie"  # they differ by no more than the margin
    assert of_values(pair, (None, 3.0), 0.0).better is None and of_values(item("t", "A."), (3.0,), 0.0).better is None


def test_pairs_are_there_once_and_those_that_contradict_each_other_not_at_all() -> None:
    known = [
        Known(item("p1", "A.", "B."), (None, None), "first"),
        Known(item("p2", "B.", "A."), (None, None), "second"),  # the same pair and preference as p1
        Known(item("p3", "C.", "D."), (None, None), "first"),
        Known(item("p4", "C.", "D."), (None, None), "second"),  # contradicts p3: both go
        Known(item("p5", "E.", "F."), (None, None), "tie"),
        Known(item("p6", "E.", "E."), (None, None), "first"),  # one same text
        Known(item("p7", "C.", "D.", asked="How?"), (None, None), "first"),  # another history
    ]
    found = preferences(known)
    assert [(one.item.id, one.better) for one in found.pairs] == [("p1", 0), ("p7", 0)]
    assert (found.ties, found.again, found.against) == (2, 1, 2)


def test_single_texts_to_one_history_make_pairs() -> None:
    known = [Known(item(f"t{i}", text, asked=asked), (value,)) for i, (text, asked, value) in enumerate(
        [("A.", "Why?", 3.0), ("B.", "Why?", 5.0), ("C.", "Why?", 5.0), ("D.", "How?", 1.0)]
    )]  # fmt: skip
    found = preferences(known)  # of A, B, C: A-B, A-C, and B-C a tie; D stands alone
    assert [(one.item.id, one.item.texts[one.better].text) for one in found.pairs] == [("t0+t1", "B."), ("t0+t2", "C.")] and found.ties == 1


def test_a_text_that_is_there_again_has_the_mean_of_its_numbers() -> None:
    texts, again = valued([Known(item("p", "A.", "B."), (1.0, 4.0)), Known(item("q", "A.", "C."), (2.0, None))])
    assert [(one.item.texts[one.place].text, one.value) for one in texts] == [("A.", 1.5), ("B.", 4.0)] and again == 1


def test_numbers_become_a_scale_or_two_classes() -> None:
    assert spread_of([1.0, 3.0, 5.0]) == (3.0, pytest.approx((8 / 3) ** 0.5))
    assert bound_of([1.0, 2.0, 2.0, 3.0], None) == 3.0  # the median is 2; good is what lies above
    assert bound_of([0.0, 1.0, 1.0], 0.5) == 0.5
    with pytest.raises(ConfigError, match="all 2 texts have the number 4"):
        spread_of([4.0, 4.0])
    for values, threshold, said in (([4.0, 4.0], None, "all of 2 texts are good"), ([1.0, 2.0], 9.0, "none of 2 texts are good")):
        with pytest.raises(ConfigError, match=said):
            bound_of(values, threshold)


# -- parts ----------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("uvwxyz")), min_size=2, max_size=30), st.integers(0, 5))
def test_no_text_and_no_group_is_in_both_parts(rows: list[tuple[str, str]], seed: int) -> None:
    known = [Known(item(f"r{i}", text, group=group), (float(i),)) for i, (group, text) in enumerate(rows)]
    try:
        parts = parted(known, 0.3, seed)
    except ConfigError as error:
        assert "belong to one group" in str(error)
        return
    assert len(parts.train) + len(parts.held_out) == len(known) and parts.train and parts.held_out
    for of in (lambda one: one.item.group, lambda one: one.item.texts[0].text):
        assert not {of(one) for one in parts.train} & {of(one) for one in parts.held_out}


def test_the_best_epoch_is_chosen_by_items_that_nothing_else_is_measured_on() -> None:
    """By accuracy on the items to choose by, whatever the held-out ones say."""
    one = {"accuracy": 0.9, "choosing_accuracy": 0.6, "choosing_loss": 0.5}
    two = {"accuracy": 0.5, "choosing_accuracy": 0.7, "choosing_loss": 0.9}
    assert better(one, two) and better(two, one, CHOOSING)
    with pytest.raises(ConfigError, match=r"held_out\.choose=0\.5: all 2 items belong to one group"):
        parted([Known(item(f"r{i}", f"{i}."), (float(i),)) for i in range(2)], 0.5, 0, "held_out.choose")


def test_a_held_out_source_that_holds_training_rows_is_refused() -> None:
    known = [Known(item(f"r{i}", f"{i}."), (1.0,)) for i in range(9)]
    with pytest.raises(ConfigError, match=r"held_out.path: r3, r4, r5, r6, r7 and 1 more are also among what is trained on \(6 of 6\)"):
        apart(known, known[3:])
    assert len(apart(known[:3], known[3:]).held_out) == 6


# -- which text stands first ----------------------------------------------------------------------------------------------


def test_a_comparison_reads_the_texts_in_the_order_that_is_asked_for() -> None:
    pair = preferences([Known(item("p", "Better.", "Worse.", system=("rule", "model")), (None, None), "first")]).pairs[0]

    def rows(*overrides: str) -> list[tuple[str | None, str, float]]:
        return [
            (one.requests[0].first, one.requests[0].reply, one.value) for one in both_ways(pair, config("kind=comparison", *overrides))
        ]

    assert rows("swap=false") == [("Better.", "Worse.", 0.0)]  # the second one is not the better one
    assert rows() == [("Better.", "Worse.", 0.0), ("Worse.", "Better.", 1.0)]
    assert rows("swap=false", "order=system", "first=model") == [("Worse.", "Better.", 1.0)]
    with pytest.raises(ConfigError, match="p has texts by rule and model"):
        rows("order=system", "first=nobody")


def test_what_is_said_of_a_pair_in_an_order() -> None:
    """A score above 0: the text behind is better. In the order second-first that is the first one."""
    said = [between("p", "j", order, Valued(score)).choice for order in ("first", "second") for score in (1.5, -1.5, 0.0)]
    assert said == ["second", "first", "tie", "first", "second", "tie"]
    assert between("p", "j", "first", Valued(None, None, "too long")).choice is None
    assert request_of(item("p", "A.", "B."), 1, 0).first == "A." and request_of(item("p", "A.", "B."), 1).first is None


# -- measuring ------------------------------------------------------------------------------------------------------------


def test_the_calibration_error_is_the_mean_distance_of_chances_from_what_came_true() -> None:
    """20 chances in 10 bins of two. Of .8 four of five come true in ten: every bin of two has 2, 2, 2, 2 or 0 right: |.8 - 1| four times,
    |.8 - 0| once: (4 x .2 + .8) / 5 = .32; the other half is certain and right, 0: together .16."""
    chances = numpy.array([0.8] * 10 + [1.0] * 10)
    right = numpy.array([1.0] * 8 + [0.0] * 2 + [1.0] * 10)
    assert calibration_error(chances, right) == pytest.approx(0.16)


def test_a_pair_counts_by_its_sign_and_ties_of_the_model_are_half() -> None:
    """Four pairs, all of them with the first text better: scores differ by +1, +1, -1, 0: (1 + 1 + 0 + .5) / 4."""
    known = [Known(item(f"p{i}", f"A{i} is long.", f"B{i}.", group=f"g{i % 2}"), (2.0, 1.0), "first") for i in range(4)]
    measure = Measure(config(), known, [], [])
    said: list[Any] = []
    from expertchat.reward_models.measuring import _opinion

    for one, scores in zip(known, ((1.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)), strict=True):
        said += [_opinion(one.item, place, Valued(score)) for place, score in enumerate(scores)]
    figures = measure.figures(said)
    assert (figures["accuracy"], figures["n"], figures["groups"]) == (0.625, 4, 2)
    # -log sigmoid(1) = .3133 twice, -log sigmoid(-1) = 1.3133, -log sigmoid(0) = .6931
    assert figures["loss"] == pytest.approx((2 * 0.313262 + 1.313262 + 0.693147) / 4, abs=1e-5)
    assert figures["longer"] == 0.625 and figures["longer_true"] == 1.0
    assert better({"accuracy": 0.7, "loss": 2.0}, {"accuracy": 0.6, "loss": 1.0}) and not better({"accuracy": None}, {"accuracy": 0.1})
    assert better({"accuracy": 0.7, "loss": 1.0}, {"accuracy": 0.7, "loss": 2.0})


def test_ranks_are_held_against_what_was_learnt_and_not_against_the_truth() -> None:
    """The judge that it learnt from rates the truly worse text of each pair higher, and the model gives what that judge gives: rho 1. The
    truth, which the texts of the embedded world have, would be called "what is known": -1."""
    known = []
    for i in range(6):
        pair = item(f"p{i}", "A.", "B.", group=f"g{i % 3}")
        texts = [text.model_copy(update={"truth": truth}) for text, truth in zip(pair.texts, (0.0, 1.0), strict=True)]
        known.append(Known(pair.model_copy(update={"texts": texts}), (2.0, 1.0), "first"))
    from expertchat.reward_models.measuring import _opinion

    said = [_opinion(one.item, place, Valued(score)) for one in known for place, score in enumerate((1.0, 0.0))]
    figures = Measure(config(), known, [], []).figures(said)
    assert (figures["accuracy"], figures["rho"]) == (1.0, pytest.approx(1.0))


# -- from a table ---------------------------------------------------------------------------------------------------------


def test_a_table_of_choices_teaches_no_numbers(tmp_path: Any) -> None:
    rows = ["prompt,chosen,rejected"] + [f"q{i},good {i},bad {i}" for i in range(8)]
    (tmp_path / "p.csv").write_text("\n".join(rows) + "\n")
    found = load("reward_model", [f"source.path=[{tmp_path / 'p.csv'}]"])
    material = read_material(found, lambda text: None)
    assert material.target == "label" and material.counts["rows"] == 6 and len(material.held_out) == 2
    assert {one.requests[0].reply[:4] for one in material.examples} == {"good"}  # the better one comes first
    with pytest.raises(ConfigError, match="kind=regression: learns the numbers of texts, and the training rows hold choices"):
        read_material(load("reward_model", [f"source.path=[{tmp_path / 'p.csv'}]", "kind=regression"]), lambda text: None)
    with pytest.raises(ConfigError, match="target=truth: nothing of the kind"):
        read_material(load("reward_model", [f"source.path=[{tmp_path / 'p.csv'}]", "target=truth"]), lambda text: None)


def test_opinions_and_people_teach_what_they_say(tmp_path: Any) -> None:
    """Six pairs; the judge `length` prefers the longer text, which is the first one of each; a person chose the second one twice."""
    from expertchat.lab.run import run_judge
    from expertchat.records import Label
    from expertchat.reward_models.known import read_known
    from expertchat.sources.read import read_items
    from tests.scripted import Collect

    rows = ["prompt,a,b"] + [f"q{i},a long answer {i},short {i}" for i in range(6)]
    (tmp_path / "p.csv").write_text("\n".join(rows) + "\n")
    given = [f"source.path=[{tmp_path / 'p.csv'}]", "view=none"]
    judges = ["+judge@judges.length=length", "+judge@judges.first=first"]
    assert run_judge(load("judge", [*given, f"run.dir={tmp_path / 'lab'}", *judges]), ["expertchat", "judge"], Collect()) == 0
    judged = config(f"source.path=[{tmp_path / 'lab'}]")
    with pytest.raises(ConfigError, match="judge: first and length have judged these items; name one with judge=NAME"):
        read_known(judged, judged.source, "opinions", lambda text: None)
    named = judged.model_copy(update={"judge": "length"})
    target, known = read_known(named, named.source, "auto", lambda text: None)
    assert target == "opinions" and {one.better for one in known} == {"first"} and len(known) == 6
    table = config(f"source.path=[{tmp_path / 'p.csv'}]", f"labels=[{tmp_path / 'people'}]")
    items = read_items(table.source)
    (tmp_path / "people" / "ann").mkdir(parents=True)
    labels = [
        Label(id=f"l{i}", item=one.id, source=one.source, annotator="ann", form="pairs", at=float(i), choice="second", shown="first")
        for i, one in enumerate(items[:2])
    ]
    (tmp_path / "people" / "ann" / "labels.jsonl").write_text("".join(label.to_json() + "\n" for label in labels))
    target, known = read_known(table, table.source, "auto", lambda text: None)
    assert target == "people" and [one.better for one in known] == ["second", "second"]
