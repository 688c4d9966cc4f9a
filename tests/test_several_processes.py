"""A whole run by four processes is the run that one makes (by torchrun: test_ranks.py, by srun: test_slurm_broken.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from expertchat.cli import main
from tests.alike import records, same
from tests.workers.forked import run

FAST = [
    "view=none", "run.seed=2", "conversation.count=8", "conversation.turns=2", "candidates.count=2", "candidates.opening=true",
    "pairs.min_margin=0.001", "train.batch=8", "train.micro_batch=8", "evaluation.every=0", "evaluation.histories=2", "evaluation.final=2",
    "experts.a.decoding.reply.max_new_tokens=32", "experts.b.decoding.reply.max_new_tokens=32",
]  # fmt: skip
SHORT = (
    "rounds=1", "run.seed=1", "conversation.count=4", "train.batch=4", "train.micro_batch=4", "judging.analysis=false",
    "experts.a.decoding.reply.max_new_tokens=16", "experts.b.decoding.reply.max_new_tokens=16",
)  # fmt: skip
MADE = {"ddp": (1, ["rounds=1"]), "fsdp": (1, SHORT)}  # rounds, and what they consist of: every token of fsdp gathers all weights
WRITTEN = ("transcripts", "candidates", "ratings", "wim", "rewards", "pairs", "metrics")


# fsdp's own steps are tried in test_sharding.py; a whole run by it takes half a minute.
@pytest.mark.parametrize("sharding", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_four_processes_make_the_run_of_one(sharding: str, tmp_path: Path) -> None:
    rounds, own = MADE[sharding]
    arguments = ["online_dpo", *FAST, *own]
    assert main([*arguments, f"run.dir={tmp_path / 'one'}"]) == 0
    several = {"arguments": [*arguments, f"train.sharding={sharding}"], "run_dir": str(tmp_path / "four")}
    assert run(4, "runs.run", tmp_path / "codes", **several) == [0] * 4
    for name in WRITTEN:
        mine, theirs = records(tmp_path / "four", name), records(tmp_path / "one", name)
        assert [record["id"] for record in mine] == [record["id"] for record in theirs]  # in the same order, each once
        assert all(map(same, theirs, mine)), next((a, b) for a, b in zip(theirs, mine, strict=True) if not same(a, b))
    assert sum(record["figures"].get("steps", 0) for record in records(tmp_path / "one", "metrics")) >= rounds
    assert not any(record["figures"].get("surplus") for record in records(tmp_path / "four", "metrics"))  # else four would train on less
    weights = [load_file(tmp_path / run / "adapter" / "adapter_model.safetensors") for run in ("four", "one")]
    apart = torch.cat([(weights[0][name] - weights[1][name]).abs().flatten() for name in weights[1]])
    # Adam divides a gradient by its own size: where that is a rounding error, it makes a whole step (0.001) of it, this way or that.
    assert float((apart > 1e-5).float().mean()) < 1e-3
    last = sorted(path.name for path in (tmp_path / "one" / "rounds").iterdir() if path.name.isdigit())[-1]
    states = [torch.load(tmp_path / run / "rounds" / last / "optimizer.pt", weights_only=True) for run in ("four", "one")]
    for mine, theirs in zip(*(state["optimizer"]["state"].values() for state in states), strict=True):
        assert torch.allclose(mine["exp_avg"], theirs["exp_avg"], rtol=0, atol=1e-6)  # the gradients themselves


@pytest.mark.slow
def test_a_signal_to_one_stops_all_and_two_go_on(tmp_path: Path) -> None:
    arguments = ["online_dpo", *FAST, *SHORT, "conversation.count=8"]  # two for each of the four
    assert main([*arguments, f"run.dir={tmp_path / 'one'}"]) == 0
    several = {"arguments": [*arguments, "train.sharding=ddp", "engine.max_batch=1"], "run_dir": str(tmp_path / "several")}
    assert run(4, "runs.run", tmp_path / "codes", signalled=2, **several) == [3, 3, 3, 3]
    assert not (tmp_path / "several" / "summary.json").exists()
    made = sum(len(path.read_bytes().splitlines()) for path in (tmp_path / "several/rounds/000001").glob("bundles-*.jsonl"))
    assert 0 < made < 8
    assert run(2, "runs.run", tmp_path / "codes", **several) == [0, 0]
    for name in ("transcripts", "candidates", "pairs"):
        mine, theirs = records(tmp_path / "several", name), records(tmp_path / "one", name)
        assert [record["id"] for record in mine] == [record["id"] for record in theirs] and all(map(same, theirs, mine))
