"""`expertchat runs` as a list: damaged folders, what is drawn and written, wrong arguments; and a real Slurm from its login node."""

from __future__ import annotations

import csv
import io
import json
import shlex
import sys
import time
from pathlib import Path

import pytest

from expertchat.command.overrides import mended, parsed
from expertchat.config import ConfigError
from expertchat.events import ConversationJudged, RunFinished, TurnFinished
from expertchat.records import Turn
from expertchat.runs.listing import run_runs, runs
from expertchat.views.runs import print_runs
from tests.cluster import ROOT, Cluster
from tests.test_runs import (
    SLURM,
    _now,  # noqa: F401 (a fixture of every test)
    as_lines,
    beat,
    every_state,
    no_slurm,
    only,
    run_in,
    slurm_says,
    submitted,
)
from tests.viewed import ATTACK, start

# -- files that are damaged, large or odd -------------------------------------------------------------------------------


DAMAGE = (
    b"", b"\x00\xff{", b"[]", b"7", b'{"kind":"run_finished"}\n{"kind":', b'{"kind":[]}\n', b"[" * 100_000,
    b'{"jobs": 7, "tasks": "x", "command_line": {}}', b'{"progress": [], "time": 1e400}',
    b'{"jobs": [{"job": 5, "time": "x"}], "pid": "x", "time": "y", "job": 3, "host": 4}',
    b'{"kind":"turn_finished","index":"x","time":"never","conversation":{}}\n' * 3,
)  # fmt: skip


@pytest.mark.parametrize("bad", DAMAGE, ids=range(len(DAMAGE)))
def test_damaged_files_never_break_the_list(tmp_path: Path, bad: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    run_in(tmp_path / "whole", [start(4)], summary={})
    files = ("events.jsonl", "heartbeat.json", "live.json", "provenance.json", "submission/submission.json")
    for i, name in enumerate([*files, None]):
        folder = run_in(submitted(tmp_path / f"r{i}", "7"), [start(4)], heartbeat=beat(), live={})
        for file in files if name is None else (name,):
            (folder / file).write_bytes(bad)
    found = runs([tmp_path], slurm_says(job7="RUNNING"))
    assert {row["name"] for row in found["runs"]} == {"whole", *(f"r{i}" for i in range(6))}
    print_runs(found)
    assert "7 runs" in capsys.readouterr().out


def test_only_the_end_of_a_large_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_in(tmp_path, [start(500)], live={"progress": {"finished": 44, "total": 500}})
    with (tmp_path / "events.jsonl").open("r+b") as file:
        file.seek(6 << 30)  # a hole of 6 GiB takes no room
        file.write(b"\n" + as_lines([ConversationJudged(conversation="c0044", time=time.time())]))
    row = only(tmp_path)
    assert (row["last_event"], row["done"], row["total"]) == ("c0044 is done", 44, 500)
    (tmp_path / "live.json").unlink()
    assert only(tmp_path)["done"] is None


def test_what_is_judged_is_counted_where_live_json_is_not(tmp_path: Path) -> None:
    said = TurnFinished(conversation="c1", index=0, turn=Turn(speaker="a", text='"kind":"conversation_judged"', tokens=1, seconds=1.0))
    run_in(tmp_path, [start(9), said, ConversationJudged(conversation="c1"), ConversationJudged(conversation="c2")])
    assert only(tmp_path)["done"] == 2  # what a model wrote does not count


def test_folders_are_searched_but_not_the_inside_of_runs(tmp_path: Path) -> None:
    run_in(tmp_path / "a" / "b" / "run", [start(1)])
    run_in(tmp_path / "a" / "b" / "run" / "inner", [start(1)])
    run_in(tmp_path / ".hidden", [start(1)])
    (tmp_path / "a" / "study" / "submission").mkdir(parents=True)
    (tmp_path / "a" / "study" / "submission" / "provenance.json").write_text("{}")  # of its jobs' scripts, no run's
    (tmp_path / "loop").symlink_to(tmp_path)
    names = {row["name"] for row in runs([tmp_path / "a"], no_slurm)["runs"]}
    assert names == {"b/run"}
    assert only(tmp_path / "a" / "b" / "run")["name"] == str(tmp_path / "a" / "b" / "run")


@pytest.mark.parametrize("name", ["a (b), c=d", 'the "first"', "été", "plain-1"])
def test_the_line_that_goes_on_with_a_run_is_one_that_the_command_takes(tmp_path: Path, name: str) -> None:
    run_in(tmp_path / name, [start(3)])
    (tmp_path / name / "provenance.json").write_text(json.dumps({"command_line": ["expertchat", "converse"]}))
    override = parsed(mended(shlex.split(only(tmp_path / name)["resume"])[-1]))
    assert override is not None and str(override.value()) == str(tmp_path / name)


# -- what is drawn and written ------------------------------------------------------------------------------------------


def drawn(base: Path, width: int, monkeypatch: pytest.MonkeyPatch, everything: bool = False) -> str:
    monkeypatch.setattr("expertchat.views.console.WIDTH", width)
    out = io.StringIO()
    print_runs(runs([base], SLURM), out, everything, time.time())
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 140, 200])
def test_the_list_fits_the_screen_and_says_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    text = drawn(every_state(tmp_path), width, monkeypatch)
    table = text.partition("goes on with")[0]
    assert max(len(line.rstrip()) for line in table.splitlines()) <= width
    words = " ".join(table.split())
    for said in ("123 ↻1", "12/40", "4 tasks: 1 running, 2 queued, 1 done", "25 h"):
        assert said in words
    assert "9 runs: 2 running, 1 queued, 1 stopped, 2 failed, 3 done" in words
    assert f"run.dir={tmp_path / 'wrong-module'}\n" in text  # a command line stays in one piece


