"""What Slurm says of jobs: on a real Slurm, and from crafted answers of commands that this machine has not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from expertchat.slurm.queue import Answer, JobState, Said, ask, pending_reason, process_id, seconds, states
from tests.cluster import Cluster, until


def squeue(*rows: str) -> Callable[[Sequence[str]], Said]:
    """squeue's rows; no accounting."""
    return lambda command: Said("".join(f"{row}\n" for row in rows)) if command[0] == "squeue" else Said(None, "storage is disabled")


def inside(slurm: Cluster) -> Callable[[Sequence[str]], Said]:
    def run(command: Sequence[str]) -> Said:
        done = slurm.call(command)
        return Said(None, done.stderr) if done.returncode else Said(done.stdout)

    return run


# -- a real Slurm -------------------------------------------------------------------------------------------------------


def test_states_of_real_jobs(slurm: Cluster, tmp_path: Path) -> None:
    run = inside(slurm)

    def batch(script: str, *options: str) -> str:
        place = tmp_path / f"{len(list(tmp_path.iterdir()))}.sh"
        place.write_text(f"#!/bin/bash\n{script}\n")
        return slurm.sbatch("-c1", "--mem=100M", "--time=7", f"--output={tmp_path}/%j.log", *options, str(place))

    eats = 'python3 -c "import time; x = [bytearray(10_000_000) for _ in range(40)]; time.sleep(60)"'  # 400 MB of 100
    jobs = {
        "held": batch("true", "--hold"),
        "fails": batch("exit 5"),
        "ends": batch("true"),
        "cancelled": batch("sleep 60", "--hold"),
        "eats": batch(eats),
        "again": batch('[ -n "$SLURM_RESTART_COUNT" ] && exit 0; scontrol requeue $SLURM_JOB_ID; sleep 60'),
    }
    array = batch("sleep 60", "--array=0-2%1")
    slurm.run(["scancel", jobs["cancelled"]])
    asked = [*jobs.values(), array, "999999"]
    seen = Answer()

    def settled() -> bool:
        seen.update(states(asked, run))
        return seen[f"{array}_0"].state == "running" and all(not seen[jobs[name]].alive for name in ("fails", "ends", "eats"))

    requeued: list[JobState] = []

    def again() -> bool:
        one = states([jobs["again"]], run)[jobs["again"]]
        requeued.extend([one] if one.state == "requeued" else [])
        return bool(requeued)

    until(again, 30, "the requeue")
    until(settled, 60, "the jobs to end", lambda: dict(seen))
    by = {name: seen[job] for name, job in jobs.items()}
    assert by["held"].words == "is held: scontrol release lets it go (JobHeldUser)" and by["held"].waiting and by["held"].limit == 7 * 60
    assert (by["fails"].state, by["fails"].exit_code, by["fails"].words) == ("failed", 5, "failed with exit code 5")
    assert (by["ends"].state, by["ends"].words) == ("completed", "ended with exit code 0")
    assert (by["cancelled"].state, by["cancelled"].words) == ("cancelled", "was cancelled")
    assert by["eats"].memory == "100M"
    assert by["eats"].state == "out_of_memory" or by["eats"].killed_by == 9  # Slurm without cgroups only kills it
    assert requeued[0].restarts == 1 and requeued[0].waiting and requeued[0].words.startswith("was requeued and waits")
    assert [seen[f"{array}_{i}"].state for i in range(3)] == ["running", "pending", "pending"]
    assert seen[f"{array}_2"].reason == "JobArrayTaskLimit" and seen[f"{array}_0"].left is not None
    assert array not in seen and "999999" not in seen
    forgotten = states(["999999"], run)
    assert forgotten == {} and forgotten.note == ""  # Slurm was asked and knows nothing of it
    assert list(states([f"{array}_1", f"{array}_9"], run)) == [f"{array}_1"]
    slurm.run(["scancel", array, *jobs.values()])


# -- crafted answers ----------------------------------------------------------------------------------------------------


def test_without_slurm_nothing_is_known_and_the_answer_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    answer = states(["1", "2_3"])
    assert answer == {} and answer.note == "Slurm is not installed here"


