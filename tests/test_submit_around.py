"""`expertchat submit` and what stands around it: sbatch's own words and variables, a machine without Slurm, files of conf/cluster."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from expertchat.command.compose import load
from expertchat.config import ConfigError, validate
from expertchat.slurm.config import ClusterConfig
from tests.test_submit import SMALL, cluster, own_folder, problems, script, submit  # noqa: F401 (a fixture of every test)


def test_a_time_that_yaml_has_made_a_number_of_is_asked_about() -> None:
    """time: 3:00:00 in a file of conf/cluster was a limit of 7 days and 12 hours."""
    given = load("submit", ["cluster=narval"]).cluster.model_dump()
    for value in (yaml.safe_load("3:00:00"), 10_800):
        with pytest.raises(ConfigError, match='write "3:00:00" with quotes, or "7-12:00"'):
            validate(ClusterConfig, {**given, "time": value})
    assert cluster("cluster.time=90").seconds == 5400 and cluster("cluster.time=3:00:00").seconds == 10_800


def test_an_option_of_several_words_stays_one(tmp_path: Path) -> None:
    """sbatch takes what follows a blank for a directive of its own, and refuses the script."""
    text = script(cluster=cluster('cluster.options=["--comment=a b", "--mail-type=END", "--exclusive"]'))
    assert '#SBATCH --comment="a b"\n#SBATCH --mail-type=END\n#SBATCH --exclusive\n' in text


def test_what_a_job_submits_is_no_part_of_that_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sbatch hands on all variables: a job would take itself for task 3 of the array 2, and requeue that one."""
    (tmp_path / "sbatch").write_text("#!/bin/sh\nenv > seen\necho 7\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_CONF", "/etc/own.conf")
    monkeypatch.setenv("SLURM_TMPDIR", "/scratch")
    submit("converse", *SMALL, "run.dir=one")
    assert "SLURM_TMPDIR=/scratch" in Path("seen").read_text()  # where a site gives none, the user may
    inside = {"SLURM_JOB_ID": "4", "SLURM_ARRAY_JOB_ID": "2", "SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": "2", "SLURM_STEP_ID": "0"}
    for name, value in inside.items():
        monkeypatch.setenv(name, value)
    submit("converse", *SMALL, "run.dir=two")
    assert [line for line in Path("seen").read_text().splitlines() if line.startswith("SLURM_")] == ["SLURM_CONF=/etc/own.conf"]


def test_without_slurm_nothing_is_unpacked_on_a_disk_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job ended in its first second, and what it proposed (to set SLURM_TMPDIR) could not help."""
    given = [f"cluster.{name}={tmp_path}" for name in ("wheelhouse", "archives")]
    told = problems("converse", "cluster=laptop", *given, "--dry-run")
    assert [f"set cluster.{name}=null" in one for name, one in zip(("wheelhouse", "archives"), told, strict=True)] == [True, True]
    monkeypatch.setenv("EXPERTCHAT_WHEELHOUSE", str(tmp_path))
    monkeypatch.setenv("EXPERTCHAT_ARCHIVES", str(tmp_path))
    submit("converse", *SMALL, "cluster=laptop", "run.dir=one", "--dry-run")
