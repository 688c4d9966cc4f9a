"""Labels: the forms, the order of tasks, the store, an annotator at work, and where labels lie."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expertchat.config import ConfigError, conf_dir, validate
from expertchat.folder.writing import WriteError
from expertchat.labels.config import FormConfig, annotator_name
from expertchat.labels.export import preferences_of
from expertchat.labels.opinions import opinions_of
from expertchat.labels.run import labels_folder, sits_down, to_read
from expertchat.labels.sitting import Sitting
from expertchat.labels.store import LabelFile, read_labels, standing
from expertchat.labels.tasks import GAP, Key, tasks_of
from tests.labelled import PAIRS, RATINGS, SOURCE, form, label, pair, single

# -- forms ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [path.stem for path in sorted((conf_dir() / "form").glob("*.yaml"))])
def test_every_form_is_one(name: str) -> None:
    found = form(name)
    assert found.name == name and (found.scales or found.choice)


def test_the_open_assistant_form_is_what_it_was() -> None:
    found = form("open_assistant")
    assert list(found.scales) == ["quality", "helpful", "creative", "humorous", "polite", "harmless"]
    assert list(found.flags) == ["spam", "bad_answer", "not_in_the_language", "inappropriate", "personal_data", "hate", "sexual"]
    assert found.lacks(label("s01", flags=["spam"]), pair=False) == []  # spam is answer enough
    assert found.lacks(label("s01", flags=["hate"]), pair=False) == list(found.scales)


def test_a_wrong_form_is_told_with_everything_that_is_wrong() -> None:
    scales = {"depth": "", "a/b": "", "spam": ""}
    with pytest.raises(ConfigError) as caught:
        validate(FormConfig, {"name": "x", "scales": scales, "flags": {"spam": "", "rude": ""}, "spare": ["rudes"]})
    told = "\n".join(caught.value.problems)
    assert "'a/b' cannot be a name" in told and "spam: a scale and a flag of one name" in told and "did you mean rude?" in told
    with pytest.raises(ConfigError, match="asks nothing"):
        validate(FormConfig, {"name": "x"})


def test_names_of_annotators_are_names_of_folders() -> None:
    assert annotator_name(" Jo\u0308rg ") == "J\u00f6rg"
    for bad in ("", "..", "a/b", "-x", "a" * 41, "x\n", "a b"):
        with pytest.raises(ValueError):
            annotator_name(bad if bad != "x\n" else "x\ny")


# -- tasks ----------------------------------------------------------------------------------------------------------------


def test_a_tenth_comes_twice_with_others_between() -> None:
    items = [single(n) for n in range(60)]
    tasks = tasks_of(items, RATINGS, "ann", seed=0)
    assert len(tasks) == 66 and sum(task.again for task in tasks) == 6  # 0.1 * 60
    at = {task.key: place for place, task in enumerate(tasks)}
    for task in tasks:
        if task.again:
            assert at[task.key] - at[task.key._replace(again=False)] >= GAP
    assert [t.key for t in tasks] == [t.key for t in tasks_of(items, RATINGS, "ann", seed=0)]
    mine, yours = ([t.item.id for t in tasks_of(items, RATINGS, name, 0) if not t.again] for name in ("ann", "ben"))
    assert mine == yours != [item.id for item in items]  # one order for all, and not the source's
    assert [t.item.id for t in tasks_of(items, RATINGS, "ann", 0, shuffle=False, again=0)] == [item.id for item in items]


def test_few_items_come_twice_too() -> None:
    assert len(tasks_of([single(0)], RATINGS, "ann", 0)) == 1
    tasks = tasks_of([single(n) for n in range(4)], RATINGS, "ann", 0)  # 1 of 4, after half of them
    assert len(tasks) == 5 and sum(task.again for task in tasks) == 1


def test_sides_are_at_random_by_annotator_and_item() -> None:
    items = [pair(n) for n in range(200)]
    left = [task.left for task in tasks_of(items, PAIRS, "ann", 0, again=0)]
    assert 70 < Counter(left)["first"] < 130  # 100 +- 4.2 standard deviations of 7.07
    assert left != [task.left for task in tasks_of(items, PAIRS, "ben", 0, again=0)]


def test_a_form_without_a_choice_rates_the_texts_of_a_pair_one_by_one() -> None:
    tasks = tasks_of([pair(1), single(2)], RATINGS, "ann", 0, shuffle=False, again=0)
    assert [(t.item.id, t.place, t.left) for t in tasks] == [("p01", 0, None), ("p01", 1, None), ("s02", 0, None)]
    assert [t.item.id for t in tasks_of([pair(1), single(2)], PAIRS, "ann", 0, again=0)] == ["p01"]  # of one text it asks nothing


# -- the store ------------------------------------------------------------------------------------------------------------


def test_labels_of_another_source_are_refused_in_one_message(tmp_path: Path) -> None:
    for name in ("ann", "ben"):
        file = LabelFile(tmp_path, name, {"other"})
        file.add(label("s01", name, source="other"))
        file.close()
    with pytest.raises(ConfigError, match=r"of another source.*labels=FOLDER"):
        LabelFile(tmp_path, "ann", {SOURCE})
    with pytest.raises(ConfigError) as caught:
        read_labels(tmp_path, [single(1)])
    assert len(caught.value.problems) == 2 and "ben" in caught.value.problems[1] and "lines 1" in caught.value.problems[1]


def test_a_second_window_of_one_annotator_is_refused_and_others_are_not(tmp_path: Path) -> None:
    file = LabelFile(tmp_path, "ann", {SOURCE})
    with pytest.raises(ConfigError, match="annotator=ann: is labelling in another window"):
        LabelFile(tmp_path, "ann", {SOURCE})
    LabelFile(tmp_path, "ben", {SOURCE}).close()
    file.close()
    LabelFile(tmp_path, "ann", {SOURCE}).close()


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("")
    with pytest.raises(ConfigError, match=r"labels: cannot write .*labels=FOLDER"):
        LabelFile(tmp_path / "labels", "ann", {SOURCE})


def test_a_torn_last_line_is_cut_off_and_a_broken_one_in_the_middle_is_told(tmp_path: Path) -> None:
    file = LabelFile(tmp_path, "ann", {SOURCE})
    file.add(label("s01", comment="größer \U0001f30a"))
    file.close()
    whole = file.path.read_bytes()
    file.path.write_bytes(whole + whole[: len(whole) // 2])
    assert [one.item for one in read_labels(tmp_path, [single(1)])] == ["s01"]  # who reads leaves it alone
    again = LabelFile(tmp_path, "ann", {SOURCE})
    assert file.path.read_bytes() == whole and [one.id for one in again.labels] == ["ann/0"]
    again.close()
    file.path.write_bytes(whole[:40] + b"\n" + whole)
    with pytest.raises(ConfigError, match="line 1 is not a JSON object"):
        LabelFile(tmp_path, "ann", {SOURCE})


WRITER = """
import sys
from pathlib import Path
from expertchat.labels.store import LabelFile
from tests.labelled import SOURCE, label
file = LabelFile(Path(sys.argv[1]), sys.argv[2], {SOURCE})
for n in range(int(sys.argv[3])):
    file.add(label(f"s{n:04d}", sys.argv[2], comment="x" * (n % 700)))
    print(n + 1, flush=True)
