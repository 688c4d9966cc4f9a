"""What single sections of a report show: pairs, candidates, judges, labels, reward models, the best of N, studies."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
import yaml

from expertchat.audit.card import card_of
from expertchat.labels.store import standing
from expertchat.records import Metrics
from expertchat.records.lab import Label
from expertchat.report.cards import RESAMPLES, SEED, cards_of
from expertchat.report.drawing import drawn
from expertchat.report.parts import Figure, Shown
from expertchat.report.sections.best_of_n import best_of_n
from expertchat.report.sections.candidates import candidates
from expertchat.report.sections.judges import of_card, svg
from expertchat.report.sections.labels import labels, same_again
from expertchat.report.sections.pairs import longer, pairs, read
from expertchat.report.sections.reward_models import reward_models
from expertchat.report.sections.studies import studies
from expertchat.report.verdict import verdict_of
from expertchat.report.verdict_others import said_of_card
from expertchat.text.card_in_words import names
from tests.planted import answers, evidence
from tests.planted import pairs as planted
from tests.reported import HOSTILE_NAME, figures, learned, lines, run_of, subject, tables

EARLIER = Path(__file__).parent / "earlier"


# -- pairs and candidates -----------------------------------------------------------------------------------------------------------


def pair(i: int, chosen: int, rejected: int, margin: float) -> dict[str, Any]:
    source = {"transcript": f"r000{1 + i // 4}/c{i % 2}", "learner": "a", "tokens_chosen": chosen, "tokens_rejected": rejected}
    return {"id": f"p{i}", "margin": margin, "round": 1 + i // 4, "provenance": source}


def test_pairs_are_counted_by_length(tmp_path: Path) -> None:
    run = learned(tmp_path / "run", "x", 0)
    lines(run, "pairs", *(pair(i, 10 + (i < 6) * 5, 10 + (i == 6) * 5, 0.1 * (i + 1)) for i in range(8)))
    made = read(subject(run).runs[0], "run")
    row = longer(made.pairs, "run")  # six longer, one shorter, one alike
    assert (row.value, row.n) == (pytest.approx(6 / 7), 7) and made.unit == "tokens"
    section = pairs(subject(run))
    assert section is not None and "8 pairs of 4 dialogues or texts, mean margin 0.45" in section.lead[0]
    assert [row[2] for row in figures(section)["pairs-longer"].rows] == [1.0, pytest.approx(2 / 3)]
    assert pairs(subject(EARLIER / "talked")) is None


def test_pairs_that_were_built_have_no_rounds_and_people_s_texts_no_tokens(tmp_path: Path) -> None:
    """Two pairs: 3 words against 2, and 2 against 3; of the chosen texts, which people wrote, no tokens are known."""
    run = learned(tmp_path / "run", "x", 0)
    for i, (chosen, rejected) in enumerate((("one two three", "a b"), ("one two", "a b c"))):
        texts = {side: [{"role": "assistant", "content": said}] for side, said in (("chosen", chosen), ("rejected", rejected))}
        tokens = {"tokens_chosen": 0} if i else {}  # runs of before wrote 0 where nothing was known
        lines(run, "pairs", {"id": f"r000{i}", "margin": 0.5, **texts, "provenance": {"tokens_rejected": 9, **tokens}})
    made = read(subject(run).runs[0], "run")
    assert [one.longer for one in made.pairs] == [1, -1] and made.unit == "words"
    assert [one.round for one in made.pairs] == [None, None]  # r0001 is the name of a row
    assert [row[1] for row in figures(pairs(subject(run)))["pairs-longer"].rows] == [0.5]


def test_candidates_of_one_history_stand_beside_each_other(tmp_path: Path) -> None:
    run = learned(tmp_path / "run", "x", 0)
    for i, value in enumerate([0.9, None, 0.1]):
        name = f"k{i}"
        kept = {"id": name, "transcript": "r0002/c0000", "turn": 1, "speaker": "a"}
        lines(run, "candidates", {**kept, "round": 2, "index": i, "text": HOSTILE_NAME, "tokens": 5 + i})
        lines(run, "scores", {**kept, "value": value})
    lines(run, "pairs", {**pair(0, 5, 7, 0.8), "provenance": {"chosen": "k0", "rejected": "k2"}})
    section = candidates(subject(run))
    (figure,) = figures(section).values()
    assert [row[3:] for row in figure.rows] == [[0.9, "chosen"], [None, ""], [0.1, "rejected"]]
    shown = next(iter(tables(section).values()))
    assert list(shown.columns) == ["reply", "score", "tokens", "pair"] and str(shown.rows["k1"][1]) == "–"
    assert "\x00" not in str(shown.rows["k0"][0])


# -- judges, labels, reward models, the best of N -------------------------------------------------------------------------------------


def test_the_judges_card_is_drawn_with_its_intervals() -> None:
    rng = numpy.random.default_rng(4)
    items = planted(8, 3, rng)
    said = {"perfect": answers("perfect", items, rng), "first": answers("first", items, rng)}
    card = card_of(evidence(items, said), against="auto", resamples=300, seed=0).values()
    parts = list(of_card(card, "judges"))
    found = {part.name: part for part in parts if isinstance(part, Figure)}
    flips = {row[0]: row[1] for row in found["judges-flips"].rows}
    held = {row["judge"]: row["figures"]["flips"]["value"] for row in card["judges"]}
    assert flips["first (pairwise)"] == held["first"] and flips["first (pairwise)"] > 0.5
    assert {"north", "south", "own"} == {row[1] for row in found["judges-ranking"].rows}
    assert ">north</text>" in svg(card)
    flagged = next(part for part in parts if isinstance(part, Shown) and part.title == "What the card shows")
    assert "shows a bias: the first" in map(str, flagged.rows["first (pairwise)"])
    said = str(said_of_card(card))
    assert re.match(r"\d+ judges on \d+ items[:.]", said) and "first (pairwise), the first" in said.partition("A bias shows: ")[2]
    assert cards_of({}, {Path("a/card.json"): card, Path("other.json"): {"judges": []}}) == {"card.json": card}


def test_a_rule_called_truth_and_the_yardstick_are_two_rows() -> None:
    rng = numpy.random.default_rng(4)
    items = planted(4, 2, rng)
    said = {"perfect": answers("perfect", items, rng), "first": answers("first", items, rng)}
    card = card_of(evidence(items, said), against="auto", resamples=300, seed=0).values()
    card["judges"][0] |= {"judge": "truth", "form": "rule"}
    assert names(card["judges"]) == ["truth (rule)", "first (pairwise)", "the truth"]
    assert names([card["judges"][0]] * 3) == ["truth (rule)", "truth (rule) 2", "truth (rule) 3"]
    length = next(part for part in of_card(card, "judges") if isinstance(part, Shown) and part.title == "Length")
    assert list(length.rows) == ["truth (rule)", "first (pairwise)", "the truth"]
    assert str(said_of_card(card)).startswith("2 judges on ")  # the yardstick judges nothing
    for row in card["judges"]:
        row["figures"] = {key: {**one, "flag": one["flag"] and "too_small"} for key, one in row["figures"].items()}
    assert str(said_of_card(card)).endswith("That is too little to show whether one has a bias.")  # and not that none has


def test_a_card_in_a_report_is_drawn_as_often_as_the_audit_draws() -> None:
    config = yaml.safe_load((Path(__file__).parents[1] / "conf" / "audit.yaml").read_text("utf-8"))
    assert (config["resamples"], config["seed"]) == (RESAMPLES, SEED)  # one folder has one figure


def label(item: str, at: int, again: bool = False, **more: Any) -> Label:
    return Label(id=f"ann/{at}", item=item, source="s", annotator="ann", form="f", at=float(at), seconds=4.0, again=again, **more)


def test_people_who_say_the_same_again(tmp_path: Path) -> None:
    told = [
        label("i1", 0, ratings={"depth": 5, "clarity": None}), label("i1", 1, True, ratings={"depth": 6, "clarity": 4}),
        label("i2", 2, choice="first"), label("i2", 3, True, choice="second"), label("i3", 4, skipped=True, flags=[]),
    ]  # fmt: skip
    assert same_again(standing(told)) == [1.0, 0.0]  # 5 and 6 are within a point; what could not be said is not compared
    six = [label("i4", at, at > 5, ratings={"depth": 5, "clarity": 5 + 3 * (at > 5)}) for at in (5, 6)]
    assert same_again(standing(six)) == [0.5]  # two ratings of one item, one of them the same
    run = tmp_path / "run"
    shutil.copytree(EARLIER / "talked", run)
    lines(run / "labels" / "ann", "labels", *(one.to_json() for one in told))
    row = tables(labels(subject(run)))["Who labelled how much"].rows["ann"]
    assert [str(cell) for cell in row[:4]] == ["2", "1", "4", "2"] and row[4].value == 0.5


def test_a_reward_model_has_curves_and_figures(tmp_path: Path) -> None:
    for epoch, right in enumerate([0.5, 0.75]):
        figures_ = {"accuracy": right, "accuracy_low": right - 0.2, "accuracy_high": right + 0.2, "loss": 0.7, "n": 40}
        one = Metrics(id=f"epoch-{epoch:04d}", kind="evaluation", round=epoch, learner="model", policy_version=epoch, figures=figures_)
        lines(tmp_path / "run", "metrics", one.to_json())
    run = run_of(tmp_path / "run", "reward_model", {"base": HOSTILE_NAME, "figures": figures_})
    section = reward_models(subject(run))
    assert section is not None and "75.0 % (55.0 to 95.0) of 40 held-out comparisons are ordered rightly" in section.lead[0]
    assert [row[1:5] for row in figures(section)["reward_models-accuracy_by_epoch"].rows] == [
        [0, 0.5, pytest.approx(0.3), pytest.approx(0.7)], [1, 0.75, pytest.approx(0.55), pytest.approx(0.95)]
    ]  # fmt: skip
    (run / "config.yaml").write_text("run: {seed: 0}\nkind: types\n")  # one that names types orders no pairs
    typed = {"base": HOSTILE_NAME, "figures": {**figures_, "coin": 0.125, "accuracy_cause": 0.5}}
    (run / "summary.json").write_text(json.dumps(typed))
    section = reward_models(subject(run))
    assert section is not None and section.lead[0].endswith("of 40 held-out texts are named by their type, by chance 12.5 %.")
    rows = tables(section)["On what was held out"].rows
    assert list(rows) == ["types named rightly", "loss", "of the type cause"]
    assert "reward_models-types-accuracy_by_epoch" in figures(section)
    assert str(verdict_of(subject(run)).says).startswith("The classifier names the type rightly in 75 % of 40 held-out texts")


def test_the_best_of_n_is_drawn_by_n(tmp_path: Path) -> None:
    def at(n: int, won: float) -> dict[str, Any]:
        figure = {"value": won, "low": won - 0.1, "high": won + 0.1, "n": 4}
        other = {"value": None, "low": None, "high": None, "n": 0}
        judged = {"chooser": {"against": {"first": figure}, "score": figure}, "a/b": {"against": {"first": other}}}
        return {"n": n, "kl": 0.1 * n, "ties": 0, "nothing": 1, "judges": judged, "gaps": {"a/b": other}}

    counts = {"prompts": 4, "groups": 2, "n": 4, "candidates": 16, "blank": 0, "equal": 1, "cut": 0, "against": ["first"]}
    said = {"curve": [at(1, 0.5), at(4, 0.8)], "findings": ["by a/b nothing can be said"]}
    summary = {**counts, **said, "judges": {"chooser": {}, "a/b": {}}}
    section = best_of_n(subject(run_of(tmp_path / "run", "best_of_n", summary)))
    found = figures(section)
    assert list(found) == ["best_of_n-won-first", "best_of_n-score-chooser"]  # who has answered nothing has no line, and no zero
    assert [row[:3] for row in found["best_of_n-won-first"].rows] == [["chooser", 1, 0.5], ["chooser", 4, 0.8]]
    assert section is not None and section.lead[1] == "By a/b nothing can be said."
    assert drawn(found["best_of_n-won-first"])


# -- studies -----------------------------------------------------------------------------------------------------------------------------


def test_a_study_has_its_tables_its_steps_and_what_is_not_there_yet(tmp_path: Path) -> None:
    step = {"command": "sft", "words": ["model=x", f"run.dir={tmp_path.resolve()}/taught"], "code": 0, "seconds": 3.5}
    (tmp_path / "logs").mkdir()
    for name, kept in (("taught", {**step, "began": 1.5}), ("next", {**step, "code": None, "began": 2.5})):
        (tmp_path / "logs" / f"{name}.json").write_text(json.dumps(kept))
    (tmp_path / "study.json").write_text(json.dumps({"schema": 2, "study": "mine", "size": "smoke"}))
    section = studies(subject(tmp_path))
    assert section is not None and section.lead[0].endswith("1 of 2 steps that were begun are done.") and "no tables yet" in section.lead[1]
    rows = {"a": [[0.5, 0.4, 0.6], [None] * 3], "b": [[None] * 3, [2, None, None]], "theirs": [[0.7, None, None], [1, None, None]]}
    told = {"title": "Mine", "columns": ["right", "n"], "rows": rows, "published": ["theirs"]}
    (tmp_path / "report.json").write_text(json.dumps({"schema": 1, "title": "Mine", "tables": {"t": told}}))
    section = studies(subject(tmp_path))
    assert str(tables(section)["The steps"].rows["taught"][0]) == "expertchat sft model=x run.dir=taught"
    assert [row[0] for row in figures(section)["studies-t-0"].rows] == ["a", "theirs (reported)"]
    assert str(tables(section)["Mine"].rows["a"][1]) == "–"
