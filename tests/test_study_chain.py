"""`submit study`: which steps are a job, what each begins after, what it asks for, what is left when some are done. No Slurm is needed."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from expertchat.config import ConfigError
from expertchat.doors import submit as door
from expertchat.studies.chain import run_submit_study
from expertchat.studies.going import run_study
from tests.test_study import WRITTEN, Told, steps, worked
from tests.test_submit import own_folder  # noqa: F401 (a fixture)

SBATCH = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/asked"
echo $((100 + $(wc -l < "$(dirname "$0")/asked")))
"""


def told(*arguments: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    assert run_submit_study(list(arguments), found.append) == 0
    return found[0]


def mine(folder: Path) -> str:
    path = folder / "two.yaml"
    path.write_text(json.dumps(WRITTEN))
    return str(path)


def asked(folder: Path, job: str) -> dict[str, str]:
    """What a job's script asks sbatch for."""
    lines = (folder / "submission" / f"job-{job}.sh").read_text().splitlines()
    return dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines if line.startswith("#SBATCH --"))


def test_steps_are_jobs_and_cheap_ones_share_one(tmp_path: Path) -> None:
    found = told(mine(tmp_path), "smoke", "run.dir=s", "cluster=beluga", "--dry-run")
    # converse and judge may run as jobs; metrics may not, and loads a model or none by its words, so that it has the GPUs
    assert [(job["names"], job["after"], job["gpus"]) for job in found["jobs"]] == [
        (["talk-0", "talk-1"], "", "4 x v100"), (["again-0"], "talk-0", "4 x v100"), (["again-1"], "talk-1", "4 x v100"),
        (["said"], "talk-0, talk-1", "4 x v100"), (["the report"], "again-0, again-1, said", None),
    ]  # fmt: skip
    place = tmp_path / "s" / "submission"
    script = (place / "job-again-1.sh").read_text().splitlines()
    assert script[-1] == f"supervise expertchat study {tmp_path}/s/submission/two.yaml smoke run.dir=s view=plain --only again-1"
    assert (place / "job-report.sh").read_text().splitlines()[-1].endswith("view=plain")  # what is left, and the report
    assert asked(tmp_path / "s", "again-1")["gpus-per-node"] == "v100:4" and "gpus-per-node" not in asked(tmp_path / "s", "report")
    assert asked(tmp_path / "s", "report")["mem"] == "4G" and asked(tmp_path / "s", "report")["job-name"] == "two.report"
    assert (place / "two.yaml").read_text() == (tmp_path / "two.yaml").read_text()
    assert all(subprocess.run(["bash", "-n", path]).returncode == 0 for path in place.glob("*.sh"))
    by_hand = (place / "submit.sh").read_text()
    assert "JOB3=$(sbatch --parsable --dependency=afterok:$JOB1 --kill-on-invalid-dep=yes job-again-1.sh)" in by_hand
    assert not found["submitted"] and found["submit"].endswith("submit.sh")
    assert any("is checked when it begins: it reads talk-1" in note for note in found["notes"])


def test_the_chain_is_submitted_once_and_what_is_left_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text(SBATCH)
    sbatch.chmod(sbatch.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    words = (mine(tmp_path), "smoke", "run.dir=s")
    found = told(*words)
    assert [job for row in found["jobs"] for job in row["jobs"]] == [str(101 + n) for n in range(6)]
    asked = (tmp_path / "bin" / "asked").read_text().splitlines()
    assert asked[2].startswith("--parsable --dependency=afterok:101 --kill-on-invalid-dep=yes ")
    assert asked[5].startswith("--parsable --dependency=afterok:103:104:105 ")
    kept = json.loads((tmp_path / "s" / "submission" / "chain.json").read_text())
    assert kept["jobs"][3] == {"link": "again-1", "steps": ["again-1"], "after": ["talk-1"], "job": "104"}
    from expertchat.slurm.queue import JobState
    from expertchat.studies import chain

    monkeypatch.setattr(chain, "states", lambda jobs: {job: JobState(job, "running" if job == "104" else "completed") for job in jobs})
    with pytest.raises(ConfigError, match="submitted already: job 104 waits or runs"):
        told(*words)
    monkeypatch.setattr(chain, "states", lambda jobs: {})
    run_study("two", "smoke", Path("s"), steps(Path("s")), Told(), worked, only=["talk", "again"])
    assert [(job["names"], job["after"]) for job in told(*words)["jobs"]] == [(["said"], ""), (["the report"], "said")]


def test_without_slurm_one_job_does_all(tmp_path: Path) -> None:
    found = told(mine(tmp_path), "smoke", "run.dir=s", "cluster=laptop", "--dry-run")
    assert [job["names"] for job in found["jobs"]] == [["talk-0", "talk-1", "again-0", "again-1", "said", "the report"]]
    assert (tmp_path / "s" / "submission" / "submit.sh").read_text().splitlines()[-1] == "bash job-two.sh"


def test_what_is_wrong_is_told_once_with_its_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [mine(tmp_path), "smoke", "run.dir=s", "talk.model@experts.a=qwen2_5_7b"]
    with pytest.raises(ConfigError) as error:
        told(*words)
    lacking = [problem for problem in error.value.problems if problem.startswith("talk-0, talk-1: experts.a.path=")]
    assert len(lacking) == 1 and not (tmp_path / "s").exists()
    assert any(note.startswith("talk-0, talk-1: in the way: experts.a.path=") for note in told(*words, "--dry-run")["notes"])
    with pytest.raises(ConfigError, match=r"talk-0: conversation.turnz"):
        told(*words[:3], "talk.conversation.turnz=2", "--dry-run")
    with pytest.raises(ConfigError, match="takes the whole study"):
        told(*words[:3], "--only", "talk")
    assert door.run(["study", *words[:3], "--dry-run"]) == 0
    assert "begins after" in capsys.readouterr().out


@pytest.mark.slow  # it composes fourteen configs
def test_hours_come_from_the_plan_where_no_run_tells(tmp_path: Path) -> None:
    """Llama 3 8B and Mixtral 8x7B in 4 bits on four V100: 900 GB/s each, one layer after the other."""
    found = told("expert_chat", "full", "seeds=0", "run.dir=s", "cluster=beluga", "--dry-run")
    assert [job["names"] for job in found["jobs"] if job["gpus"] != "4 x v100"] == [["table"], ["prompted", "rewarded", "the report"]]
    assert all(job["work"] for job in found["jobs"]) and "GPU hours" in found["totals"][0]
    assert any("memory plan: fits on 4 x v100 of 16 GiB" in note for note in found["notes"])


def test_a_studys_folder_has_a_name_that_its_steps_can_be_told(tmp_path: Path) -> None:
    """One in another script was refused, for it had been put in quotes as for Hydra; others failed step by step, with odd remedies."""
    told(mine(tmp_path), "smoke", "run.dir=été", "--dry-run")
    script = (tmp_path / "été" / "submission" / "job-talk-0.sh").read_text("utf-8").splitlines()
    assert script[-1].endswith("smoke 'run.dir=été' view=plain --only talk-0")
    for name in ("a (b)", "a,b", "[a]", "it's"):
        with pytest.raises(ConfigError, match="a study's folder stands in the command line of each step") as caught:
            told(mine(tmp_path), "smoke", f"run.dir={name}", "--dry-run")
        assert len(caught.value.problems) == 1