"""


def writer(folder: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])


def test_two_processes_write_at_once_and_a_killed_one_loses_nothing_that_it_kept(tmp_path: Path) -> None:
    ann, ben = writer(tmp_path, "ann", 300), writer(tmp_path, "ben", 1_000_000)
    assert ann.stdout is not None and ben.stdout is not None
    kept = 0
    while kept < 100:
        kept = int(ben.stdout.readline())
    os.kill(ben.pid, signal.SIGKILL)
    kept = int((ben.stdout.read().split() or [kept])[-1])
    ben.wait()
    assert ann.wait(timeout=60) == 0
    ann.stdout.close(), ben.stdout.close()
    found = Counter(one.annotator for one in read_labels(tmp_path, [single(1)]))
    assert found["ann"] == 300 and kept <= found["ben"] <= kept + 1
    LabelFile(tmp_path, "ben", {SOURCE}).close()  # its lock ended with it


# -- an annotator at work -------------------------------------------------------------------------------------------------


def sitting(folder: Path, items: list[Any], which: FormConfig = RATINGS, again: float = 0.0, opinions: Any = None) -> Sitting:
    return Sitting(which, tasks_of(items, which, "ann", 0, again=again), LabelFile(folder, "ann", {SOURCE}), opinions)


def rate(at: Sitting, depth: int, clarity: int | None) -> None:
    at.keep(at.draft().model_copy(update={"ratings": {"depth": depth, "clarity": clarity}}))


def test_an_answer_is_kept_taken_back_and_given_again(tmp_path: Path) -> None:
    at = sitting(tmp_path, [single(n) for n in range(3)])
    first = at.task
    assert (at.done, at.total) == (0, 3) and first is not None and not at.undo()
    rate(at, 3, None)
    assert at.done == 1 and at.task is not first
    assert at.undo() and at.task is first and at.draft().ratings == {"depth": 3, "clarity": None}  # it begins from what it was
    rate(at, 4, 5)
    at.skip()
    assert (at.done, at.skipped) == (2, 1)
    at.close()
    later = sitting(tmp_path, [single(n) for n in range(3)])
    assert (later.done, later.skipped) == (2, 1)
    assert later.undo() and later.done == 1 and later.draft().skipped is False
    later.close()
    kept = [json.loads(line) for line in (tmp_path / "ann" / "labels.jsonl").read_text().splitlines()]
    assert [(one["id"], one["withdrawn"], one["skipped"]) for one in kept] == [
        ("ann/0", False, False), ("ann/1", True, False), ("ann/2", False, False), ("ann/3", False, True), ("ann/4", True, True),
    ]  # fmt: skip


def test_a_second_form_asks_everything_and_takes_back_only_its_own(tmp_path: Path) -> None:
    """Three texts in one form, then in another: six labels, of which each form sees three. A preference is by the form answered last."""
    items = [single(n) for n in range(3)]
    first = sitting(tmp_path, items)
    for _ in range(3):
        rate(first, 7, 7)
    first.close()
    other = RATINGS.model_copy(update={"name": "other"})
    at = sitting(tmp_path, items, other)
    assert (at.done, at.total) == (0, 3) and at.task is not None and at.draft().ratings == {} and not at.undo()
    rate(at, 2, 2)
    at.close()
    labels = read_labels(tmp_path, items)
    assert [(one.form, one.ratings["depth"]) for one in standing(labels).values()] == [(RATINGS.name, 7)] * 3 + [("other", 2)]
    (judge,), said = opinions_of(labels, items)
    assert judge.wording == f"other, {RATINGS.name}" and len({one.id for one in said}) == len(said) == 6  # of one text the last one counts
    assert sorted(one.value for one in said if one.category == "depth") == [2, 7, 7]
    both = [label("p00", ratings={"depth": 9}), label("p00", place=1, ratings={"depth": 1}), label("p00", form="pairs", choice="second")]
    assert preferences_of(both, [pair(0)]).pairs[0].score_chosen == 1.0
    assert preferences_of(both, [pair(0)]).pairs[0].chosen[0]["content"] == "the second"


def test_the_judges_are_seen_afterwards_and_what_was_seen_stands(tmp_path: Path) -> None:
    items = [single(n) for n in range(2)]
    assert sitting(tmp_path / "none", items).see() is None
    at = sitting(tmp_path, items, again=1.0, opinions={})
    assert at.total == 3 and at.see() is None  # one of two comes twice, after one other; nothing is answered yet
    rate(at, 1, 1)
    assert at.see() is not None and not at.undo()
    rate(at, 2, 2)
    assert at.task is None and (at.done, at.total) == (2, 2)  # what was seen does not come a second time
    at.close()
    again = sitting(tmp_path, items, again=1.0, opinions={})
    assert again.undo() and not again.undo()
    again.close()


texts = st.text(max_size=12)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(st.tuples(st.just("keep"), texts), st.sampled_from(["skip", "undo", "reopen", "tear"])), max_size=10))
def test_whatever_is_done_the_file_holds_it(steps: list[Any]) -> None:
    """Against a list of answers in which undo takes the last away."""
    items, wanted = [single(n) for n in range(6)], list[str | None]()
    with TemporaryDirectory() as name:
        folder = Path(name)
        at = sitting(folder, items)
        for step in steps:
            if step == "undo":
                assert at.undo() == bool(wanted)
                wanted = wanted[:-1]
            elif step == "reopen" or step == "tear":
                at.close()
                if step == "tear":
                    with open(folder / "ann" / "labels.jsonl", "ab") as file:
                        file.write(b'{"id":"ann/9","item":"s0')
                at = sitting(folder, items)
            elif at.task is not None and step == "skip":
                at.skip()
                wanted.append(None)
            elif at.task is not None:
                at.keep(at.draft().model_copy(update={"comment": step[1]}))
                wanted.append(step[1])
            assert at.done == len(wanted)
        at.close()
        found = standing(read_labels(folder, items)).values()
        clean = [None if text is None else text.encode("utf-8", "replace").decode() for text in wanted]
        assert [None if one.skipped else one.comment for one in found] == clean


def test_a_full_disk_keeps_the_answer_on_the_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = sitting(tmp_path, [single(1)])

    def full(fd: int, line: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("expertchat.folder.jsonl.os.write", full)
        with pytest.raises(WriteError, match="No space left"):
            rate(at, 1, 1)
    assert at.done == 0 and at.task is not None
    rate(at, 1, 1)
    assert at.done == 1
    at.close()


# -- places ---------------------------------------------------------------------------------------------------------------


def test_labels_lie_in_or_beside_their_source_or_else_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "a.csv").write_text("")
    monkeypatch.chdir(tmp_path)
    assert labels_folder(None, [str(tmp_path / "run")]) == tmp_path / "run" / "labels"
    assert labels_folder(None, ["a.csv"]) == Path("a.labels")
    assert labels_folder("x", ["a.csv"]) == Path("x")
    hub = labels_folder(None, ["hf:OWNER/NAME"])
    assert hub.parent == Path("labels") and hub.name.startswith("NAME-")
    assert labels_folder(None, ["a.csv", "run"]).name.startswith("a-")
    monkeypatch.setattr("expertchat.labels.run.os.access", lambda *_: False)  # root may write everywhere
    away = labels_folder(None, ["run"])
    assert away.parent == Path("labels") and away.name.startswith("run-")
    (tmp_path / "run" / "labels").mkdir()
    assert to_read(None, ["run"]) == Path("run/labels")  # read-only, and others have labelled it


def test_a_form_that_fits_nothing_and_one_that_changed_are_refused(tmp_path: Path) -> None:
    from expertchat.command.compose import load

    def config(*more: str) -> Any:
        return load("label", [f"labels={tmp_path}/labels", f"source.path=[{tmp_path}/items.jsonl]", *more])

    with pytest.raises(ConfigError, match="asks nothing of single texts"):
        sits_down(config("form=pairs"), [single(1)])
    sits_down(config(), [single(1)])("ann").close()
    with pytest.raises(ConfigError, match=r"another form of this name.*form\.name=NAME"):
        sits_down(config("form.missing=false"), [single(1)])("ben")
    sits_down(config("form.missing=false", "form.name=short"), [single(1)])("ben").close()
    with pytest.raises(ConfigError, match="annotator=a b: a name has"):
        sits_down(config(), [single(1)])("a b")
    assert Key("s01", 0, False, "default") in {task.key for task in tasks_of([single(1)], form("default"), "ann", 0)}
