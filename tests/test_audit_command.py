"""`expertchat audit`: folders, labels and runs that are read, what is refused, and the files that are written."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest

from expertchat import cli
from expertchat.audit.card import card_of
from expertchat.audit.evidence import Evidence
from expertchat.config import ConfigError
from expertchat.records import Item, JudgeRef, Label, Opinion, Text
from expertchat.report.sections.judges import svg
from expertchat.views.audit import markdown, print_card
from tests.planted import answers, evidence, judge, pairs

Captured = pytest.CaptureFixture[str]
ALONE = 300  # resamples


def near(value: float | None, wanted: float) -> None:
    assert value == pytest.approx(wanted, abs=1e-3)


# -- people --------------------------------------------------------------------------------------------------------------------------


def test_people_are_rows_and_what_the_others_are_held_against() -> None:
    items = [Item(id=str(i), source="s", texts=[Text(text=f"a{i}"), Text(text=f"b{i}")], group=str(i)) for i in range(30)]
    said: dict[str, list[Any]] = {"ann": ["first"] * 20 + ["second"] * 10, "bob": ["first"] * 15 + ["second"] * 15, "llm": ["first"] * 30}
    opinions = [
        Opinion(id=f"{i}/{who}", item=str(i), judge=who, category="overall", choice=choice)
        for who, choices in said.items()
        for i, choice in enumerate(choices)
    ]
    found = Evidence()
    judges = [JudgeRef(id=who, form="pairwise" if who == "llm" else "person") for who in said]
    assert found.add("here", items, judges, opinions) == []
    card = card_of(found, against="auto", resamples=ALONE, seed=0)
    rows = {row.judge.id: row for row in card.rows}
    assert card.against == "people"
    near(rows["ann"].figures["agreement"].value, 25 / 30)  # with bob alone
    near(rows["llm"].figures["agreement"].value, 15 / 25)  # where ann and bob disagree nothing is right
    # Krippendorff by hand: of 60 values 35 first, 25 second; 5 of 30 units disagree: 1 - 59 x 10 / (2 x 35 x 25).
    near(card.together["alpha of people' choices"].value, 1 - 59 * 10 / (2 * 35 * 25))


def test_who_is_held_against_people_is_not_held_against_the_truth_of_a_text() -> None:
    """People choose the truly worse text, and the judge rates as they choose: agreement 1. Beside it ratings and choices that are held
    against the truth (rho -1) would look as if people had said it."""
    truths = [(3.0, 7.0), (7.0, 3.0)] * 15
    items = [Item(id=str(i), source="s", texts=[Text(text=f"{i}{k}", truth=truth) for k, truth in enumerate(pair)], group=str(i))
             for i, pair in enumerate(truths)]  # fmt: skip
    said = [Opinion(id=f"{i}/llm/{k}", item=str(i), judge="llm", category="overall", place=k, value=int(10 - truth))
            for i, pair in enumerate(truths) for k, truth in enumerate(pair)]  # fmt: skip
    worse = [Opinion(id=f"{i}/{who}", item=str(i), judge=who, category="overall", choice="first" if pair[0] < pair[1] else "second")
             for i, pair in enumerate(truths) for who in ("ann", "bob")]  # fmt: skip
    found = Evidence()
    judges = [JudgeRef(id="llm", form="written"), JudgeRef(id="ann", form="person"), JudgeRef(id="bob", form="person")]
    assert found.add("here", items, judges, [*said, *worse]) == []
    rows = {row.judge.id: row.figures for row in card_of(found, against="people", resamples=ALONE, seed=0).rows}
    near(rows["llm"]["agreement"].value, 1.0)
    assert [rows["llm"][name].value for name in ("rho", "quadratic", "calibration")] == [None, None, None]
    near(rows["ann"]["agreement"].value, 1.0)
    assert rows["ann"]["rho"].value is None
    by_truth = card_of(found, against="truth", resamples=ALONE, seed=0).rows[0].figures
    near(by_truth["rho"].value, -1.0)
    near(by_truth["agreement"].value, 0.0)


def label(item: str, who: str, choice: Any, source: str = "s") -> Label:
    return Label(id=f"{who}/{item}", item=item, source=source, annotator=who, form="pairs", at=0.0, choice=choice, shown="first")


def test_labels_are_read_with_a_judged_folder(tmp_path: Path, capsys: Captured) -> None:
    items = [Item(id=f"i{n}", source="s", texts=[Text(text=f"a{n}"), Text(text=f"b{n}")], group=f"g{n}") for n in range(40)]
    opinions = [Opinion(id=f"i{n}/j", item=f"i{n}", judge="j", category="overall", choice="first") for n in range(40)]
    folder, people = write(tmp_path / "judged", items, [JUDGE], opinions), tmp_path / "people"
    for who, often in (("ann", 30), ("bob", 36), ("eve", 33)):
        (people / who).mkdir(parents=True)
        lines = [label(f"i{n}", who, "first" if n < often else "second") for n in range(40)]
        (people / who / "labels.jsonl").write_text("".join(f"{one.to_json()}\n" for one in lines))
    assert cli.main(["audit", str(folder), f"labels=[{people}]", f"out={tmp_path / 'card.json'}"]) == 0
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["against"] == "people" and {one["judge"] for one in card["judges"]} == {"j", "ann", "bob", "eve"}
    assert "alpha of people' choices" in card["together"]
    test = card["alternative"]["j, choices"]
    assert test["passed"] is True and len(test["people"]) == 3  # always the first, as people nearly always
    assert "Alternative annotator test of j, choices: may stand in for a person" in capsys.readouterr().out
    (people / "ann" / "labels.jsonl").write_text(label("i1", "ann", "first", "other").to_json() + "\n")
    assert cli.main(["audit", str(folder), f"labels=[{people}]"]) == 2
    assert "labels are of another source (lines 1)" in capsys.readouterr().err
    assert cli.main(["audit", str(folder), f"labels=[{tmp_path / 'nobody'}]"]) == 2
    assert "holds no labels.jsonl" in capsys.readouterr().err


def test_a_run_is_read_with_its_own_ratings(capsys: Captured) -> None:
    assert cli.main(["audit", str(Path(__file__).parent / "earlier" / "talked"), "resamples=200"]) == 0
    shown = capsys.readouterr().out
    assert "a (recorded)" in shown and "b (recorded)" in shown and "n too small: shows nothing" in shown


def test_what_nobody_has_judged_is_told(tmp_path: Path, capsys: Captured) -> None:
    table = tmp_path / "pairs.jsonl"
    table.write_text('{"a": "one", "b": "two"}\n{"a": "three", "b": "four"}\n')
    assert cli.main(["audit", str(table)]) == 2
    assert "nobody has judged it" in capsys.readouterr().err


# -- what is refused --------------------------------------------------------------------------------------------------------------------

ITEM = Item(id="i1", source="s", texts=[Text(text="one"), Text(text="two")], group="g")
OPINION = Opinion(id="i1/j/overall", item="i1", judge="j", category="overall", choice="first")
JUDGE = JudgeRef(id="j", form="pairwise")


def write(
    folder: Path, items: Sequence[Item] = (ITEM,), judges: Sequence[JudgeRef] = (JUDGE,), opinions: Sequence[Opinion] = (OPINION,)
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, records in (("items", items), ("judges", judges), ("opinions", opinions)):
        (folder / f"{name}.jsonl").write_text("".join(f"{one.to_json()}\n" for one in records))
    return folder


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"items": [ITEM, ITEM]}, "items.jsonl: i1 (1, 2) is there twice"),
        ({"opinions": [OPINION, OPINION]}, "opinions.jsonl: i1/j/overall (1, 2) is there twice"),
        ({"opinions": [OPINION.model_copy(update={"item": "i9"})]}, "opinions.jsonl: line 1 is about an item of another source"),
        ({"judges": [JudgeRef(id="k", form="pairwise")]}, "line 1 is by a judge that judges.jsonl does not have"),
        ({"items": [ITEM.model_copy(update={"texts": ITEM.texts[:1]})]}, "a choice, or of a second text, where the item has one"),
        ({"opinions": [OPINION.model_copy(update={"choice": None, "problem": "blank"})]}, "none of 1 opinions is an answer (blank)"),
        ({"opinions": []}, "it has no opinions"),
    ],
)  # fmt: skip
def test_a_damaged_folder_is_one_message(tmp_path: Path, capsys: Captured, more: dict[str, Any], said: str) -> None:
    folder = write(tmp_path / "judged", **more)
    assert cli.main(["audit", str(folder)]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_folders_that_contradict_each_other(tmp_path: Path, capsys: Captured) -> None:
    one = write(tmp_path / "one")
    two = write(tmp_path / "two", [ITEM.model_copy(update={"topic": "other"})])
    (tmp_path / "three").mkdir()
    assert cli.main(["audit", str(one), str(two), str(tmp_path / "three")]) == 2
    error = capsys.readouterr().err
    assert "2 problems" in error and "with other contents" in error and "three: " in error


def test_folders_are_joined_by_source_and_item() -> None:
    found = Evidence()
    assert found.add("runs/one", [ITEM], [JUDGE], [OPINION]) == []
    # Read with another source, its id begins with the first signs of the source; another judge of the same name gets one of its own.
    prefixed, other = ITEM.model_copy(update={"id": "s/i1"}), JudgeRef(id="j", form="expected")
    said = Opinion(id="s/i1/j/overall", item="s/i1", judge="j", category="overall", expected=7.0)
    assert found.add("runs/two", [prefixed], [other], [said]) == []
    assert found.add("runs/again", [ITEM], [JUDGE], [OPINION]) == []
    assert len(found.items) == 1 and {name: len(said) for name, said in found.opinions.items()} == {"j": 1, "j of two": 1}


def test_a_damaged_line_is_named(tmp_path: Path, capsys: Captured) -> None:
    folder = write(tmp_path / "judged")
    (folder / "opinions.jsonl").write_text('{"id": "x"}\n' + OPINION.to_json() + "\n")
    assert cli.main(["audit", str(folder)]) == 2
    assert "opinions.jsonl, line 1 is no record" in capsys.readouterr().err


def test_nothing_to_hold_against(tmp_path: Path) -> None:
    found = Evidence()
    assert found.add("here", [ITEM], [JUDGE], [OPINION]) == []
    with pytest.raises(ConfigError, match="against=truth: nothing of the kind"):
        card_of(found, against="truth", resamples=ALONE, seed=0)
    assert card_of(found, against="auto", resamples=ALONE, seed=0).against is None


def test_what_is_unanswered_becomes_no_number() -> None:
    items = [Item(id=str(i), source="s", texts=[Text(text="a", truth=1), Text(text="b", truth=0)], group=str(i)) for i in range(2)]
    opinions = [
        Opinion(id=f"{i}/{order}", item=str(i), judge="j", category="overall", order=order, choice="first")
        for i in range(2)
        for order in ("first", "second")
    ]
    opinions[-1] = opinions[-1].model_copy(update={"choice": None, "problem": "blank"})
    found = Evidence()
    assert found.add("here", items, [JUDGE], opinions) == []
    figures = card_of(found, against="auto", resamples=ALONE, seed=0).rows[0].figures
    assert figures["unanswered"].value == 0.25 and figures["agreement"].n == 1 and figures["flips"].n == 1


def test_a_text_that_lacks_a_category_is_not_compared_by_the_others() -> None:
    """The judge is always right: depth 3 against 4, engagement 8 against 9. Without the engagement of the better text its mean would be 4,
    and that of the worse one (3 + 8) / 2 = 5.5: the judge would be called wrong where it only left out an answer."""
    items = [Item(id=str(i), source="s", texts=[Text(text="a", truth=1), Text(text="b", truth=0)], group=str(i)) for i in range(3)]
    given = {("depth", 0): 4, ("depth", 1): 3, ("engagement", 0): 9, ("engagement", 1): 8}
    opinions = [
        Opinion(id=f"{i}/{category}/{place}", item=str(i), judge="j", category=category, place=place, value=value)
        for i in range(3)
        for (category, place), value in given.items()
    ]
    opinions[2] = opinions[2].model_copy(update={"value": None, "problem": "cut"})  # the engagement of the first item's better text
    found = Evidence()
    assert found.add("here", items, [JudgeRef(id="j", form="written")], opinions) == []
    figures = card_of(found, against="auto", resamples=ALONE, seed=0).rows[0].figures
    assert (figures["agreement"].value, figures["agreement"].n) == (1.0, 2)
    near(figures["unanswered"].value, 1 / 12)
    near(figures["rho"].value, 1.0)  # of 5 texts: 6.5, 6.5 of the better ones, 5.5 three times of the others


# -- the command -------------------------------------------------------------------------------------------------------------------------


def test_the_command_writes_all_forms(tmp_path: Path, capsys: Captured) -> None:
    rng = numpy.random.default_rng(2)
    items = pairs(12, 2, rng)
    opinions = answers("first", items, rng) + answers("perfect", items, rng)
    folder = write(tmp_path / "judged", items, [judge("first"), judge("perfect")], opinions)
    for name in ("card.json", "card.csv", "card.md"):
        assert cli.main(["audit", str(folder), f"out={tmp_path / name}", "resamples=200"]) == 0
    shown = capsys.readouterr().out
    assert "shows a bias: the first" in shown and "Chance to win against the others" in shown
    values = json.loads((tmp_path / "card.json").read_text())
    assert [one["judge"] for one in values["judges"]] == ["first", "perfect", "the truth"]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "card.csv").read_text())))
    assert rows[0]["first"] == "1.0" and rows[0]["first_flag"] == "bias" and rows[0]["own_low"] != "nan"
    assert "| judge | agreement | rho | place |" in (tmp_path / "card.md").read_text()


def test_wrong_keys_are_told_before_anything_is_read(capsys: Captured) -> None:
    assert cli.main(["audit", "out=card.xlsx", "resamples=3"]) == 2
    error = capsys.readouterr().err
    assert "must end in .md, .csv, .json" in error and "but is 3" in error and "names nothing" in error


def test_names_are_data(capsys: Captured) -> None:
    rng = numpy.random.default_rng(3)
    items = pairs(6, 1, rng)
    values = card_of(evidence(items, {"first": answers("first", items, rng)}), against="auto", resamples=ALONE, seed=0).values()
    values["judges"][0]["judge"] = "bad\x1b[31m|name"
    print_card(values)
    assert "\x1b[31m" not in capsys.readouterr().out
    assert "\\|name" in markdown(values)


def test_rankings_are_drawn_as_text_and_alike_each_time() -> None:
    pytest.importorskip("matplotlib")
    rng = numpy.random.default_rng(4)
    items = pairs(8, 3, rng)
    card = card_of(evidence(items, {"perfect": answers("perfect", items, rng)}), against="auto", resamples=ALONE, seed=0).values()
    drawn = svg(card)
    assert drawn == svg(card) and "<svg" in drawn and ">north</text>" in drawn and "perfect (pairwise)" in drawn
    with pytest.raises(ConfigError, match="no judge has compared texts of two systems"):
        svg({**card, "judges": [{**one, "ranking": None} for one in card["judges"]]})


def test_a_missing_library_is_told_with_its_remedy(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "evalica" else found(name, *more))
    assert cli.main(["audit", str(write(tmp_path / "judged"))]) == 2
    assert "the audit needs evalica: pip install 'expertchat[lab]'" in capsys.readouterr().err
