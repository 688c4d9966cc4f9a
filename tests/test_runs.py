"""`expertchat runs`: crafted folders in every state, with their reasons. What is drawn of them: test_runs_list.py."""

from __future__ import annotations

import json
import os
import shlex
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from expertchat.events import AnyEvent, ConversationJudged, PhaseStarted, RoundFinished, RunFinished, TurnFinished
from expertchat.records import Turn
from expertchat.runs.listing import Row, runs
from expertchat.slurm.queue import Said
from expertchat.text.in_words import event_in_words
from tests.viewed import rated, start

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
