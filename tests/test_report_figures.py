"""Figures and tables of a report: what is drawn is what the files hold, no answer is a gap, the same run gives the same bytes."""

from __future__ import annotations

import csv
import doctest
import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from matplotlib.figure import Figure as Canvas
from rich.console import Console

from expertchat.config import ConfigError
from expertchat.evaluation.statistics import wilson
from expertchat.folder.reader import RunReader
from expertchat.records import Metrics
from expertchat.report import parts, words
from expertchat.report.drawing import drawn, inline_svg, table, write_figures
from expertchat.report.learning import bounds, learnings, pooled
from expertchat.report.markdown import written
from expertchat.report.parts import Cell, Report, Section, Shown, Verdict
from expertchat.report.sections import SECTIONS
from expertchat.report.sections.arms import arms
from expertchat.report.sections.lookup import lookup
from expertchat.report.sections.studies import _parts
from expertchat.report.sections.training import training
from expertchat.report.shapes import Axis, Point, Row, Series, beside, curves, forest, histogram
from expertchat.report.verdict import verdict_of
from expertchat.report.writing import _plain
from expertchat.runs.arms import arms_of
from expertchat.views.report import _curves
from tests.reported import HOSTILE_NAME, figures, learned, lines, subject, tables

EARLIER = Path(__file__).parent / "earlier"
PLAIN = Axis("value")


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
    figure = curves("x", HOSTILE_NAME, "round", PLAIN, [Series(HOSTILE_NAME, [Point(0, 1.0), Point(1, 2.0)]), Series("b", [Point(0, 1.0)])])
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


def test_two_groups_are_told_apart_without_colour() -> None:
    figure = beside("x", "X", PLAIN, {"one": [Row("a", 1.0, 0.5, 1.5)], "two": [Row("a", 2.0), Row("b", None)]})
    assert figure is not None and "two: a 2, b no figure" in figure.alt
    marks = set(re.findall(r'<use xlink:href="#(m[0-9a-f]+)"', drawn(figure).decode()))
    assert len(marks) >= 4  # ticks, the ends of an interval, and a mark for each group


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
    assert list(map(str, every.rows["win_rate"])) == ["0.5", "0.75 (0.60 to 0.90)"] and "win_rate_low" not in every.rows


def test_the_end_is_told_of_the_weights_that_were_kept(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text("utf-8").splitlines()
    last = next(i for i in reversed(range(len(lines))) if "-final" in lines[i])
    for kept, says in ((1, "After round 1 of 2, whose weights were kept"), (0, "With the weights of the base, which were kept")):
        lines[last] = json.dumps(json.loads(lines[last]) | {"weights_of": kept})
        (run / "metrics.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
        section = training(subject(run))
        assert section is not None and section.lead[0].startswith(f"{says}: 75.0 %")
        found = verdict_of(subject(run)).says
        assert f"rounds of DPO (kept: the weights of {'round 1' if kept else 'the base'}), expert a is " in found
        assert tables(section)["The last evaluation"].note.startswith(f"{says}, on histories of its own")
        assert tables(lookup(subject(run)))["Every figure of the evaluations"].columns[-1] == f"round {kept}, at the end"


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


def test_one_model_in_all_seats_has_the_records_of_each(tmp_path: Path) -> None:
    run = learned(tmp_path / "run", "x", 0)
    config = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"learner": "one"}))
    for i, value in enumerate([10.0, 40.0, 11.0, 43.0, 12.0, 40.0]):  # a has 11 in the mean, b 41, both 26
        lines(run, "scores", {"id": f"k{i}", "transcript": f"r0001/c000{i // 2}", "speaker": "ab"[i % 2], "value": value})
    point = learnings(subject(run))[0].by_round("reward_mean")[0]
    assert point.low is not None and point.high is not None and (point.low + point.high) / 2 == pytest.approx(26)


def test_an_interval_of_samples_is_of_the_samples() -> None:
    def known(**figures: Any) -> tuple[float | None, float | None]:
        told = {"exact": 0.25, **figures}
        return bounds(Metrics(id="x", kind="evaluation", round=1, learner="a", policy_version=1, figures=told), "exact")

    assert known(exact_n=4, held_out=200) == wilson(1, 4)
    assert known(held_out=200) == (None, None)  # of an earlier version, which did not say how many


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


