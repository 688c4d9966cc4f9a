"""Figures and tables of a report: what is drawn is what the files hold, no answer is a gap, the same run gives the same bytes."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy
import pytest
import yaml

from expertchat.audit.card import card_of
from expertchat.config import ConfigError
from expertchat.folder.reader import RunReader
from expertchat.labels.store import standing
from expertchat.records import Metrics
from expertchat.records.lab import Label
from expertchat.report.cards import cards_of
from expertchat.report.drawing import drawn, inline_svg, table, write_figures
from expertchat.report.learning import learnings, pooled
from expertchat.report.markdown import inside, written
from expertchat.report.parts import Cell, Figure, Report, Section, Shown, Verdict
from expertchat.report.sections import SECTIONS
from expertchat.report.sections.arms import arms
from expertchat.report.sections.best_of_n import best_of_n
from expertchat.report.sections.candidates import candidates
from expertchat.report.sections.judges import of_card, svg
from expertchat.report.sections.labels import labels, same_again
from expertchat.report.sections.lookup import lookup
from expertchat.report.sections.pairs import longer, pairs, read
from expertchat.report.sections.reward_models import reward_models
from expertchat.report.sections.studies import studies
from expertchat.report.sections.training import training
from expertchat.report.shapes import Axis, Point, Row, Series, beside, curves, forest, histogram
from expertchat.report.subject import Subject, subject_of
from expertchat.report.verdict import verdict_of
from expertchat.report.verdict_others import said_of_card
from expertchat.runs.arms import arms_of
from tests.planted import answers, evidence
from tests.planted import pairs as planted

EARLIER = Path(__file__).parent / "earlier"
HOSTILE = "</text><script>alert(1)</script> $x^2$ \x00\x1b[31m {{7*7}} ‮" + "y" * 500
PLAIN = Axis("value")


def subject(*places: Path) -> Subject:
    return subject_of(list(places))


def figures(section: Section | None) -> dict[str, Figure]:
    assert section is not None
    return {part.name: part for part in section.parts if isinstance(part, Figure)}


def tables(section: Section | None) -> dict[str, Shown]:
    assert section is not None
    return {part.title: part for part in section.parts if isinstance(part, Shown)}


def lines(folder: Path, name: str, *found: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.jsonl").open("a", encoding="utf-8") as file:
        file.write("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in found))


FINAL = {
    "n": 40, "win_rate": 0.75, "win_rate_low": 0.6, "win_rate_high": 0.9, "wins": 30, "ties": 0, "losses": 10, "judge": "truth",
    "tokens_base": 15.0, "tokens_policy": 9.0,
}  # fmt: skip


def learned(place: Path, arm: str, seed: int) -> Path:
    """A run in which expert a has learnt for two rounds, as an arm with a seed of its own."""
    place.mkdir(parents=True)
    shutil.copy(EARLIER / "learned" / "provenance.json", place)
    config = yaml.safe_load((EARLIER / "learned" / "config.yaml").read_text("utf-8"))
    config |= {"arm": arm, "learner": "a", "run": {**config["run"], "seed": seed}}
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    (place / "summary.json").write_text("{}")

    def said(name: str, kind: Any, round: int, **figures: Any) -> None:
        lines(place, "metrics", Metrics(id=name, kind=kind, round=round, learner="a", policy_version=round, figures=figures).to_json())

    said("evaluation-a-0000", "evaluation", 0, win_rate=0.5, n=10)
    for i, loss in enumerate([0.75, 0.5], 1):
        said(f"round-{i:04d}", "round", i, loss=loss, reward_mean=0.5, kl=None, candidates=4)
    said("evaluation-a-0002-final", "evaluation", 2, **FINAL)
    return place


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learned(tmp_path_factory.mktemp("report") / "run", "x", 0)


# -- how it is drawn ----------------------------------------------------------------------------------------------------------


def test_text_is_text_and_the_same_run_gives_the_same_bytes(run: Path) -> None:
    figure, again = (figures(training(subject(run)))["training-loss"] for _ in range(2))
    for form in ("svg", "pdf", "png"):
        assert drawn(figure, form) == drawn(again, form)
    found = drawn(figure).decode()
    assert re.search(r"<text[^>]*>round</text>", found) and re.search(r"<text[^>]*>Loss</text>", found)
    assert "<title>Loss</title><desc>loss by round." in found and "Matplotlib" not in found
    assert not re.search(r"\d{4}-\d\d-\d\dT", found)  # no date


def test_what_stands_in_a_page_has_no_style_and_ids_of_its_own(run: Path) -> None:
    own = [inline_svg(figure) for figure in list(figures(training(subject(run))).values())[:2]]
    ids = [set(re.findall(r' id="([^"]+)"', one)) for one in own]
    assert ids[0] and not ids[0] & ids[1]
    for one, known in zip(own, ids, strict=True):
        assert "style" not in one and "xlink" not in one and "#1c1c1c" not in one and "currentColor" in one
        assert {name for name in re.findall(r'(?:href="#|url\(#)([^")]+)', one)} <= known
        assert 'role="img"' in one and 'aria-label="' in one


def test_hostile_names_are_letters_in_a_figure() -> None:
    figure = curves("x", HOSTILE, "round", PLAIN, [Series(HOSTILE, [Point(0, 1.0), Point(1, 2.0)]), Series("b", [Point(0, 1.0)])])
    assert figure is not None
    page = inline_svg(figure)
    assert "<script" not in page and "\x1b" not in page and "$x^2$" in page
    for found in (drawn(figure).decode(), page):
        assert "\x00" not in found and not any(node.tag.endswith("script") for node in ElementTree.fromstring(found).iter())
    assert len(drawn(figure, "pdf")) > 1000 and len(drawn(figure, "png")) > 1000


def test_files_are_svg_pdf_png_and_what_is_drawn(tmp_path: Path) -> None:
    figure = forest("one", "One", PLAIN, [Row("a", 0.5, 0.25, 0.75, 8), Row("b", None)])
    assert figure is not None
    assert [path.name for path in write_figures([figure], tmp_path / "plots")] == ["one.svg", "one.pdf", "one.png", "one.csv"]
    assert (tmp_path / "plots" / "one.csv").read_text() == "name,value,low,high,n\na,0.5,0.25,0.75,8\nb,,,,\n"
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["one.csv", "one.pdf", "one.png", "one.svg"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_figures([figure], tmp_path / "file")


# -- what is drawn --------------------------------------------------------------------------------------------------------------


def test_no_answer_is_a_gap_and_no_zero() -> None:
    figure = curves("x", "X", "round", PLAIN, [Series("", [Point(0, 1.0), Point(1, None), Point(2, 3.0, 2.5, 3.5)])])
    assert figure is not None and "1 at round 0, 3 (2.5 to 3.5) at round 2" in figure.alt
    assert [row[2] for row in csv.reader(io.StringIO(table(figure)))][1:] == ["1.0", "", "3.0"]
    assert curves("x", "X", "round", PLAIN, [Series("", [Point(0, 1.0), Point(1, None)])]) is None  # one value makes no line
    assert forest("x", "X", PLAIN, [Row("a", None)]) is None and histogram("x", "X", PLAIN, "pairs", [1.0, 1.0]) is None
    alone = forest("x", "X", PLAIN, [Row("a", 1.0), Row("b", None)])
    assert alone is not None and "b: no figure" in alone.alt


@pytest.mark.parametrize(
    ("axis", "values", "ends"),
    [
        (Axis("won", True, 0.5, 0.0, 1.0), [0.6, 0.61], (0.0, 100.0)),  # a win rate is shown against all that it could be
        (Axis("share", True, low=0.0), [0.0, 0.0], (0.0, 5.6)),  # nothing at all still spans ten points around it, from 0 up
        (Axis("rating", least=1.0), [8.4, 8.5], (7.89, 9.01)),  # 0.1 of a point is no cliff: (8.45 - .5) - .06 to (8.45 + .5) + .06
    ],
)
def test_axes_do_not_mislead(axis: Axis, values: list[float], ends: tuple[float, float]) -> None:
    from matplotlib.figure import Figure as Paper

    figure = curves("x", "X", "round", axis, [Series("", [Point(i, value) for i, value in enumerate(values)])])
    assert figure is not None
    axes = Paper().subplots()
    figure.draw(axes)
    assert axes.get_ylim() == pytest.approx(ends, abs=0.06)


def test_bars_hold_whole_numbers_alike() -> None:
    figure = histogram("x", "X", PLAIN, "pairs", [*range(50)] * 2)
    assert figure is not None
    assert {row[2] for row in figure.rows[:-1]} == {6} and sum(int(row[2] or 0) for row in figure.rows) == 100  # 3 numbers, twice each


def test_seeds_are_pooled_from_the_lowest_to_the_highest() -> None:
    assert pooled([[Point(1, 0.2), Point(2, None)], [Point(1, 0.4), Point(2, 0.5)]]) == [
        Point(1, pytest.approx(0.3), 0.2, 0.4), Point(2, 0.5)
    ]  # fmt: skip


# -- training and arms -----------------------------------------------------------------------------------------------------------


def test_curves_and_tables_hold_what_the_files_hold(run: Path) -> None:
    section = training(subject(run))
    assert section is not None and "training-kl" not in figures(section)  # there is none
    assert [row[:3] for row in figures(section)["training-loss"].rows] == [["", 1, 0.75], ["", 2, 0.5]]
    won = figures(section)["training-win_rate"]
    assert won.rows == [["all", 0, 0.5, None, None, ""], ["all", 2, 0.75, 0.6, 0.9, "apart"]] and "n = 40 at the end" in won.note
    assert tables(section)["The last evaluation"].rows["win rate, %"][0] == Cell(75.0, 60.0, 90.0)
    assert section.lead[0] == "After round 2: 75.0 % (60.0 to 90.0) of 40 replies win against the base's, judged by truth."
    every = tables(lookup(subject(run)))["Every figure of the evaluations"]
    assert list(map(str, every.rows["win_rate"])) == ["0.5", "0.75 (0.6 to 0.9)"] and "win_rate_low" not in every.rows


def test_a_run_of_an_earlier_version_is_told(tmp_path: Path) -> None:
    section = training(subject(EARLIER / "learned"))
    assert section is not None and section.lead[0].startswith("expert a: after round 2: 0.0 % (0.0 to 79.3) of 1 replies")
    assert figures(section) and all(drawn(one) for one in list(figures(section).values())[:1])


def test_intervals_of_a_round_draw_whole_dialogues(tmp_path: Path) -> None:
    run, who = learned(tmp_path / "run", "x", 0), "a"
    (one,) = learnings(subject(run))
    assert one.by_round("reward_mean")[0].low is None  # nothing is known but the mean
    for i, value in enumerate([0.0, 0.0, 1.0, 1.0, 0.5, 0.5]):  # three dialogues of two candidates each
        lines(run, "scores", {"id": f"k{i}", "transcript": f"r0001/c000{i // 2}", "speaker": who, "value": value})
    point = learnings(subject(run))[0].by_round("reward_mean")[0]
    assert point.low is not None and point.high is not None
    reach = 4.303 * 0.5 / 3**0.5  # the standard deviation of 0, 1 and .5 is .5; t of two degrees of freedom
    assert (point.low, point.high) == (pytest.approx(0.5 - reach, rel=0.1), pytest.approx(0.5 + reach, rel=0.1))


def test_intervals_of_an_evaluation_draw_whole_topics(tmp_path: Path) -> None:
    run = learned(tmp_path / "run", "x", 0)
    (run / "evaluations").mkdir()
    told = [{"id": f"h{i}", "topic": f"t{i // 2}", "base_tokens": 13 + 2 * (i // 2), "reply": {"tokens": 8}} for i in range(6)]
    lines(run / "evaluations", "a-r0002-final", *told)
    (one,) = learnings(subject(run))
    assert one.final is not None
    known = one.final
    reach = 4.303 * 2 / 3**0.5  # three topics of 13, 15 and 17 tokens have a standard deviation of 2
    assert one.bounds_of(known, "tokens_base") == (pytest.approx(15 - reach, abs=0.4), pytest.approx(15 + reach, abs=0.4))
    assert one.bounds_of(known, "tokens_policy") == (None, None)  # the file has another mean, so it is of something else


def test_arms_stand_below_each_other_with_their_seeds(tmp_path: Path) -> None:
    places = [learned(tmp_path / f"{arm}-{seed}", arm, seed) for arm in ("wim", "random") for seed in (0, 1)]
    section = arms(subject(tmp_path))
    won = figures(section)["arms-win_rate"]
    assert [row[0] for row in won.rows] == ["random", "wim"] and "takes each reply for itself" in won.note
    assert {tuple(row[1:2]) + tuple(row[4:]) for row in won.rows} == {(0.75, 80, 0.75, 0.75)}  # two seeds of 40 replies each
    assert tables(section)["The arms in figures"].rows["wim"][0] == Cell(2)
    assert arms(subject(places[0])) is None
    names = [row[0] for row in figures(training(subject(*places[:2])))["training-loss"].rows]
    assert set(names) == {"wim, wim-0", "wim, wim-1"}


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
        lines(run, "candidates", {**kept, "round": 2, "index": i, "text": HOSTILE, "tokens": 5 + i})
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


def test_two_groups_are_told_apart_without_colour() -> None:
    figure = beside("x", "X", PLAIN, {"one": [Row("a", 1.0, 0.5, 1.5)], "two": [Row("a", 2.0), Row("b", None)]})
    assert figure is not None and "two: a 2, b no figure" in figure.alt
    marks = set(re.findall(r'<use xlink:href="#(m[0-9a-f]+)"', drawn(figure).decode()))
    assert len(marks) >= 4  # ticks, the ends of an interval, and a mark for each group


def label(item: str, at: int, again: bool = False, **more: Any) -> Label:
    return Label(id=f"ann/{at}", item=item, source="s", annotator="ann", form="f", at=float(at), seconds=4.0, again=again, **more)


def test_people_who_say_the_same_again(tmp_path: Path) -> None:
    told = [
        label("i1", 0, ratings={"depth": 5, "clarity": None}), label("i1", 1, True, ratings={"depth": 6, "clarity": 4}),
        label("i2", 2, choice="first"), label("i2", 3, True, choice="second"), label("i3", 4, skipped=True, flags=[]),
    ]  # fmt: skip
    assert same_again(standing(told)) == [True, False]  # 5 and 6 are within a point; what could not be said is not compared
    run = tmp_path / "run"
    shutil.copytree(EARLIER / "talked", run)
    lines(run / "labels" / "ann", "labels", *(one.to_json() for one in told))
    row = tables(labels(subject(run)))["Who labelled how much"].rows["ann"]
    assert [str(cell) for cell in row[:4]] == ["2", "1", "4", "2"] and row[4].value == 0.5


def run_of(folder: Path, command: str, summary: dict[str, Any]) -> Path:
    lines(folder, "events", {"kind": "run_started", "command": command, "folder": "x", "conversations": 0, "turns": 0, "time": 1.0})
    (folder / "config.yaml").write_text("run: {seed: 0}\n")
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_a_reward_model_has_curves_and_figures(tmp_path: Path) -> None:
    for epoch, right in enumerate([0.5, 0.75]):
        figures_ = {"accuracy": right, "accuracy_low": right - 0.2, "accuracy_high": right + 0.2, "loss": 0.7, "n": 40}
        one = Metrics(id=f"epoch-{epoch:04d}", kind="evaluation", round=epoch, learner="model", policy_version=epoch, figures=figures_)
        lines(tmp_path / "run", "metrics", one.to_json())
    run = run_of(tmp_path / "run", "reward_model", {"base": HOSTILE, "figures": figures_})
    section = reward_models(subject(run))
    assert section is not None and "75.0 % (55.0 to 95.0) of 40 held-out comparisons are ordered rightly" in section.lead[0]
    assert [row[1:5] for row in figures(section)["reward_models-accuracy_by_epoch"].rows] == [
        [0, 0.5, pytest.approx(0.3), pytest.approx(0.7)], [1, 0.75, pytest.approx(0.55), pytest.approx(0.95)]
    ]  # fmt: skip
    (run / "config.yaml").write_text("run: {seed: 0}\nkind: types\n")  # one that names types orders no pairs
    typed = {"base": HOSTILE, "figures": {**figures_, "coin": 0.125, "accuracy_cause": 0.5}}
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


# -- studies, and Markdown --------------------------------------------------------------------------------------------------------------


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


def test_markdown_holds_text_and_no_markup() -> None:
    shown = Shown("A | table", ["<b>"], {"x`y": [Cell("# [a](b) | c")]}, frozenset({"x`y"}), "Said.")
    figure = forest("one", "One", PLAIN, [Row("a]b", 0.5)])
    assert figure is not None
    section = Section("s", "# Title", ["- not a list", "1 of [2](x)"], [shown, figure])
    report = Report("r", Verdict("It *says*.", "It cannot."), Shown("Facts", ["v"], {"n": [Cell(3)]}), [section])
    text = written(report, "my%20plots")
    assert "| *x'y* | # [a](b) \\| c |" in text and "\n\\- not a list\n" in text and "It \\*says\\*." in text and "## \\# Title" in text
    assert "](my%20plots/one.svg)" in text and "a)b: 0.5" in text and "one.svg" not in written(report)
    assert inside("a\nb | <c> `d`") == "a b \\| &lt;c> 'd'"


def test_names_of_figures_are_names_of_files_and_no_two_are_alike(run: Path, tmp_path: Path) -> None:
    rows = {"a": [[0.5, 0.4, 0.6]], "b": [[0.6, 0.5, 0.7]]}
    told = {"title": "T", "columns": ["right"], "rows": rows, "published": []}
    (tmp_path / "study.json").write_text(json.dumps({"study": "mine", "size": "smoke", "steps": {}}))
    (tmp_path / "report.json").write_text(json.dumps({"title": "T", "tables": {"../x y": told, "../x_y2": told}}))
    table = arms_of([RunReader(learned(tmp_path / "two" / str(seed), "x", seed)) for seed in (0, 1)]).values()
    (tmp_path / "arms.json").write_text(json.dumps(table))
    about = subject(run, tmp_path, tmp_path / "arms.json")
    names = [name for section in SECTIONS if (made := section(about)) is not None for name in figures(made)]
    assert all(re.fullmatch(r"[\w-]+", name, re.ASCII) for name in names) and len(names) == len(set(names))
    assert {"studies-___x_y-0", "lookup-0-win_rate", "arms-win_rate"} <= set(names)


def test_seeds_of_a_merged_run_are_lines_of_their_own(tmp_path: Path) -> None:
    run = learned(tmp_path / "run", "x", 0)
    told = (run / "metrics.jsonl").read_text("utf-8")
    (run / "metrics.jsonl").write_text("".join(told.replace('"id":"', f'"id":"s{seed}/') for seed in (0, 3)))
    config = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "run": {**config["run"], "seed": None}}))
    section = training(subject(run))
    assert [row[:3] for row in figures(section)["training-loss"].rows] == [
        ["seed 0", 1, 0.75], ["seed 0", 2, 0.5], ["seed 3", 1, 0.75], ["seed 3", 2, 0.5]
    ]  # fmt: skip
    assert section is not None and len(section.lead) == 3 and section.lead[1].startswith("seed 3: after round 2: 75.0 %")
