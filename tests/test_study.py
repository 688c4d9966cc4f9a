"""Studies: what their files may say, what is run in which order, what is run again, and what comes of a step that fails or is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from expertchat import cli
from expertchat.config import ConfigError
from expertchat.folder import embedded
from expertchat.folder.embedded import models_id
from expertchat.report.markdown import table as markdown
from expertchat.studies import going
from expertchat.studies.going import ended, outlets, run_study, words_of
from expertchat.studies.tables import as_json, cell_of, finding, report, tables_of
from expertchat.studies.written import SIZES, Step, StudyFile, read_study, steps_of, studies
from tests.workers.forked import begin, environment

ROOT = Path(__file__).parents[1]
WRITTEN = {
    "title": "Two seeds talk",
    "words": {"turns": {"smoke": 2, "small": 4, "full": 8}, "count": 1},
    "steps": {
        "talk": {"run": "converse conversation.count=$count conversation.turns=$turns run.seed=$seed", "each": {"seed": [0, 1]}},
        "again": {"run": "judge $talk judge=length run.seed=$seed", "each": {"seed": [0, 1]}},
        "said": {"run": "metrics $talk out=$here/said.json", "smoke": "measures=[length]"},
    },
    "tables": {
        "first": {
            "title": "How long",
            "rows": {"talked": "talk", "said": "said"},
            "figures": {"turns": "turns", "words": "said.json:words"},
            "beside": {"they": {"turns": 3}},
        }
    },
}  # fmt: skip


def study() -> StudyFile:
    return StudyFile.model_validate(WRITTEN)


def steps(place: Path, size: str = "smoke", more: Mapping[str, Sequence[str]] | None = None, **words: str) -> list[Step]:
    return steps_of(study(), size, place, words, more or {})  # type: ignore[arg-type]


class Told:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.left: dict[str, str] = {}
        self.codes: list[tuple[str, int]] = []
        self.said: list[str] = []

    def begins(self, steps: Sequence[Step], left: Mapping[str, str]) -> None:
        self.left = dict(left)

    def doing(self, step: Step, seconds: float, line: str) -> None: ...

    def did(self, step: Step, code: int, seconds: float) -> None:
        self.codes.append((step.name, code))

    def says(self, text: str) -> None:
        self.said.append(text)


def worked(step: Step, log: Path, heard: Callable[[float, str], None], code: int = 0) -> int:
    """A step that leaves what a run would."""
    step.folder.mkdir(exist_ok=True)
    (step.folder / "summary.json").write_text(json.dumps({"turns": len(step.words)}))
    log.write_text("first line\nlast line\n")
    return code


def go(place: Path, made: Sequence[Step], run: Callable[..., int] = worked) -> tuple[int, Told]:
    told = Told()
    return run_study("two", "smoke", place, made, told, run), told


# -- what stands in the file ----------------------------------------------------------------------------------------------------


def test_steps_have_their_words_and_know_what_they_read(tmp_path: Path) -> None:
    made = {step.name: step for step in steps(tmp_path, count="7", more={"said": ["source.limit=3"]})}
    assert list(made) == ["talk-0", "talk-1", "again-0", "again-1", "said"]
    assert made["talk-1"].words == ("conversation.count=7", "conversation.turns=2", "run.seed=1", f"run.dir={tmp_path}/talk-1")
    assert made["again-1"].words == (f"{tmp_path}/talk-1", "judge=length", "run.seed=1", f"run.dir={tmp_path}/again-1")  # of its own seed
    # of all seeds: each a word; metrics keeps no run folder
    assert made["said"].words == (f"{tmp_path}/talk-0", f"{tmp_path}/talk-1", f"out={tmp_path}/said/said.json", "measures=[length]",
                                  "source.limit=3")  # fmt: skip
    assert made["said"].after == ("talk-0", "talk-1") and made["again-0"].after == ("talk-0",) and made["talk-0"].after == ()
    assert words_of(made["talk-0"])[-1] == "view=plain" and words_of(made["said"]) == [*made["said"].words]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": {"a": {"run": "convers x=1"}}}, "steps.a.run: there is no command 'convers'; did you mean converse?"),
        ({"steps": {"a": {"run": "converse x=$tuns"}}}, "steps.a: $tuns is known to nobody; did you mean turns?"),
        ({"steps": {"a": {"run": "metrics $b"}, "b": {"run": "converse"}}, "tables": {}}, "steps.a: $b is that of a later step"),
        ({"tables": {"t": {"title": "x", "rows": {"r": "talks"}, "figures": {"n": "n"}}}},
         "tables.t.rows: there is no step 'talks'; did you mean talk?"),
        ({"tables": {"t": {"title": "x", "rows": {"r": "talk"}}}}, "needs either figures or lines"),
        ({"words": {"Turns": 3, "here": 1}}, "'Turns', 'here': cannot be a name"),
        ({"words": {"talk": 3}}, "talk: is a word and a step"),
        ({"steps": {}}, "steps: Dictionary should have at least 1 item"),
        ({"stepz": {}}, "stepz: Extra inputs are not permitted"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, change: dict[str, object], said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(WRITTEN | change))
    with pytest.raises(ConfigError) as error:
        read_study(str(path))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["two"], "there is no study 'two'"),
        (["FILE", "smal"], "smal: is no size; take smoke, small or full"),
        (["FILE", "smoke", "small"], "name one size"),
        (["FILE", "tuns=3"], "the study has no word 'tuns'; did you mean turns?"),
        (["FILE", "tlak.run.seed=3"], "the study has no step 'tlak'; did you mean talk?"),
        (["FILE", "--lst"], "--lst: there is no such flag"),
        (["FILE", "--only", "tlak"], "--only tlak: there is no such step; there are talk-0"),
        (["FILE", "--only"], "--only: name the steps"),
        (["run.dir=x"], "name a study"),
    ],
)
def test_what_is_wrong_with_the_words_is_said(tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(WRITTEN))
    assert cli.main(["study", *(str(path) if word == "FILE" else word for word in words)]) == 2
    assert said in capsys.readouterr().err


def test_the_studies_that_come_with_it_can_be_read_at_every_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in studies():
        for size in SIZES:
            made = steps_of(read_study(name), size, tmp_path, {}, {})
            assert made and all(not any("$" in word for word in step.words) for step in made)
    assert cli.main(["study", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in studies())


# -- what is run, and again -----------------------------------------------------------------------------------------------------


def test_what_is_done_is_not_done_again_and_a_change_is_followed(tmp_path: Path) -> None:
    code, told = go(tmp_path, steps(tmp_path))
    assert code == 0 and [name for name, _ in told.codes] == ["talk-0", "talk-1", "again-0", "again-1", "said"]
    assert go(tmp_path, steps(tmp_path))[1].codes == []
    _, told = go(tmp_path, steps(tmp_path, more={"said": ["source.limit=3"]}))
    assert told.left == {"said": "its words changed: (nothing) -> source.limit=3"}
    _, told = go(tmp_path, steps(tmp_path, more={"said": ["source.limit=3"]}, turns="3"))
    assert [name for name, _ in told.codes] == ["talk-0", "talk-1", "again-0", "again-1", "said"]
    assert told.left["talk-0"] == "its words changed: conversation.turns=2 -> conversation.turns=3"
    assert told.left["again-1"] == "it reads talk-1" and told.left["said"] == "it reads talk-0, talk-1"
    kept = {path.name for path in (tmp_path / "superseded").iterdir()}
    assert {"talk-0.1", "said.1", "said.2", "said.1.log"} <= kept  # nothing is removed


def test_a_study_of_other_embedded_models_is_refused_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoke(step: Step, log: Path, heard: Callable[[float, str], None]) -> int:
        worked(step, log, heard)
        (step.folder / "config.yaml").write_text("experts: {a: {family: world, path: 'embedded:llama'}}")
        (step.folder / "provenance.json").write_text(json.dumps({"embedded_models": models_id()}))
        return 3 if step.name == "talk-1" else 0

    assert go(tmp_path, steps(tmp_path), spoke)[0] == 3
    monkeypatch.setattr(embedded, "MODELS", tmp_path / "another")
    with pytest.raises(ConfigError) as caught:
        go(tmp_path, steps(tmp_path))
    (said,) = caught.value.problems
    assert said.startswith(f"run.dir: {tmp_path}: its step talk-0 was begun with the embedded models ")
    assert go(tmp_path, steps(tmp_path, turns="6"))[0] == 0  # all of it is run again
    monkeypatch.undo()
    code, told = go(tmp_path, steps(tmp_path, turns="6"))
    assert (code, told.left) == (0, {})  # nothing is left to do


@pytest.mark.parametrize("run", [
    "metrics $rows out=$here/x.json",
    "metrics source.path=[missing.csv,$rows] out=$here/x.json",  # one of a list
    "metrics 'source.path=[\"missing.csv\", \"$rows\"]' out=$here/x.json",
    f"metrics $rows question='{'Why? ' * 100}'",  # a word that is too long for a file's name
    "metrics $rows ~trackers",  # and what Hydra is to leave out, which is nobody's home
])  # fmt: skip
def test_a_file_that_a_step_names_is_looked_into(tmp_path: Path, run: str) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("text\na\n")
    said = {"run": run}
    file = StudyFile.model_validate({"title": "t", "words": {"rows": str(rows)}, "steps": {"said": said}})
    made = steps_of(file, "smoke", tmp_path / "s", {}, {})
    go(tmp_path / "s", made)
    assert go(tmp_path / "s", made)[1].left == {}
    rows.write_text("text\nb\n")
    assert go(tmp_path / "s", made)[1].left == {"said": "a file that it reads has changed"}


@pytest.mark.parametrize(("code", "says"), [(1, "last line"), (2, "last line"), (3, "")])
def test_a_step_that_does_not_end_well_ends_the_study_and_is_gone_on_with(tmp_path: Path, code: int, says: str) -> None:
    def run(step: Step, log: Path, heard: Callable[[float, str], None]) -> int:
        return worked(step, log, heard, code if step.name == "talk-1" else 0)

    ended, told = go(tmp_path, steps(tmp_path), run)
    assert ended == code and told.codes == [("talk-0", 0), ("talk-1", code)]
    assert says in " ".join(told.said) and (not says) == (not told.said)
    ended, told = go(tmp_path, steps(tmp_path))
    assert ended == 0 and told.codes[0][0] == "talk-1" and not (tmp_path / "superseded").exists()


def test_some_steps_alone_when_what_they_read_is_done(tmp_path: Path) -> None:
    made = steps(tmp_path)

    def only(*names: str) -> list[str]:
        told = Told()
        assert run_study("two", "smoke", tmp_path, made, told, worked, only=names) == 0
        return [name for name, _ in told.codes]

    with pytest.raises(ConfigError, match="--only again: reads talk-0, talk-1, not done yet"):
        only("again")
    assert only("talk-1") == ["talk-1"] and only("talk") == ["talk-0"]  # all runs of a step by its name, less those that are done
    assert only("again", "said") == ["again-0", "again-1", "said"] and only("talk-0") == []
    assert going.standing(tmp_path, made) == {step.name for step in made}


def test_a_step_that_another_process_is_at_is_left_to_it(tmp_path: Path) -> None:
    def meanwhile(step: Step, log: Path, heard: Callable[[float, str], None]) -> int:
        with pytest.raises(ConfigError, match="step talk-0 is being run by another process"):
            run_study("two", "smoke", tmp_path, steps(tmp_path), Told(), worked, only=["talk-0"])
        told = Told()  # another step can be run
        assert run_study("two", "smoke", tmp_path, steps(tmp_path), told, worked, only=["talk-1"]) == 0 and told.codes
        return worked(step, log, heard)

    told = Told()
    assert run_study("two", "smoke", tmp_path, steps(tmp_path), told, lambda *a: (meanwhile if a[0].name == "talk-0" else worked)(*a)) == 0
    assert [name for name, _ in told.codes] == ["talk-0", "again-0", "again-1", "said"]  # talk-1 was done when its turn came


def test_one_folder_is_one_study(tmp_path: Path) -> None:
    go(tmp_path, steps(tmp_path))
    with pytest.raises(ConfigError, match="holds the study two at size smoke"):
        run_study("two", "small", tmp_path, steps(tmp_path, "small"), Told(), worked)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("a: 1")
    with pytest.raises(ConfigError, match="the folder of a run"):
        run_study("two", "small", tmp_path / "run", [], Told(), worked)


def test_kill_9_ends_the_step_too_and_the_same_command_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    talk = "converse conversation.count=40 conversation.turns=4 engine.max_batch=1"
    file.write_text(json.dumps({"title": "t", "words": {"count": 40}, "steps": {"talk": {"run": talk}}}))
    command = [sys.executable, "-m", "expertchat.cli", "study", str(file), "smoke", f"run.dir={tmp_path / 's'}"]
    first = subprocess.Popen(command, env=environment(), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    beat = tmp_path / "s" / "talk" / "transcripts.jsonl"
    for _ in range(600):
        if beat.is_file() and beat.stat().st_size:
            break
        time.sleep(0.1)
    pid = json.loads((tmp_path / "s" / "talk" / "heartbeat.json").read_text())["pid"]
    first.send_signal(signal.SIGKILL)
    first.wait()
    for _ in range(300):
        if not Path(f"/proc/{pid}").exists():
            break
        time.sleep(0.1)
    else:
        os.kill(pid, signal.SIGKILL)
        pytest.fail("the step has outlived its study")
    told = [line for line in (tmp_path / "s" / "talk" / "events.jsonl").read_text().splitlines() if '"run_finished"' in line]
    assert told and '"stopped"' in told[-1]  # it ended in order
    assert json.loads((tmp_path / "s" / "logs" / "talk.json").read_text())["code"] is None


# -- what comes of it -------------------------------------------------------------------------------------------------------------


def test_tables_have_what_is_there_and_say_what_others_reported(tmp_path: Path) -> None:
    made = steps(tmp_path)
    go(tmp_path, made)
    (tmp_path / "said" / "said.json").write_text('{"words": 2.5, "words_low": 2, "words_high": 3.25}')
    shown = tables_of(study(), made)["first"]
    assert {row: [str(cell) for cell in cells] for row, cells in shown.rows.items()} == {
        "talked, 0": ["4", "–"], "talked, 1": ["4", "–"], "said": ["4", "2.5 (2.0 to 3.2)"], "they": ["3", "–"],
    }  # fmt: skip
    text = markdown(shown)
    assert "| *they* | 3 | – |" in text and "nothing of it was measured here" in text
    assert json.loads(as_json(study(), made))["tables"]["first"]["rows"]["said"] == [[4, None, None], [2.5, 2, 3.25]]
    whole = report(study(), ["two", "smoke", "count=1 2"], made, {"talk-0": 12.4})
    assert (
        "`expertchat converse conversation.count=1 " in whole and "| 12 |" in whole and "`expertchat study two smoke 'count=1 2'`" in whole
    )


def test_a_list_in_a_file_is_a_row_for_each_entry(tmp_path: Path) -> None:
    file = StudyFile.model_validate({
        "title": "t", "steps": {"table": {"run": "arms x --out $here/arms.json"}},
        "tables": {"a": {"title": "A", "rows": {"all": "table"}, "list": "arms.json:rows", "named": "arm", "figures": {"won": "win"}}},
    })  # fmt: skip
    made = steps_of(file, "smoke", tmp_path, {}, {})
    made[0].folder.mkdir()
    arms = [{"arm": "wim", "win": 0.5, "win_low": 0.25, "win_high": 0.75}, {"arm": "mixed"}, {"arm": "wim", "win": 1}]
    (made[0].folder / "arms.json").write_text(json.dumps({"rows": arms}))
    rows = tables_of(file, made)["a"].rows
    assert {name: str(cells[0]) for name, cells in rows.items()} == {"wim": "0.50 (0.25 to 0.75)", "mixed": "–", "wim (2)": "1"}


def test_a_list_of_values_may_be_one_for_each_size_or_a_word(tmp_path: Path) -> None:
    seeds = {"smoke": [0], "small": [0, 1], "full": [0, 1, 2]}
    file = StudyFile.model_validate({"title": "t", "steps": {"a": {"run": "converse run.seed=$seed", "each": {"seed": seeds}}}})
    assert [len(steps_of(file, size, tmp_path, {}, {})) for size in SIZES] == [1, 2, 3]
    said = {"words": {"seeds": {"smoke": ["0"], "small": ["0", "1"], "full": ["0"]}}, "steps": {"a": {"run": "converse run.seed=$seed"}}}
    said["steps"]["a"]["each"] = {"seed": "$seeds"}  # type: ignore[assignment]
    file = StudyFile.model_validate({"title": "t", **said})
    assert [len(steps_of(file, "small", tmp_path, given, {})) for given in ({}, {"seeds": "4 5 6"})] == [2, 3]
    said["steps"]["a"]["each"] = {"seed": "$sedes"}  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"steps.a.each.seed: \$sedes is no word of the study; did you mean \$seeds?"):
        StudyFile.model_validate({"title": "t", **said})


def test_a_figure_is_found_by_its_path_or_is_none(tmp_path: Path) -> None:
    held = {"b": [0.5, 0.4, 0.6], "c": {"value": 1, "low": 0, "high": 2}, "d": None, "e": {"mean": 3, "n": 1}, "f": {"x": 5}}
    (tmp_path / "summary.json").write_text(json.dumps({"a": held}))
    assert [str(cell_of(tmp_path, path)) for path in ("a.b", "a.c", "a.d", "a.e", "a.f.*", "a.*", "a.x.y", "other.json:a")] == [
        "0.50 (0.40 to 0.60)", "1.0 (0.0 to 2.0)", "–", "3", "5", "–", "–", "–",
    ]  # fmt: skip


def test_answers_stand_beside_each_other(tmp_path: Path) -> None:
    file = StudyFile.model_validate({
        "title": "t", "steps": {"one": {"run": "tokens a b", "input": ["x", "y|z"]}, "two": {"run": "tokens a c", "input": ["x", "y|z"]}},
        "tables": {"said": {"title": "Said", "rows": {"before": "one", "after": "two"}, "lines": "answers.txt"}},
    })  # fmt: skip
    made = steps_of(file, "smoke", tmp_path, {}, {})
    assert tables_of(file, made[:1]) and not tables_of(file, [])  # of a table none of whose steps runs at a size nothing is shown
    for step, text in zip(made, ("1\n2\n", "3\n"), strict=True):
        step.folder.mkdir()
        (step.folder / "answers.txt").write_text(text)
    shown = tables_of(file, made)["said"]
    assert [str(cell) for cell in shown.rows["y|z"]] == ["2", "–"]
    assert "| y\\|z | 2 | – |" in markdown(shown)


def test_the_first_sentence_of_a_study_holds_its_figures_or_is_none(tmp_path: Path) -> None:
    written = {**WRITTEN, "says": "It took {first|they|turns} turns{first|talked, 0|turns}."}
    file = StudyFile.model_validate(written)
    made = steps_of(file, "smoke", tmp_path, {}, {})
    assert finding(file, tables_of(file, made)) is None  # nobody has talked yet
    for step in made[:2]:
        worked(step, tmp_path / "log", lambda *_: None)
    assert finding(file, tables_of(file, made)) == "It took 3 turns4."  # four words: three of its own and the folder
    shares = StudyFile.model_validate({**written, "says": "{first|they|turns|%} and {first|said|words|%}", "cannot": "Not much."})
    made[-1].folder.mkdir()
    (made[-1].folder / "said.json").write_text('{"words": 0.25, "words_low": 0.1, "words_high": 0.501}')
    assert finding(shares, tables_of(shares, made)) == "300 % and 25 % (10 to 50.1)"  # which is more than one half
    said = report(shares, ["two", "smoke"], made, {})
    assert said.startswith("# Two seeds talk\n\n300 % and 25 % (10 to 50.1)\n\nNot much.\n\n## How long")
    assert json.loads(as_json(shares, made))["cannot"] == "Not much."
    with pytest.raises(ValueError, match="says: there is no table 'frst'; did you mean first"):
        StudyFile.model_validate({**written, "says": "{frst|they|turns}"})
    with pytest.raises(ValueError, match="says: the table 'first' has no column 'turn'; did you mean turns"):
        StudyFile.model_validate({**written, "says": "{first|they|turn}"})


def in_a_fork(step: Step, log: Path, heard: Callable[[float, str], None]) -> int:
    """A step as a child of a process that has imported everything: the imports take longer than most of what the steps do."""
    with outlets(step, log) as (given, out, said):
        return ended(begin([step.command, *words_of(step)], ROOT, out.fileno(), said.fileno(), given).wait())


LONGEST = "let_ai_entertain_you"  # a tenth of the suite alone; each of its commands has tests of its own


@pytest.mark.parametrize("name", [pytest.param(one, marks=pytest.mark.slow) if one == LONGEST else one for one in sorted(studies())])
def test_every_study_runs_at_its_smallest(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(going, "in_a_process", in_a_fork)
    assert cli.main(["study", name, "smoke", "view=plain", f"run.dir={tmp_path / 's'}"]) == 0
    tables = json.loads((tmp_path / "s" / "report.json").read_text())["tables"]
    own = [[cells for row, cells in table["rows"].items() if row not in table["published"]] for table in tables.values()]
    columns = [column for rows in own for column in zip(*rows, strict=True)]
    filled = [column for column in columns if any(cell[0] is not None for cell in column)]
    assert len(filled) >= 0.75 * len(columns) > 0  # so few rows, and fewer judges, may leave some empty
