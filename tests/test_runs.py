"""`expertchat runs`: crafted folders in every state, damaged ones, arrays, what is drawn; and a real Slurm from its login node."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from expertchat.config import ConfigError
from expertchat.events import AnyEvent, ConversationJudged, PhaseStarted, RoundFinished, RunFinished, TurnFinished
from expertchat.records import Turn
from expertchat.runs.listing import Row, run_runs, runs
from expertchat.slurm.queue import Said
from expertchat.views.runs import print_runs
from expertchat.views.words import event_in_words
from tests.cluster import ROOT, Cluster
from tests.viewed import ATTACK, rated, start

NO_MODULE = 'Lmod has detected the following error: The following module(s) are unknown: "cuda/99"'
NOW = 0.0  # when the test began


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "NOW", time.time())


def as_lines(events: Sequence[AnyEvent]) -> bytes:
    return b"".join(event.model_dump_json(by_alias=True).encode() + b"\n" for event in events)


def run_in(folder: Path, events: Sequence[AnyEvent], command: str = "converse", age: float = 3600.0, **files: Any) -> Path:
    """A run folder whose last event is `age` seconds old; `files` are further ones, NAME=values for NAME.json."""
    folder.mkdir(parents=True, exist_ok=True)
    first = NOW - age - len(events)
    stamped = [event.model_copy(update={"time": first + i + 1}) for i, event in enumerate(events)]
    (folder / "events.jsonl").write_bytes(as_lines(stamped))
    (folder / "provenance.json").write_text(json.dumps({"command_line": ["expertchat", command, "conversation.turns=4"]}))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def submitted(folder: Path, job: str | Sequence[str], age: float = 120.0, tasks: int | None = None, log: str = "", **more: Any) -> Path:
    """What `expertchat submit` leaves: submission.json and, once a job has begun, its log."""
    place = folder / "submission"
    place.mkdir(parents=True, exist_ok=True)
    jobs = [job] if isinstance(job, str) else list(job)
    content = {
        "schema": 1, "command": "converse", "command_line": ["expertchat", "submit", "converse", "cluster=narval"], "scheduler": "slurm",
        "cluster": "narval", "tasks": tasks, "at_once": 2 if tasks else None, "spread": None, "after": None, "time_limit": "1:00:00",
        "jobs": [{"job": one, "time": NOW - age} for one in jobs], **more,
    }  # fmt: skip
    (place / "submission.json").write_text(json.dumps(content))
    if log:
        (place / f"slurm-{jobs[-1]}.out").write_text(log)
    return folder


def beat(age: float = 1.0, host: str = "node7", pid: int = 4711, **more: Any) -> dict[str, Any]:
    return {"host": host, "pid": pid, "time": NOW - age, "token": "t", **more}


def turns(count: int) -> list[AnyEvent]:
    return [TurnFinished(conversation="c0001", index=i, turn=Turn(speaker="a", text="x", tokens=1, seconds=1.0)) for i in range(count)]


def slurm_says(**jobs: str) -> Any:
    """Slurm as a function: job123="RUNNING" or "PENDING Priority" and so on."""
    table = {name.removeprefix("job"): said for name, said in jobs.items()}

    def run(command: Sequence[str]) -> Said:
        if command[0] != "squeue":
            return Said(None, "Slurm accounting storage is disabled")
        lines = []
        for job, said in table.items():
            if job in command[command.index("-j") + 1].split(","):
                state, _, rest = said.partition(" ")
                reason, _, restarts = rest.partition(" +")
                lines.append(f"{job}|{state}|{restarts or 0}|10:00|50:00|1:00:00|256|16G|N/A|{reason or 'None'}\n")
        return Said("".join(lines))

    return run


def no_slurm(command: Sequence[str]) -> Said:
    return Said(None, "Slurm is not installed here")


def only(folder: Path, run: Any = no_slurm) -> Row:
    found = runs([folder], run)["runs"]
    assert len(found) == 1
    return dict(found[0])


def every_state(base: Path) -> Path:
    """One run of each kind."""
    run_in(base / "2026-11-21-101500-converse", [start(40), *turns(3), *[ConversationJudged(conversation=f"c{i:04}") for i in range(40)]],
           age=8000, summary={"conversations": 40})  # fmt: skip
    run_in(base / "2026-11-21-120000-converse", [start(40), *turns(3)], age=4, heartbeat=beat(job="123", restarts=1),
           live={"progress": {"finished": 12, "total": 40}, "turns": []})  # fmt: skip
    submitted(base / "2026-11-21-120000-converse", "123", 900)
    submitted(base / "big-run-on-narval", "124", 7200)
    training = run_in(base / "2026-11-20-090000-online_dpo", [start(8).model_copy(update={"rounds": 60, "command": "online_dpo"}),
                      RoundFinished(round=12), RunFinished(status="stopped", reason="SIGTERM")], "online_dpo", age=90_000)  # fmt: skip
    for n in (11, 12):
        (training / "rounds" / f"{n:06}").mkdir(parents=True)
        (training / "rounds" / f"{n:06}" / "DONE").touch()
    submitted(base / "wrong-module", "125", 400, log=f"loading modules\n{NO_MODULE}\nPlease check the spelling\n")  # fmt: skip
    run_in(base / "too-little-memory", [start(5), *turns(2)], age=3000)
    submitted(base / "too-little-memory", "126", 4000)
    array = submitted(base / "four-topics", "130", 500, tasks=4)
    run_in(array / "task-0", [start(2), *turns(8)], age=100, summary={})
    run_in(array / "task-1", [start(2), *turns(3)], age=3, heartbeat=beat(job="130_1"), live={"progress": {"finished": 1, "total": 2}})
    for n in range(2):
        run_in(base / "2026-11-19-080000-sweep" / str(n), [start(3), *turns(2)], age=200_000 + n, summary={})
    return base


SLURM = slurm_says(
    job123="RUNNING None +1", job124="PENDING Priority", job125="FAILED NonZeroExitCode", job126="OUT_OF_MEMORY OutOfMemory",
    job130_0="COMPLETED", job130_1="RUNNING", job130_2="PENDING JobArrayTaskLimit", job130_3="PENDING JobArrayTaskLimit",
)  # fmt: skip


def states_in(folder: Path, run: Any = SLURM) -> dict[str, tuple[str, str]]:
    return {row["name"]: (row["state"], row["reason"]) for row in runs([folder], run)["runs"]}


# -- states -------------------------------------------------------------------------------------------------------------


def test_every_state_is_told_with_its_reason(tmp_path: Path) -> None:
    assert states_in(every_state(tmp_path)) == {
        "2026-11-21-101500-converse": ("done", ""),
        "2026-11-21-120000-converse": ("running", ""),
        "big-run-on-narval": ("queued", "waits for its turn (Priority)"),
        "2026-11-20-090000-online_dpo": ("stopped", "from outside (SIGTERM)"),
        "wrong-module": ("failed", f"before it began: {NO_MODULE}"),
        "too-little-memory": ("failed", "killed: its job ran out of memory (16G asked for)"),
        "four-topics": ("running", "4 tasks: 1 running, 2 queued, 1 done"),
        "2026-11-19-080000-sweep/0": ("done", ""),
        "2026-11-19-080000-sweep/1": ("done", ""),
    }


def test_the_newest_is_first_and_its_job_and_progress_are_told(tmp_path: Path) -> None:
    rows = {row["name"]: row for row in runs([every_state(tmp_path)], SLURM)["runs"]}
    assert list(rows)[-3:] == ["2026-11-20-090000-online_dpo", "2026-11-19-080000-sweep/0", "2026-11-19-080000-sweep/1"]
    live, trained, array = (rows[name] for name in ("2026-11-21-120000-converse", "2026-11-20-090000-online_dpo", "four-topics"))
    assert (live["job"], live["restarts"], live["done"], live["total"], live["last_event"]) == ("123", 1, 12, 40, "turn 3 of c0001")
    assert live["left"] == 50 * 60 and round(NOW - live["last_time"]) == 4
    assert (trained["command"], trained["done"], trained["total"], trained["unit"]) == ("online_dpo", 12, 60, "rounds")
    assert [task["state"] for task in array["tasks"]] == ["done", "running", "queued", "queued"]
    assert (array["done"], array["total"], array["job"]) == (3, None, "130")  # 2 + 1; two tasks have not said how many they have


def test_a_killed_run_says_what_slurm_says(tmp_path: Path) -> None:
    run_in(submitted(tmp_path, "7", 9000), [start(5), *turns(2)], heartbeat=beat(4000, job="7"))
    for said, reason in {
        "TIMEOUT": "killed: its job reached its time limit of 1:00:00",
        "NODE_FAIL": "killed: its job lost its node",
        "CANCELLED": "killed: its job was cancelled",
        "FAILED": "killed: its job failed with exit code 1",  # 256 = 1 x 256
    }.items():
        assert only(tmp_path, slurm_says(job7=said))["reason"] == reason
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(NOW - 3600))  # the last event is younger than the last heartbeat
    assert only(tmp_path)["reason"] == f"killed: silent since {since} (process 4711 on node7)"
    assert only(tmp_path, slurm_says(job7="PENDING BeginTime +1"))["state"] == "queued"
    (tmp_path / "submission" / "slurm-7.out").write_text("slurmstepd: error: Exceeded job memory limit\n")
    assert only(tmp_path, slurm_says(job7="FAILED"))["reason"] == "killed: its job ran out of memory (16G asked for)"


def test_a_living_writer_runs_unless_its_job_has_ended(tmp_path: Path) -> None:
    run_in(submitted(tmp_path, "7", 9000), [start(5)], heartbeat=beat(3, job="7"))
    assert only(tmp_path)["state"] == "running"
    assert only(tmp_path, slurm_says(job7="NODE_FAIL"))["state"] == "failed"
    (tmp_path / "heartbeat.json").write_text(json.dumps(beat(3, job="")))  # gone on with by hand
    assert only(tmp_path, slurm_says(job7="NODE_FAIL"))["state"] == "running"


def test_a_process_of_this_machine_that_is_gone_is_not_waited_for(tmp_path: Path) -> None:
    run_in(tmp_path, [start(5)], heartbeat=beat(30, socket.gethostname(), 99999999))
    assert only(tmp_path)["state"] == "failed"
    (tmp_path / "heartbeat.json").write_text(json.dumps(beat(30, socket.gethostname(), os.getpid())))
    assert only(tmp_path)["state"] == "running"


def test_a_stopped_run_that_is_requeued_or_submitted_again_is_queued(tmp_path: Path) -> None:
    run_in(submitted(tmp_path, ["7", "8"], 60), [start(5), RunFinished(status="stopped", reason="SIGUSR1")], age=600)
    assert only(tmp_path, slurm_says(job8="PENDING Priority"))["state"] == "queued"
    assert only(tmp_path, slurm_says(job8="RUNNING"))["reason"] == "stopped at the time limit; its job goes on"
    failed = only(tmp_path, slurm_says(job8="FAILED"))  # it has not come so far as to write anything
    assert (failed["state"], failed["reason"]) == ("failed", "before it began: its job failed with exit code 1")
    submitted(tmp_path, "7", 700)
    stopped = only(tmp_path, slurm_says(job7="CANCELLED"))
    assert (stopped["state"], stopped["reason"]) == ("stopped", "at the time limit; its job was cancelled")


def test_a_submitted_run_without_a_queue(tmp_path: Path) -> None:
    submitted(tmp_path, "7", 120)
    assert only(tmp_path)["reason"] == "submitted 2 min ago; Slurm is not installed here"
    forgotten = only(tmp_path, slurm_says())
    assert (forgotten["state"], forgotten["reason"]) == ("failed", "before it began: Slurm knows nothing of job 7 any more")
    submitted(tmp_path, "7", 120, log="job: 2026-11-21 12:00:00 staging llama3\n")
    assert (only(tmp_path)["state"], only(tmp_path)["reason"]) == ("running", "its job has begun: staging llama3")
    assert only(tmp_path, slurm_says(job7="RUNNING"))["reason"] == "its job has begun: staging llama3"
    submitted(tmp_path, (), 120)
    (tmp_path / "submission" / "slurm-7.out").unlink()
    written = only(tmp_path)
    assert written["reason"] == "written, not submitted" and written["resume"].startswith("sbatch ")


def test_the_reason_before_the_beginning_is_the_telling_line_of_the_log(tmp_path: Path) -> None:
    at = "job: 2026-11-21 12:00:00"
    for log, reason in {
        "": "its job failed with exit code 1",
        f"{at} starts: expertchat\nexpertchat: models_dir: no such folder\n{at} the command has ended with exit code 2\n":
            "expertchat: models_dir: no such folder",
        f"ERROR: something of pip\n{at} the wheelhouse lacks rich: make wheelhouse\n": "the wheelhouse lacks rich: make wheelhouse",
        f"{at} the models cannot be staged:\n  - llama3: damaged\n": "- llama3: damaged",
        "\x1b[31mTraceback\nModuleNotFoundError: No module named 'x'\n": "ModuleNotFoundError: No module named 'x'",
    }.items():  # fmt: skip
        submitted(tmp_path, "7", log=log)
        assert only(tmp_path, slurm_says(job7="FAILED"))["reason"] == f"before it began: {reason}"


def test_the_command_that_goes_on(tmp_path: Path) -> None:
    stopped = [start(5), RunFinished(status="stopped", reason="SIGINT")]
    by_hand = only(run_in(tmp_path / "a b", stopped))
    assert shlex.split(by_hand["resume"]) == ["expertchat", "converse", "conversation.turns=4", f"run.dir={tmp_path / 'a b'}"]
    job = only(run_in(submitted(tmp_path / "c", "7", 9000), stopped))
    assert shlex.split(job["resume"]) == ["expertchat", "submit", "converse", "cluster=narval", f"run.dir={tmp_path / 'c'}"]


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (PhaseStarted(round=0, phase="evaluating"), "evaluating"),
        (PhaseStarted(round=3, phase="updating"), "round 3: updating"),
        (start(resumed=7), "went on, 7 were done"),
        (rated("c2", "a", "b", "depth", 7), "c2 is judged"),
        (RunFinished(status="failed", reason="disk full"), "failed: disk full"),
        (RunFinished(status="stopped", reason="SIGUSR1"), "stopped at the time limit"),
    ],
)
def test_events_in_words(event: AnyEvent, words: str) -> None:
    assert event_in_words(event.model_dump()) == words


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
        file.write(b"\n" + as_lines([ConversationJudged(conversation="c0044", time=NOW)]))
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
    (tmp_path / "loop").symlink_to(tmp_path)
    names = {row["name"] for row in runs([tmp_path / "a"], no_slurm)["runs"]}
    assert names == {"b/run"}
    assert only(tmp_path / "a" / "b" / "run")["name"] == str(tmp_path / "a" / "b" / "run")


# -- what is drawn and written ------------------------------------------------------------------------------------------


def drawn(base: Path, width: int, monkeypatch: pytest.MonkeyPatch, everything: bool = False) -> str:
    monkeypatch.setattr("expertchat.views.plan.WIDTH", width)
    out = io.StringIO()
    print_runs(runs([base], SLURM), out, everything, NOW)
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
