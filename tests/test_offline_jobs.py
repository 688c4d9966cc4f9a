"""Jobs of the commands that work on what is there, on a real Slurm with placeholder GPUs: each is the run of one process without Slurm."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.alike import records, same
from tests.cluster import Cluster
from tests.proofs import kill_best_of_n, kill_pairs
from tests.submitted import log, submit, unbroken
from tests.test_reward_training import rows, table

LINES = "Accio sun#[1]\nAccio ice#[2, 3]\nAccio rain and snow#[4]\nAccio star#[5, 6, 7]\n# _EVAL_\nAccio moon#[8]\n"
TWO = ("train.sharding=ddp", "cluster.gpus=2", "cluster.cpus=2")  # processes
TALK = ("converse", "conversation.count=8", "conversation.turns=4", "judging.wim.enabled=false", "judging.z=0", "run.seed=3")
BUILD = ("judge=truth", "model=embedded_llama", "choose.high=2", "choose.low=1", "counterpart.attempts=6")
DPO = ("train.epochs=2", "train.batch=4", "train.micro_batch=1", "evaluation.histories=2", "evaluation.final=2", "evaluation.turns=2")


def as_one(slurm: Cluster, folder: Path, arguments: tuple[str, ...], names: tuple[str, ...], *processes: str) -> tuple[Path, Path]:
    """A job's folder and that of the same run without Slurm, whose records of these names are the same."""
    job = submit(slurm, folder / "job", *arguments, *processes)
    assert slurm.wait(job, 300) == "COMPLETED", log(folder / "job")
    one = unbroken(folder / "one", *arguments)
    for name in names:
        mine, theirs = ({line["id"]: line for line in records(place, name)} for place in (folder / "job", one))
        assert mine.keys() == theirs.keys() and all(same(theirs[key], mine[key]) for key in theirs), name
    return folder / "job", one


@pytest.mark.slow
def test_sft_by_two_processes(slurm: Cluster, tmp_path: Path) -> None:
    rows = tmp_path / "rows.txt"
    rows.write_text(LINES, "utf-8")
    arguments = ("sft", str(rows), "train.epochs=2", "train.batch=4", "train.micro_batch=1", "evaluation.samples=1", "evaluation.tokens=4")
    job, _ = as_one(slurm, tmp_path, arguments, ("metrics", "steps"), *TWO)
    assert (job / "adapter/adapter_config.json").is_file()


@pytest.mark.slow
def test_pairs_are_built(slurm: Cluster, tmp_path: Path) -> None:
    talk = unbroken(tmp_path / "talk", *TALK)
    as_one(slurm, tmp_path, ("build_pairs", str(talk), *BUILD), kill_pairs.KEPT["build_pairs"])


@pytest.mark.slow
def test_dpo_by_two_processes(slurm: Cluster, tmp_path: Path) -> None:
    source = table(tmp_path / "pairs.jsonl", [row | {"part": "evaluation" if i > 7 else "train"} for i, row in enumerate(rows(10))])
    job, _ = as_one(slurm, tmp_path, ("dpo", str(source), *DPO), kill_pairs.KEPT["dpo"], *TWO)
    assert (job / "adapter/adapter_config.json").is_file()


@pytest.mark.slow
def test_a_reward_model_by_two_processes(slurm: Cluster, tmp_path: Path) -> None:
    source = table(tmp_path / "pairs.jsonl", rows(80))
    arguments = ("reward_model", str(source), "epochs=2", "train.batch=8", "train.micro_batch=4", "resamples=200")
    job, one = as_one(slurm, tmp_path, arguments, ("metrics", "items", "opinions"), *TWO)
    here, there = (load_file(place / "model" / "model.safetensors") for place in (job, one))
    apart = torch.cat([(here[name] - there[name]).abs().flatten() for name in here])
    # Adam divides a gradient by its own size: where that is a rounding error, it makes a whole step of it, this way or that.
    assert float((apart > 1e-5).float().mean()) < 1e-3


@pytest.mark.slow
def test_best_of_n(slurm: Cluster, tmp_path: Path) -> None:
    arguments = ("best_of_n", "n=4", "count=12", "turns=2", "judge@long=length", "write_pairs=true", "resamples=200")
    as_one(slurm, tmp_path, arguments, ("prompts", "transcripts", "candidates", "selections", "pairs"))
    for name in kill_best_of_n.RECORDS:
        one, two = (kill_best_of_n.content(tmp_path / place, name) for place in ("job", "one"))
        assert kill_best_of_n.same(one, two), name
