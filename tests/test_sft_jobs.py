"""A job of sft on a real Slurm, with placeholder GPUs: by two processes, requeued at its time limit, it is the run of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from expertchat.cli import main
from tests.alike import records, same
from tests.cluster import Cluster
from tests.submitted import log, submit

LINES = "Accio sun#[1]\nAccio ice#[2, 3]\nAccio rain and snow#[4]\nAccio star#[5, 6, 7]\n# _EVAL_\nAccio moon#[8]\n"


@pytest.mark.slow
def test_a_job_of_two_processes_is_the_run_of_one(slurm: Cluster, tmp_path: Path) -> None:
    rows = tmp_path / "rows.txt"
    rows.write_text(LINES, "utf-8")
    arguments = ("sft", str(rows), "train.epochs=2", "train.batch=4", "train.micro_batch=1", "evaluation.samples=1", "evaluation.tokens=4")
    job = submit(slurm, tmp_path / "job", *arguments, "train.sharding=ddp", "cluster.gpus=2", "cluster.cpus=2")
    assert slurm.wait(job, 240) == "COMPLETED", log(tmp_path / "job")
    assert main([*arguments, "view=none", f"run.dir={tmp_path / 'one'}"]) == 0
    for name in ("metrics", "steps"):
        mine, theirs = records(tmp_path / "job", name), records(tmp_path / "one", name)
        assert len(mine) == len(theirs) and all(map(same, theirs, mine))
    assert (tmp_path / "job/adapter/adapter_config.json").is_file()
