"""`expertchat submit` on a real Slurm: time limits, lost nodes, kills, arrays, several processes, and what is wrong with a job."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import HOST, Cluster, until
from tests.proofs.kill import content as talk
from tests.test_online_dpo import adapters, content, difference

ASKED = ("cluster.cpus=1", "cluster.memory=3G", "cluster.gpus=4", "cluster.gpu_type=v100", "cluster.gpu_gib=16")
TALK = ("conversation.count=48", "conversation.turns=6", "run.seed=7")
LEARN = (
    "+experiment=embedded", "rounds=4", "conversation.count=8", "evaluation.every=2", "evaluation.histories=16", "evaluation.final=16",
    "run.seed=7",
)  # fmt: skip
NOISE = 1e-6  # of scores: embeddings differ in their last digit by the batch that they are computed in
ROUNDED = 1.1e-3  # of scores rounded to three digits, where such a digit falls on an edge


def submit(slurm: Cluster, folder: Path, *arguments: str) -> str:
    """Submit in the folder's parent; the job's id."""
    done = slurm.call(["expertchat", "submit", arguments[0], *ASKED, *arguments[1:], f"run.dir={folder.name}"], cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    assert f"expertchat watch {folder.name}" in done.stdout
    match = re.match(r"job (\d+) submitted", done.stdout)
    assert match, done.stdout
    return match[1]


def refused(slurm: Cluster, folder: Path, *arguments: str) -> str:
    """The message of a submission that is refused."""
    done = slurm.call(["expertchat", "submit", *arguments], cwd=folder)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    return done.stderr


def unbroken(folder: Path, command: str, *arguments: str) -> Path:
    """The same run in one go, without Slurm."""
    line = [sys.executable, "-m", "expertchat.cli", command, *arguments, f"run.dir={folder}", "view=none"]
    assert subprocess.run(line).returncode == 0
    return folder


def log(folder: Path) -> str:
    return "\n".join(path.read_text("utf-8") for path in sorted((folder / "submission").glob("slurm-*.out")))


def events(folder: Path, kind: str) -> list[dict[str, object]]:
    path = folder / "events.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


def turns(folder: Path) -> int:
    return len(events(folder, "turn_finished"))


def wait_done(slurm: Cluster, job: str, folder: Path, timeout: float = 300) -> None:
    state = slurm.wait(job, timeout)
    assert state == "COMPLETED", f"{state}\n{log(folder)}"
    assert (folder / "summary.json").exists()


# -- time limit ---------------------------------------------------------------------------------------------------------


def test_a_run_that_needs_more_than_its_time_limit(slurm: Cluster, tmp_path: Path) -> None:
    """A minute for a training of more: told to stop, stopped after what was in flight, requeued, gone on with; as if unbroken."""
    folder = tmp_path / "broken"
    job = submit(slurm, folder, "online_dpo", *LEARN, "cluster.time=1", "cluster.signal_seconds=30")
    wait_done(slurm, job, folder, 560)
    restarts = int(slurm.job(job)["Restarts"])
    assert restarts >= 1
    starts, ends = events(folder, "run_started"), events(folder, "run_finished")
    begun = len(starts)  # a start that is told to stop while it still loads its models has not begun
    assert {start["job"] for start in starts} == {job} and 2 <= begun <= restarts + 1
    assert [(end["status"], end["reason"]) for end in ends] == [("stopped", "SIGUSR1")] * (begun - 1) + [("done", None)]
    assert "USR1" in log(folder) and "requeue" in log(folder)
    whole = unbroken(tmp_path / "whole", "online_dpo", *LEARN)
    assert difference(content(whole), content(folder)) <= NOISE
    one, two = adapters(whole), adapters(folder)
    assert one.keys() == two.keys() and all(bool((one[name] == two[name]).all()) for name in one)


# -- lost nodes and kills -----------------------------------------------------------------------------------------------


def test_a_lost_node_a_killed_batch_step_and_scancel(slurm: Cluster, tmp_path: Path) -> None:
    """One run through all three. After the first Slurm requeues it, after the others the same submit goes on. Nothing is lost or doubled.

    Here Slurm follows processes by their parents alone: the run outlives the killed script, is told so, and stops in order.
    """
    folder = tmp_path / "run"
    arguments = ("converse", *TALK)
    job = submit(slurm, folder, *arguments)
    until(lambda: turns(folder) > 30, 120, "30 turns", lambda: log(folder))
    slurm.run(["scontrol", "update", f"nodename={HOST}", "state=down", "reason=a test"])
    until(lambda: slurm.state(job) in ("PENDING", "REQUEUED"), 60, "the job to be requeued")
    slurm.call(["scontrol", "update", f"nodename={HOST}", "state=resume"])  # it may have come back by itself
    until(lambda: len(events(folder, "run_started")) == 2 and slurm.state(job) == "RUNNING", 120, "the second start", lambda: log(folder))
    assert slurm.job(job)["Restarts"] == "1"

    seen = turns(folder)
    until(lambda: turns(folder) > seen + 30, 120, "more turns", lambda: log(folder))
    batch = next(pid for pid in slurm.pids(job) if b"slurm_script" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(batch, signal.SIGKILL)
    assert slurm.wait(job, 60) == "FAILED"
    until(lambda: not (folder / "heartbeat.json").exists(), 60, "the end of what it left running")

    second = submit(slurm, folder, *arguments)
    until(lambda: len(events(folder, "run_started")) == 3, 120, "the third start", lambda: log(folder))
    seen = turns(folder)
    until(lambda: turns(folder) > seen + 30, 120, "more turns", lambda: log(folder))
    slurm.run(["scancel", second])
    assert slurm.wait(second, 60) == "CANCELLED"
    until(lambda: not (folder / "heartbeat.json").exists(), 60, "an orderly end")
    assert events(folder, "run_finished")[-1]["status"] == "stopped"
    assert slurm.state(second) == "CANCELLED"  # and it is not requeued

    third = submit(slurm, folder, *arguments)
    wait_done(slurm, third, folder)
    whole = unbroken(tmp_path / "whole", *arguments)
    assert difference(talk(folder), talk(whole)) <= ROUNDED


# -- arrays -------------------------------------------------------------------------------------------------------------


def test_an_array_is_merged_to_what_one_run_is(slurm: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "array"
    arguments = ("converse", "conversation.count=10", "conversation.turns=4", "run.seed=3")
    job = submit(slurm, folder, *arguments, "cluster.gpus=1", "--array=4%2")
    most = 0

    def ended() -> bool:
        nonlocal most
        found = slurm.call(["squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%T"]).stdout.split()
        most = max(most, found.count("RUNNING"))
        return found.count("COMPLETED") == 4

    until(ended, 240, "the end of four tasks", lambda: log(folder))
    assert most == 2
    done = slurm.call(["expertchat", "merge_runs", folder.name], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    whole = unbroken(tmp_path / "whole", *arguments)
    merged = folder / "merged"
    assert difference(talk(merged), talk(whole)) <= ROUNDED
    one, two = (json.loads((place / "summary.json").read_text("utf-8")) for place in (merged, whole))
    clock = ("seconds", "turns_per_second", "tokens_per_second", "merged")
    counted = [{key: value for key, value in summary.items() if key not in clock} for summary in (one, two)]
    assert one["conversations"] == 10 and difference(*counted) <= 1e-3  # means are rounded to four digits
    assert "done already" in refused(slurm, tmp_path, *arguments, f"run.dir={folder.name}", *ASKED, "--array=4%2")


def test_a_job_after_another(slurm: Cluster, tmp_path: Path) -> None:
    small = ("converse", "conversation.count=1", "conversation.turns=1")
    first = slurm.sbatch("--hold", "--mem=100M", "-o", "/dev/null", "--wrap", "exit 1", cwd=tmp_path)
    second = submit(slurm, tmp_path / "second", *small, f"--after={first}")
    assert slurm.job(second)["Dependency"].startswith(f"afterok:{first}")
    slurm.run(["scontrol", "release", first])
    assert slurm.wait(first, 60) == "FAILED"
    assert slurm.wait(second, 60) == "CANCELLED"  # it does not wait for ever
    assert not (tmp_path / "second" / "events.jsonl").exists()


# -- several processes --------------------------------------------------------------------------------------------------


def test_four_processes_in_one_job(slurm: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "ddp"
    small = ("rounds=1", "conversation.count=4", "conversation.turns=3", "evaluation.every=0", "evaluation.histories=4")
    arguments = ("online_dpo", "+experiment=embedded", *small, "evaluation.final=4", "train.batch=4", "train.micro_batch=1")
    job = submit(slurm, folder, *arguments, "train.sharding=ddp", "cluster.processes=4", "cluster.cpus=4", "cluster.memory=8G")
    wait_done(slurm, job, folder)
    assert len(events(folder, "run_started")) == 1  # the processes agree on one folder, and one writes
    whole = unbroken(tmp_path / "whole", *arguments)
    one, two = content(whole), content(folder)
    assert {key for key in one if not key.startswith("metrics")} == {key for key in two if not key.startswith("metrics")}


# -- what is wrong ------------------------------------------------------------------------------------------------------


def test_what_slurm_refuses_is_told_with_a_remedy(slurm: Cluster, tmp_path: Path) -> None:
    """At once, before anything waits in a queue."""
    small = ("converse", "conversation.count=1", "cluster.cpus=1", "cluster.memory=2G")
    found = refused(slurm, tmp_path, *small, "cluster.account=def-nobody", "run.dir=a")
    assert "def-nobody is not one of def-test, def-other" in found and "cluster.account=" in found
    found = refused(slurm, tmp_path, *small, "cluster.gpus=1", "cluster.gpu_type=h100", "cluster.gpu_gib=80", "run.dir=b")
    assert "1 x h100" in found and "gpu:v100:4" in found
    found = refused(slurm, tmp_path, *small, "cluster.memory=900G", "run.dir=c")
    assert "900G" in found and "16000 MiB" in found
    found = refused(slurm, tmp_path, *small, "cluster.partition=debug", "run.dir=d")
    assert "sinfo -s" in found
    assert not any((tmp_path / name / "submission" / "slurm-1.out").exists() for name in "abcd")


def test_what_a_job_lacks_ends_it_in_the_first_seconds(slurm: Cluster, tmp_path: Path) -> None:
    """A module that is not there, and memory that does not do."""
    small = ("converse", "conversation.count=1", "conversation.turns=2")
    module = submit(slurm, tmp_path / "module", *small, "cluster.modules=[StdEnv/2023,nosuch/1.0]")
    memory = submit(slurm, tmp_path / "memory", *small, "cluster.memory=150M", "--force")
    assert slurm.wait(module, 60) == "FAILED"
    said = log(tmp_path / "module")
    assert "nosuch/1.0" in said and "module spider" in said
    assert slurm.wait(memory, 120) in ("OUT_OF_MEMORY", "FAILED", "CANCELLED")
    assert not (tmp_path / "memory" / "summary.json").exists()
    shown = slurm.call(["expertchat", "runs", str(tmp_path)], cwd=tmp_path).stdout
    assert "failed" in shown and "nosuch/1.0" in shown


@pytest.mark.parametrize("damage", ["missing", "corrupt"])
def test_an_archive_that_is_not_whole(slurm: Cluster, tmp_path: Path, damage: str) -> None:
    """It is taken away or damaged after the submission, which looks for it too."""
    packed = tmp_path / "packed"
    model = tmp_path / "tiny-model"
    model.mkdir()
    (model / "weights").write_bytes(os.urandom(1 << 20))
    pack = Path(__file__).parents[1] / "jobs" / "pack_models.sh"
    subprocess.run(["bash", str(pack), str(packed), str(model)], check=True, capture_output=True)
    given = ("converse", "model@experts.a=auto", "experts.a.path=someone/tiny-model", "embedder.path=embedded:embedder", "topics=embedded")
    slurm.run(["scontrol", "update", f"nodename={HOST}", "state=drain", "reason=wait"])
    try:
        job = submit(slurm, tmp_path / "run", *given, f"cluster.archives={packed}")
        archive = packed / "tiny-model.tar"
        if damage == "missing":
            archive.unlink()
        else:
            whole = bytearray(archive.read_bytes())
            whole[len(whole) // 2] ^= 1
            archive.write_bytes(whole)
    finally:
        slurm.run(["scontrol", "update", f"nodename={HOST}", "state=resume"])
    assert slurm.wait(job, 60) == "FAILED"
    said = log(tmp_path / "run")
    assert "tiny-model" in said and ("checksum" in said if damage == "corrupt" else "packed" in said), said
    assert not (tmp_path / "run" / "events.jsonl").exists()
