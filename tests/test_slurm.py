"""`expertchat submit` on a real Slurm: arrays, jobs after others, and what is wrong with a job (broken runs: test_slurm_broken.py)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.cluster import ROOT, Cluster, until
from tests.proofs.kill import content as talk
from tests.submitted import ASKED, log, refused, submit, unbroken, wait_done
from tests.test_online_dpo import adapters, difference
from tests.workers import slow

# -- arrays -------------------------------------------------------------------------------------------------------------


def test_an_array_is_merged_to_what_one_run_is(slurm: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "array"
    arguments = ("converse", "conversation.count=10", "conversation.turns=4", "run.seed=3", *slow.scripted(tmp_path))
    own = f"cluster.venv={slow.environment(tmp_path / 'env', 0.2)}"  # so that two tasks are seen beside each other
    job = submit(slurm, folder, *arguments, own, "cluster.gpus=1", "--array=4%2")
    most = 0

    def ended() -> bool:
        nonlocal most
        found = slurm.call(["squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%T"]).stdout.split()
        most = max(most, found.count("RUNNING"))
        return found.count("COMPLETED") == 4

    until(ended, 240, "the end of four tasks", lambda: log(folder), every=0.3)
    assert most == 2
    done = slurm.call(["expertchat", "merge_runs", folder.name], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    whole = unbroken(tmp_path / "whole", *arguments)
    merged = folder / "merged"
    assert talk(merged) == talk(whole)
    one, two = (json.loads((place / "summary.json").read_text("utf-8")) for place in (merged, whole))
    clock = ("seconds", "turns_per_second", "tokens_per_second", "merged")
    counted = [{key: value for key, value in summary.items() if key not in clock} for summary in (one, two)]
    assert one["conversations"] == 10 and difference(*counted) <= 1e-3  # means are rounded to four digits
    assert "done already" in refused(slurm, tmp_path, *arguments, own, f"run.dir={folder.name}", *ASKED, "cluster.gpus=1", "--array=4%2")


def test_a_job_after_another(slurm: Cluster, tmp_path: Path) -> None:
    small = ("converse", "conversation.count=1", "conversation.turns=1")
    first = slurm.sbatch("--hold", "--mem=100M", "-o", "/dev/null", "--wrap", "exit 1", cwd=tmp_path)
    second = submit(slurm, tmp_path / "second", *small, f"--after={first}")
    assert slurm.job(second)["Dependency"].startswith(f"afterok:{first}")
    slurm.run(["scontrol", "release", first])
    assert slurm.wait(first, 60) == "FAILED"
    assert slurm.wait(second, 60) == "CANCELLED"  # it does not wait for ever
    assert not (tmp_path / "second" / "events.jsonl").exists()


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_an_archive_that_is_not_whole(slurm: Cluster, tmp_path: Path) -> None:
    """It is taken away or damaged after the submission, which looks for it too, while the job is held."""
    model = tmp_path / "tiny-model"
    model.mkdir()
    (model / "weights").write_bytes(os.urandom(1 << 20))
    jobs = {}
    for damage in ("missing", "corrupt"):
        packed = tmp_path / damage
        subprocess.run(["bash", str(ROOT / "jobs" / "pack_models.sh"), str(packed), str(model)], check=True, capture_output=True)
        given = ("model@experts.a=auto", "experts.a.path=someone/tiny-model", "embedder.path=embedded:embedder", "topics=embedded")
        own = (f"cluster.archives={packed}", 'cluster.options=["--hold"]')
        jobs[damage] = submit(slurm, tmp_path / f"run-{damage}", "converse", *given, *own)
    (tmp_path / "missing" / "tiny-model.tar").unlink()
    archive = tmp_path / "corrupt" / "tiny-model.tar"
    whole = bytearray(archive.read_bytes())
    whole[len(whole) // 2] ^= 1
    archive.write_bytes(whole)
    slurm.run(["scontrol", "release", *jobs.values()])
    for damage, words in (("missing", "no tiny-model.tar"), ("corrupt", "checksum")):
        assert slurm.wait(jobs[damage], 60) == "FAILED"
        said = log(tmp_path / f"run-{damage}")
        assert "tiny-model" in said and words in said, said
        assert not (tmp_path / f"run-{damage}" / "events.jsonl").exists()


# -- every command that may run as a job ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("command", ["rloo", "grpo"])
def test_a_job_by_policy_gradient_is_what_one_run_is(command: str, slurm: Cluster, tmp_path: Path) -> None:
    small = (
        command, "rounds=2", "conversation.count=2", "conversation.turns=3", "candidates.count=2", "evaluation.every=0",
        "evaluation.histories=1", "evaluation.final=1", "train.rank=2", "judging.analysis=false",
    )  # fmt: skip
    job = submit(slurm, tmp_path / "job", *small)
    wait_done(slurm, job, tmp_path / "job")
    one, two = adapters(tmp_path / "job"), adapters(unbroken(tmp_path / "whole", *small))
    assert one.keys() == two.keys() and all((one[name] == two[name]).all() for name in one)
