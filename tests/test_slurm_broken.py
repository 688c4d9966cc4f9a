"""Runs on a real Slurm that are broken off and go on: time limits, lost nodes, kills, signals; and several processes in one job."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.cluster import SPARE, Cluster, until
from tests.proofs.kill import content as talk
from tests.submitted import events, log, submit, turns, unbroken, wait_done
from tests.test_online_dpo import NOISE, adapters, content, difference
from tests.workers import asked, slow

# One row at a time: what is in flight when a run is told to stop does not change what is computed together. (Of candidates with the same
# text, the last digit of a score decides which is taken.)
LEARN = (
    "engine.max_batch=1", "+experiment=embedded", "rounds=2", "conversation.count=2", "conversation.turns=4", "evaluation.every=0",
    "evaluation.histories=2", "evaluation.final=2", "run.seed=7", "candidates.count=2", "judging.analysis=false",
    "experts.a.decoding.reply.max_new_tokens=24", "experts.b.decoding.reply.max_new_tokens=24",
)  # fmt: skip
TALK = ("conversation.count=48", "conversation.turns=6", "run.seed=7", "engine.max_batch=4")


def slowly(folder: Path, seconds: float) -> list[str]:
    """A dialogue of scripted experts that wait `seconds` a batch: nothing of what is tried here depends on what they say."""
    return ["converse", *TALK, *slow.scripted(folder), f"cluster.venv={slow.environment(folder / 'env', seconds)}"]


@pytest.fixture
def here(tmp_path: Path) -> str:
    """What makes a job of the tests' server: a training, whose imports take longer than most of what it does."""
    return f"cluster.venv={asked.environment(tmp_path / 'env')}"


def said(arguments: list[str]) -> list[str]:
    """The same without what is asked of the cluster."""
    return [word for word in arguments if not word.startswith("cluster.")]


# -- time limit ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def limited(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, list[str]]:
    """A job of a minute for a run of more, which takes its time beside the other tests: its id, its folder, its command line."""
    folder = tmp_path_factory.mktemp("limited") / "run"
    line = slowly(folder.parent, 0.66)  # 97 batches: a little more than a minute
    return submit(slurm, folder, *line, "cluster.time=1", "cluster.signal_seconds=30", "cluster.gpus=1"), folder, line


def test_a_training_is_told_to_stop_and_is_requeued(slurm: Cluster, here: str, tmp_path: Path) -> None:
    """Stopped after what was in flight, requeued, gone on with; as if unbroken."""
    folder = tmp_path / "broken"
    job = submit(slurm, folder, "online_dpo", *LEARN, here, "cluster.gpus=1")
    until(lambda: turns(folder), 120, "a turn", lambda: log(folder))
    slurm.run(["scancel", "--batch", "--signal=USR1", job])
    wait_done(slurm, job, folder)
    assert slurm.job(job)["Restarts"] == "1"
    ends = events(folder, "run_finished")
    assert [(end["status"], end["reason"]) for end in ends] == [("stopped", "SIGUSR1"), ("done", None)]
    whole = unbroken(tmp_path / "whole", "online_dpo", *LEARN)
    assert difference(content(whole), content(folder)) <= NOISE
    one, two = adapters(whole), adapters(folder)
    assert one.keys() == two.keys() and all(bool((one[name] == two[name]).all()) for name in one)


# -- lost nodes and kills -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_lost_node_a_killed_batch_step_and_scancel(slurm: Cluster, tmp_path: Path) -> None:
    """One run through all three. After the first Slurm requeues it, after the others the same submit goes on. Nothing is lost or doubled.

    Here Slurm follows processes by their parents alone: the run outlives the killed script, is told so, and stops in order.
    """
    folder = tmp_path / "run"
    arguments = [*slowly(tmp_path, 0.3), f"cluster.partition={SPARE}"]
    job = submit(slurm, folder, *arguments)
    until(lambda: turns(folder) > 30, 120, "30 turns", lambda: log(folder))
    slurm.run(["scontrol", "update", f"nodename={SPARE}", "state=down", "reason=a test"])
    until(lambda: slurm.state(job) in ("PENDING", "REQUEUED"), 60, "the job to be requeued")
    slurm.call(["scontrol", "update", f"nodename={SPARE}", "state=resume"])  # it may have come back by itself
    until(lambda: len(events(folder, "run_started")) == 2 and slurm.state(job) == "RUNNING", 120, "the second start", lambda: log(folder))
    assert slurm.job(job)["Restarts"] == "1"

    seen = turns(folder)
    until(lambda: turns(folder) > seen + 30, 120, "more turns", lambda: log(folder))
    batch = next(pid for pid in slurm.pids(job, SPARE) if b"slurm_script" in Path(f"/proc/{pid}/cmdline").read_bytes())
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
    assert talk(folder) == talk(unbroken(tmp_path / "whole", *said(arguments)))


# -- several processes --------------------------------------------------------------------------------------------------


def test_two_processes_in_one_job(slurm: Cluster, here: str, tmp_path: Path) -> None:
    folder = tmp_path / "ddp"
    talked = ("rounds=1", "conversation.count=4", "conversation.turns=3", "candidates.count=2", "judging.analysis=false")
    all_pairs = ("pairs.min_margin=0", "train.batch=4", "train.micro_batch=1")  # both processes have some
    small = (*talked, *all_pairs, "evaluation.every=0", "evaluation.histories=4", "evaluation.final=4")
    arguments = ("online_dpo", "+experiment=embedded", *small)
    two = ("train.sharding=ddp", "cluster.processes=2", "cluster.cpus=2", "cluster.memory=6G", "cluster.gpus=2")
    job = submit(slurm, folder, *arguments, here, *two)
    wait_done(slurm, job, folder)
    assert len(events(folder, "run_started")) == 1  # the processes agree on one folder, and one writes
    whole = unbroken(tmp_path / "whole", *arguments)
    one, two = content(whole), content(folder)
    assert {key for key in one if not key.startswith("metrics")} == {key for key in two if not key.startswith("metrics")}


def test_a_run_that_needs_more_than_its_time_limit(slurm: Cluster, limited: tuple[str, Path, list[str]], tmp_path: Path) -> None:
    """The job that the first fixture has submitted: stopped by Slurm itself, requeued as often as it takes, then as if unbroken."""
    job, folder, line = limited
    wait_done(slurm, job, folder)
    restarts = int(slurm.job(job)["Restarts"])
    assert restarts >= 1
    starts, ends = events(folder, "run_started"), events(folder, "run_finished")
    begun = len(starts)  # a start that is told to stop while it still loads has not begun
    assert {start["job"] for start in starts} == {job} and 2 <= begun <= restarts + 1
    assert [(end["status"], end["reason"]) for end in ends] == [("stopped", "SIGUSR1")] * (begun - 1) + [("done", None)]
    assert "USR1" in log(folder) and "requeue" in log(folder)
    assert talk(folder) == talk(unbroken(tmp_path / "whole", *said(line)))