def test_names_and_reasons_are_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "[bold]evil\x1b[2J"
    run_in(tmp_path / name, [start(3).model_copy(update={"command": ATTACK}), RunFinished(status="failed", reason=ATTACK)])
    text = drawn(tmp_path, 100, monkeypatch)
    assert "\x1b" not in text and "\x9b" not in text and "[bold]evil" in text


def test_many_runs_and_tasks_are_cut_unless_all_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(30):
        run_in(tmp_path / f"run-{i:02}", [start(1)], age=1000 + i, summary={})
    array = submitted(tmp_path / "array", "130", 10, tasks=20)
    for i in range(20):
        if i != 19:
            run_in(array / f"task-{i}", [start(1)], summary={})
    text = drawn(tmp_path, 100, monkeypatch)
    # 31 runs, the array among the 25 newest; of its 20 tasks 11, and the one that is not done before all others
    assert "6 older ones are not shown (--all)" in text and "and 9 more (--all)" in text and "task-19" in text and "task-15" not in text
    text = drawn(tmp_path, 100, monkeypatch, everything=True)
    assert "--all" not in text and "task-15" in text and "run-29" in text


def test_the_command_writes_json_and_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    every_state(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_runs(["--out", "list.json"], print_runs) == 0
    assert "Slurm is not installed here" in capsys.readouterr().out
    found = json.loads((tmp_path / "list.json").read_text())
    assert found["schema"] == 1 and len(found["runs"]) == 9 and found["notes"] == ["Slurm is not installed here"]
    monkeypatch.setenv("EXPERTCHAT_RUNS", str(tmp_path / "runs" / "2026-11-19-080000-sweep"))
    assert run_runs(["--out", str(tmp_path / "list.csv")], print_runs) == 0
    rows = list(csv.DictReader((tmp_path / "list.csv").open()))
    assert [(row["name"], row["state"], row["done"]) for row in rows] == [("0", "done", "3"), ("1", "done", "3")]


def test_wrong_arguments_are_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EXPERTCHAT_RUNS", raising=False)
    wrong = {"nope nada": "nada: no such folder", "--out x.txt": "must end in .json or .csv", ". --out a/b.csv": "cannot be written"}
    for arguments, said in wrong.items():
        with pytest.raises(ConfigError) as error:
            run_runs(arguments.split(), print_runs)
        assert said in str(error.value)
    assert run_runs([], print_runs) == 0  # no runs/ yet
    assert "no runs here" in capsys.readouterr().out


# -- a real Slurm -------------------------------------------------------------------------------------------------------


def test_runs_on_the_login_node_of_a_real_slurm(slurm: Cluster, tmp_path: Path) -> None:
    """A held job, one that fails before its run, and one that writes a heartbeat: seen by the command as a user calls it."""
    waits, fails = tmp_path / "waits", tmp_path / "fails"
    for folder, script, options in ((waits, "true", ["--hold"]), (fails, "module load cuda/99 || exit 2", [])):
        (folder / "submission").mkdir(parents=True)
        path = folder / "submission" / "job.sh"
        path.write_text(f"#!/bin/bash\nsource /etc/profile.d/lmod.sh\n{script}\n")
        submitted(folder, slurm.sbatch("-c1", "--mem=50M", f"--output={folder}/submission/slurm-%j.out", *options, str(path)))
    job = json.loads((fails / "submission" / "submission.json").read_text())["jobs"][0]["job"]
    slurm.wait(job, 60)
    done = slurm.call([sys.executable, "-m", "expertchat.cli", "runs", str(tmp_path), "--out", str(tmp_path / "list.json")], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = {row["name"]: row for row in json.loads((tmp_path / "list.json").read_text())["runs"]}
    assert (found["waits"]["state"], found["waits"]["reason"]) == ("queued", "is held: scontrol release lets it go (JobHeldUser)")
    assert found["fails"]["state"] == "failed" and "cuda/99" in found["fails"]["reason"]
    assert "is held" in done.stdout and "cuda/99" in done.stdout
    slurm.run(["scancel", found["waits"]["job"]])
