"""Runs that are submitted to the tests' Slurm: how, what their folders tell, and the same runs in one go."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.cluster import Cluster
from tests.workers.forked import command

ASKED = ("cluster.cpus=1", "cluster.memory=3G", "cluster.gpus=4", "cluster.gpu_type=v100", "cluster.gpu_gib=16")


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


def unbroken(folder: Path, *arguments: str) -> Path:
    """The same run in one go, without Slurm."""
    done = command([*arguments, f"run.dir={folder}", "view=none"])
    assert done.returncode == 0, done.stderr
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
