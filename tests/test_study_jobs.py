"""A study as a chain on a real Slurm: arms that run at once in one folder, what reads them afterwards, the report; a cancelled job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.submitted import ASKED

WRITTEN = {
    "title": "Two seeds talk",
    "steps": {
        "talk": {"run": "converse conversation.count=2 conversation.turns=2 run.seed=$seed", "each": {"seed": [0, 1]}},
        "again": {"run": "judge $talk judge=length"},
        "said": {"run": "metrics $talk measures=[length] out=$here/said.json"},
    },
    "tables": {"said": {"title": "How much", "rows": {"talk": "talk"}, "figures": {"turns": "turns"}}},
}  # fmt: skip


def submitted(slurm: Cluster, folder: Path) -> dict[str, str]:
    """Submit the chain; the jobs by the steps that begin them."""
    asked = [word for word in ASKED if not word.startswith("cluster.gpu")]
    done = slurm.call(["expertchat", "submit", "study", "two.yaml", "smoke", "run.dir=s", *asked], cwd=folder)
    assert done.returncode == 0, done.stderr
    return {job["link"]: job["job"] for job in json.loads((folder / "s/submission/chain.json").read_text())["jobs"]}


def log(folder: Path) -> str:
    return "\n".join(path.read_text("utf-8") for path in sorted((folder / "s/submission").glob("slurm-*.out")))


@pytest.mark.slow
def test_a_chain_runs_to_its_report_and_goes_on_after_a_job_that_was_cancelled(slurm: Cluster, tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text(json.dumps(WRITTEN))
    jobs = submitted(slurm, tmp_path)
    assert list(jobs) == ["talk-0", "talk-1", "again", "said", "report"]
    slurm.run(["scancel", jobs["talk-1"]])
    assert slurm.wait(jobs["talk-0"], 240) == "COMPLETED", log(tmp_path)
    assert slurm.wait(jobs["report"], 60) == "CANCELLED"  # what it waits for will never end well
    later = submitted(slurm, tmp_path)
    assert list(later) == ["talk-1", "again", "said", "report"]
    assert slurm.wait(later["report"], 240) == "COMPLETED", log(tmp_path)
    report = json.loads((tmp_path / "s/report.json").read_text())
    assert [cells[0][0] for cells in report["tables"]["said"]["rows"].values()] == [4, 4]  # two dialogues of two turns, of both seeds
    logs = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "s/logs").glob("*.json")}
    assert {name: one["code"] for name, one in logs.items()} == dict.fromkeys(("talk-0", "talk-1", "again", "said"), 0)
