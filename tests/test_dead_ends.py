"""What is said where a run of another kind was named, or a word in a place that takes none; and how a terminal shows it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from expertchat.audit.cosine import cosines
from expertchat.backends.learnt import find_learnt
from expertchat.command.frozen import load_frozen
from expertchat.config import ConfigError, validate
from expertchat.doors.guard import complain, guarded
from expertchat.folder.reader import RunReader
from expertchat.folder.without import without_dialogues
from expertchat.metrics.config import TokensConfig, given_problems
from expertchat.reward_models.config import RewardModelTraining
from expertchat.runs.arms import arms
from expertchat.sources.config import SourceConfig
from expertchat.sources.read import read_items
from expertchat.talk.branching import dialogue_of
from expertchat.text.complaints import joined
from expertchat.views.console import console_on
from expertchat.views.counts import print_counts


def run_of(folder: Path, kind: str, sources: list[str] | None = None) -> RunReader:
    """The folder of a run that has begun and in which nobody talks."""
    folder.mkdir(parents=True)
    source = json.dumps({"path": sources}) if sources is not None else "null"
    (folder / "config.yaml").write_text(f"source: {source}\n")
    (folder / "provenance.json").write_text(json.dumps({"command": ["expertchat", kind]}))
    (folder / "events.jsonl").write_text(json.dumps({"kind": "run_started", "time": 1.0, "command": kind}) + "\n")
    return RunReader(folder)


def said(run: RunReader) -> str:
    found = without_dialogues(run)
    assert found is not None
    return found


def test_a_run_without_dialogues_names_what_has_some(tmp_path: Path) -> None:
    talk = tmp_path / "talk"
    talk.mkdir()
    (talk / "transcripts.jsonl").write_text("")
    judged = run_of(tmp_path / "judged", "judge", [str(talk), str(tmp_path / "gone")])
    assert "is a run of judge, which holds opinions of what stands elsewhere and no dialogue; " in said(judged)
    assert said(judged).endswith(f"; name what it was made of: {talk}")
    assert f"converse model@experts.a={tmp_path / 'sft'}" in said(run_of(tmp_path / "sft", "sft"))
    assert said(run_of(tmp_path / "rm", "reward_model", ["table.csv"])).endswith("; name another run")
    assert without_dialogues(RunReader(talk)) is None
    assert without_dialogues(run_of(tmp_path / "begun", "converse")) is None  # it may still come to some


def test_every_command_that_wants_dialogues_says_so(tmp_path: Path) -> None:
    run = run_of(tmp_path / "sft", "sft")
    (run.folder / "evaluations").mkdir()
    (run.folder / "evaluations" / "samples-0000.jsonl").write_text('{"row": 1}\n')
    for ask in (
        lambda: read_items(SourceConfig(path=[str(run.folder)])),
        lambda: dialogue_of(run, "c0001"),
        lambda: cosines([run.folder]),
    ):
        with pytest.raises(ConfigError, match="is a run of sft, which holds answers to rows and no dialogue"):
            ask()
    tokens = TokensConfig(run=str(run.folder))
    assert ["is a run of sft" in problem for problem in given_problems(tokens)] == [True]
    with pytest.raises(ConfigError, match="teaches rows"):
        arms([run.folder])


def test_the_config_of_another_command_names_it(tmp_path: Path) -> None:
    run = run_of(tmp_path / "judged", "judge", [])
    with pytest.raises(ConfigError) as found:
        load_frozen("converse", run.folder / "config.yaml")
    (problem,) = found.value.problems
    assert problem.endswith(f"is the config of a run of judge: expertchat judge --config {run.folder}/config.yaml")


def test_a_reward_model_is_no_voice(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has trained says no words"):
        find_learnt(str(run_of(tmp_path / "rm", "reward_model").folder))


def test_a_stop_before_anything_began_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> int:
        raise KeyboardInterrupt

    assert guarded(stopped) == 3 and capsys.readouterr().err == "expertchat: stopped\n"


def test_a_union_is_wrong_once() -> None:
    parts = [{"loc": ("x", "float"), "msg": "Input should be a number"}, {"loc": ("x", "literal['a']"), "msg": "Input should be 'a'"},
             {"loc": ("y",), "msg": "no"}]  # fmt: skip
    assert [(one["loc"], one["msg"]) for one in joined(parts)] == [(("x",), "Input should be a number, or should be 'a'"), (("y",), "no")]
    with pytest.raises(ConfigError) as found:
        validate(RewardModelTraining, {"target": "trth"})
    assert [one for one in found.value.problems if one.startswith("target")] == [
        "target: Input should be 'auto', 'label', 'people', 'scores', 'opinions', 'truth' or 'type', but is 'trth'"
    ]


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [True, False])
def test_no_word_of_a_complaint_is_broken_at_the_edge(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "40")
    problems = ["some.key: " + "a word or two " * 6, "other.key: short; run `hf download one/model` now"]
    complain(problems)
    lines = screen.getvalue().splitlines()
    assert [len(lines) > 3, max(map(len, lines)) <= 40] == [terminal, terminal]
    assert any("`hf download one/model`" in line for line in lines)
    assert " ".join(screen.getvalue().split()) == " ".join(f"expertchat: 2 problems - {problems[0]} - {problems[1]}".split())


@pytest.mark.parametrize(("width", "named"), [(80, "below"), (200, "inside")])
def test_the_names_of_counts_are_whole(width: int, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "odds of the first place to the second, texts held equal"
    row = {"name": name, "n": 1800, "value": 0.5, "low": 0.4, "high": 0.6, "even": 0.5, "p": 0.1, "counted": 1.0, "least": 0.04,
           "carried": "no"}  # fmt: skip
    out = io.StringIO()
    monkeypatch.setattr("expertchat.views.counts.open_console", lambda stream: console_on(stream, width=width))
    print_counts({"title": "T", "rows": [row], "says": "nothing", "note": ""}, out)
    (line,) = [line for line in out.getvalue().splitlines() if name in line]
    assert ("0.500 (0.400 to 0.600)" in line) == (named == "inside")
    assert "…" not in out.getvalue() and "0.500 (0.400 to 0.600)" in out.getvalue()