def test_a_cluster_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "squeue").write_text("#!/bin/sh\nexec sleep 30\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("expertchat.slurm.queue.TIMEOUT", 0.2)
    assert "gave no answer within" in states(["1"]).note
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 'squeue: error: Unable to contact slurm controller' >&2\nexit 1\n")
    monkeypatch.setattr("expertchat.slurm.queue.TIMEOUT", 10)
    assert states(["1"]).note == "Slurm gives no answer: squeue: error: Unable to contact slurm controller"
    assert ask(["/nothing/there"]).text is None


def test_what_the_user_wants_to_see_of_the_queue_hides_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With SQUEUE_PARTITION of another one a job that waited was not seen, and its run could be submitted twice."""
    (tmp_path / "squeue").write_text('#!/bin/sh\necho "${SQUEUE_PARTITION:-all} ${SQUEUE_USERS:-all} ${SLURM_TIME_FORMAT}"\n')
    (tmp_path / "squeue").chmod(0o755)
    for name, value in {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SQUEUE_PARTITION": "gpu", "SQUEUE_USERS": "me"}.items():
        monkeypatch.setenv(name, value)
    assert ask(["squeue"]).text == "all all standard\n"


def test_nothing_is_asked_for_no_job() -> None:
    def never(command: Sequence[str]) -> Said:
        raise AssertionError(command)

    assert states([], never) == {} == states(["", "x; rm", "12_x"], never)


def test_one_question_for_all_jobs_and_one_job_is_named_twice() -> None:
    asked = []

    def run(command: Sequence[str]) -> Said:
        asked.append(list(command))
        return Said("")

    states(["7", "8_1", "7"], run)
    states(["7"], run)
    assert [command[command.index("-j") + 1] for command in asked if command[0] == "squeue"] == ["7,8_1", "7,7"]


def test_what_squeue_has_forgotten_is_asked_of_the_accounting() -> None:
    table = (
        "5|TIMEOUT|01:00:00|01:00:00|0:0|16G|None\n6_0|CANCELLED by 1000|00:00:05|1-00:00:00|0:15|4Gn|None\n"
        "6_[2-3,5%2]|PENDING|00:00:00|1-00:00:00|0:0|4Gn|Priority\n8|OUT_OF_MEMORY|10:00|01:00:00|0:125|32000M|None\ndamaged\n"
    )
    asked = []

    def run(command: Sequence[str]) -> Said:
        asked.append(list(command))
        return Said("4|RUNNING|2|1-02:03:04|21:56|2-00:00:00|0|0|N/A|None\n" if command[0] == "squeue" else table)

    answer = states(["4", "5", "6_0", "6_3", "8"], run)
    assert asked[1][asked[1].index("-j") + 1] == "5,6_0,6_3,8"
    # 1 day 2:03:04 = 86400 + 7200 + 180 + 4 = 93784 s; 21:56 = 21 x 60 + 56 = 1316 s
    assert (answer["4"].elapsed, answer["4"].left, answer["4"].restarts, answer["4"].words) == (93784, 1316, 2, "runs, 26:03:04 of 2 days")
    assert answer["5"].words == "reached its time limit of 1:00:00"
    assert answer["6_0"].state == "cancelled" and answer["8"].words == "ran out of memory (32000M asked for)"
    assert [job for job in answer if job.startswith("6_")] == ["6_0", "6_2", "6_3", "6_5"] and answer["6_3"].waiting


@pytest.mark.parametrize(
    ("row", "words", "alive"),
    [
        ("FAILED|0|1|1|1|9|1G|N/A|x", "was killed by SIGKILL", False),
        ("FAILED|0|1|1|1|1280|1G|N/A|x", "failed with exit code 5", False),  # 1280 = 5 x 256
        ("FAILED|0|1|1|1|137:0|1G|N/A|x", "failed with exit code 137 (SIGKILL)", False),  # 128 + 9: a shell whose command was killed
        ("NODE_FAIL|0|1|1|1|0|1G|N/A|x", "lost its node", False),
        ("COMPLETING|0|1|1|1|0|1G|N/A|None", "is completing", True),
        ("PENDING|1|1|1|1|0|1G|N/A|BeginTime", "was requeued and waits for its begin time (BeginTime)", True),
        ("REQUEUE_HOLD|1|1|1|1|0|1G|N/A|launch failed", "was requeued and waits (launch failed)", True),
        ("SOMETHING_NEW|0|1|1|1|?|1G|N/A|x", "is something new", False),
        ("PENDING|x|INVALID|NOT_SET|UNLIMITED|0|1G|N/A|Resources", "waits for free GPUs or cores (Resources)", True),
    ],
)
def test_words(row: str, words: str, alive: bool) -> None:
    one = states(["7"], squeue(f"7|{row}"))["7"]
    assert (one.words, one.alive) == (words, alive)


def test_a_reason_with_the_separator_stays_whole() -> None:
    assert states(["7"], squeue("7|PENDING|0|1|1|1|0|1G|N/A|a|b"))["7"].reason == "a|b"


def test_when_a_job_may_begin_is_said() -> None:
    tomorrow = time.localtime(time.time() + 86_400)
    row = f"7|PENDING|0|0:00|1:00|1:00|0|1G|{time.strftime('%Y-%m-%dT%H:%M:%S', tomorrow)}|Priority"
    assert states(["7"], squeue(row))["7"].words == f"waits for its turn (Priority), expected {time.strftime('%Y-%m-%d %H:%M', tomorrow)}"


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Priority", "waits for its turn (Priority)"),
        ("(AssocGrpGRES)", "waits (AssocGrpGRES)"),
        ("None", "was just submitted"),
        ("ReqNodeNotAvail, UnavailableNodes:n[1-3]", "waits for nodes that are not available (ReqNodeNotAvail)"),
    ],
)
def test_reasons_in_plain_words(reason: str, words: str) -> None:
    assert pending_reason(reason) == words


@pytest.mark.parametrize(("text", "length"), [("0:42", 42), ("1:02:03", 3723), ("7-00:00:00", 604_800), ("UNLIMITED", None), ("", None)])
def test_lengths(text: str, length: float | None) -> None:
    assert seconds(text) == length


def test_a_process_of_this_machine_is_a_job_too() -> None:
    mine = states([f"pid:{os.getpid()}", "pid:0x", "pid:99999999"])
    assert [one.alive for one in mine.values()] == [True, False, False]
    own = process_id(os.getpid())
    assert own.startswith(f"pid:{os.getpid()}.") or not Path("/proc/self/stat").exists()
    another = f"pid:{os.getpid()}.1"  # the same number, given to a process that began later
    assert [one.alive for one in states([own, another]).values()] == [True, not Path("/proc/self/stat").exists()]