# -- Markdown, and all of them ---------------------------------------------------------------------------------------------------------


def test_markdown_holds_text_and_no_markup() -> None:
    shown = Shown("A | table", ["<b>"], {"x`y": [Cell("# [a](b) | c")]}, frozenset({"x`y"}), "Said.")
    figure = forest("one", "One", PLAIN, [Row("a]b", 0.5)])
    assert figure is not None
    section = Section("s", "# Title", ["- not a list", "1 of [2](x)"], [shown, figure])
    report = Report("r", Verdict("It *says*.", "It cannot."), Shown("Facts", ["v"], {"n": [Cell(3)]}), [section])
    text = written(report, "my%20plots")
    assert "| *x\\`y* | # \\[a\\](b) \\| c |" in text and "\n\\- not a list\n" in text
    assert "It \\*says\\*." in text and "## \\# Title" in text
    assert "](my%20plots/one.svg)" in text and "a\\]b: 0.5" in text and "one.svg" not in written(report)


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


def test_large_figures_are_written_in_thousands_and_their_ticks_are_few() -> None:
    assert all(doctest.testmod(one).failed == 0 for one in (parts, words))
    assert [parts.short(one) for one in (9999.0, 10_000.0, float("inf"))] == ["9999", "10,000", "inf"]
    assert [_plain(one) for one in (999.7, 999.2, -0.0, 4, -999.9)] == ["1,000", "999", "0", "4", "-1,000"]
    figure = forest("x", "X", PLAIN, [Row("a", 66_799.4, 29_868.0, 149_398.0), Row("b", 65_735.0)])
    assert figure is not None and "66,799 (29,868 to 149,398)" in figure.alt
    axes = Canvas().add_subplot()
    figure.draw(axes)
    told = [axes.xaxis.get_major_formatter()(place) for place in axes.get_xticks()]
    assert "80,000" in told and len(told) <= 6 and axes.get_xscale() == "linear"  # 4 steps, and one beyond each end


@pytest.mark.parametrize(("values", "scale"), [((2.0, 100.0), "log"), ((2.0, 99.0), "linear"), ((-2.0, 100.0), "linear")])
def test_what_lies_fifty_times_apart_in_a_study_is_drawn_logarithmically(values: tuple[float, float], scale: str) -> None:
    rows = {name: [[value, value / 2, value * 2]] for name, value in zip("ab", values, strict=True)}
    _, figure = _parts("s", {"title": "T", "columns": ["perplexity"], "rows": rows})
    assert isinstance(figure, parts.Figure)
    axes = Canvas().add_subplot()
    figure.draw(axes)
    assert axes.get_xscale() == scale


def test_names_that_begin_with_an_underscore_stand_in_the_legend() -> None:
    series = [Series(name, [Point(1, 0.5), Point(2, 0.25)]) for name in ("_one", "two")]
    rows = {name: [Row("x", 0.5, 0.0, 0.6)] for name in ("_one", "two")}
    for figure in (curves("c", "C", "round", PLAIN, series), beside("b", "B", PLAIN, rows)):
        assert figure is not None
        axes = Canvas().add_subplot()
        figure.draw(axes)
        assert axes.figure is not None
        (legend,) = axes.figure.legends
        assert [text.get_text().strip("\u200b") for text in legend.get_texts()] == ["_one", "two"]


def test_a_histogram_is_drawn_by_its_shares_in_the_terminal() -> None:
    rows: list[Any] = [["b by a", middle, share] for middle, share in ((-0.2, 0.0), (0.4, 1.0), (1.0, 0.0))]
    figure = parts.Figure("wim", "WIM scores", "x", ["who by whom", "middle of the bin", "share"], rows, lambda axes: None)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(_curves(figure))
    assert "▁█▁  -0.2 to 1" in console.export_text()


@pytest.mark.parametrize("x", ["N", "epoch", "round"])
def test_a_curve_in_the_terminal_is_of_its_values_and_not_of_where_they_stand(x: str) -> None:
    series = [Series(name, [Point(1, 0.5), Point(8, 0.25)]) for name in ("one", "two")]
    figure = curves("c", "C", x, PLAIN, series)
    assert figure is not None
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(_curves(figure))
    assert console.export_text().count("0.5 → 0.25") == 2
