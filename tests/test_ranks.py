"""Several processes as one run: what they know together, who is refused, and that none waits for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertchat.config import ConfigError
from expertchat.training import ranks as module
from expertchat.training.ranks import Launched, Ranks, find_launch, launch_line
from tests.workers.forked import environment, run, start

ROOT = Path(__file__).parents[1]
MEET = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", **MEET}
SRUN = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0", **MEET}


def test_one_process_knows_what_it_knows() -> None:
    ranks = Ranks.alone()
    assert (ranks.rank, ranks.world) == (0, 1)
    assert ranks.mine("abc") == ranks.gather(["a", "b", "c"]) == ["a", "b", "c"]
    assert ranks.same("x") == "x" and ranks.agree(True) and not ranks.agree(False)
    assert ranks.mean({"x": 2.0}) == {"x": 2.0}
    with ranks:
        ranks.barrier()


def test_one_process_needs_no_torch() -> None:
    code = "import sys; from expertchat.training.ranks import Ranks; Ranks.start('pipeline').barrier(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=environment(), cwd=ROOT).returncode == 0


@given(st.lists(st.integers()), st.integers(1, 9))
def test_gather_would_undo_mine(items: list[int], world: int) -> None:
    parts = [Ranks.alone().mine(items[rank::world]) for rank in range(world)]
    shares = [_of(rank, world).mine(items) for rank in range(world)]
    assert shares == parts
    assert [shares[i % world][i // world] for i in range(len(items))] == items


def _of(rank: int, world: int) -> Ranks:
    """A rank that knows no others: for what needs no words."""
    ranks = Ranks.alone()
    ranks.rank, ranks.world = rank, world
    return ranks


def expected(rank: int, items: int, world: int = 4) -> dict[str, object]:
    names = [f"item {i}" for i in range(items)]
    return {
        "rank": rank,
        "world": world,
        "mine": names[rank::world],
        "gathered": names,
        "objects": [{"n": i, "text": "ä" * i} for i in range(items)],
        "same": "rank 0",
        "agree": [False, world > 2, True],  # the third of them agrees alone
        "mean": {"x": (world - 1) / 2, "y": 1.5},  # (0 + 1 + 2 + 3) / 4 = 1.5, (0 + 1) / 2 = .5
        "again": True,
        "told": [],
    }


@pytest.mark.parametrize("items", [0, 3, 10])
def test_four_processes_know_the_same(items: int, tmp_path: Path) -> None:
    found = run(4, "meeting.all_of_it", tmp_path, items=items)
    for rank, one in enumerate(found):
        refusal = one.pop("pipeline")
        assert one == expected(rank, items)
        assert "4 were started" in refusal and "expertchat online_dpo 'run.dir=a b'" in refusal and "train.sharding=ddp" in refusal


@pytest.mark.slow
def test_torchrun_starts_them(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "tests/workers/meeting.py"]
    env = dict(environment(PYTHONPATH=str(ROOT)))
    done = subprocess.run([*command, str(tmp_path)], env=env, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]
    found = [json.loads((tmp_path / f"{rank}.json").read_text("utf-8")) for rank in range(2)]
    assert [{k: v for k, v in one.items() if k != "pipeline"} for one in found] == [expected(rank, 6, 2) for rank in range(2)]


@pytest.mark.parametrize("how", ["killed", "hangs"])
def test_nobody_waits_for_ever(how: str, tmp_path: Path) -> None:
    done = start(4, "meeting.one_dies", tmp_path, how=how)
    assert done.returncode == 9, done.stderr[-4000:]  # rank 2's
    for rank in (0, 1, 3):
        said = json.loads((tmp_path / f"{rank}.json").read_text("utf-8"))
        assert f"rank {rank} of 4 waited for the others to gather what each has" in said and "has ended or hangs" in said
    # Rank 0 can tell who hangs, after wait_seconds=2. One that ended is known at once: by its rank, or only by its closed connection,
    # whichever rank 0 comes to first.
    said = json.loads((tmp_path / "0.json").read_text("utf-8"))
    assert how == "killed" or ("Ranks 2 failed" in said and "in 2000 ms" in said)


# -- how processes are started --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "found"),
    [
        ({}, None),
        (TORCHRUN, Launched(1, 4, 1)),
        (SRUN, Launched(5, 8, 1)),
        (SRUN | TORCHRUN, Launched(1, 4, 1)),  # torchrun within a step of srun
        ({k: v for k, v in SRUN.items() if k != "SLURM_STEP_ID"}, None),  # a job script: there is no step yet
        ({"RANK": "0", "WORLD_SIZE": "1"}, Launched(0, 1, 0)),
    ],
)
def test_launchers(env: Mapping[str, str], found: Launched | None) -> None:
    assert find_launch(env) == found


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (TORCHRUN | {"RANK": "one"}, ["RANK, WORLD_SIZE, LOCAL_RANK", "'one'"]),
        (TORCHRUN | {"RANK": "4"}, ["RANK=4", "WORLD_SIZE=4"]),
        ({k: v for k, v in SRUN.items() if k != "MASTER_ADDR"}, ["MASTER_ADDR not set", "scontrol show hostnames"]),
    ],
)
def test_launchers_that_say_it_wrongly(env: Mapping[str, str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        find_launch(env)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_several_processes_are_asked_for_and_there_is_one(sharding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*module.LAUNCH, *module.SLURM):
        monkeypatch.delenv(name, raising=False)
    command = ["expertchat", "online_dpo", f"train.sharding={sharding}", "run.dir=my runs/1"]
    with pytest.raises(ConfigError) as error:
        Ranks.start(sharding, command)  # type: ignore[arg-type]
    line = launch_line(command)
    assert line in str(error.value) and "train.sharding=pipeline" in str(error.value)
    assert line.startswith("torchrun --standalone --nproc_per_node ")
    assert line.endswith(f" -m expertchat.cli online_dpo train.sharding={sharding} 'run.dir=my runs/1'")


def test_pipeline_under_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"4 were started.*without torchrun"):
        Ranks.start("pipeline")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    assert Ranks.start("pipeline").world == 1


@pytest.mark.parametrize(
    ("listed", "local", "launcher", "seen"),
    [
        (None, 2, "RANK", "2"),
        ("4,5,6,7", 2, "RANK", "6"),
        ("4,5", 2, "RANK", "-1"),  # more processes than GPUs: _check_gpus refuses
        ("0", 1, "RANK", "-1"),
        ("0", 1, "SLURM_PROCID", None),  # srun --gpus-per-task=1: every task's own GPU is its number 0
        ("", 1, "RANK", None),
        ("-1", 0, "RANK", "-1"),
    ],
)
def test_every_process_sees_its_own_gpu(listed: str | None, local: int, launcher: str, seen: str | None) -> None:
    env = {launcher: str(local)} | ({} if listed is None else {"CUDA_VISIBLE_DEVICES": listed})
    assert module.visible(Launched(local, 4, local), env) == seen


def test_own_gpu_is_chosen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    monkeypatch.setenv(module.OWN, "")
    monkeypatch.delenv(module.OWN)
    for _ in range(2):
        module.own_gpu()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"  # local rank 1
    monkeypatch.delenv(module.OWN)
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    module.own_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5" and module.OWN not in os.environ  # one process: all its GPUs stay


def test_gpus_for_some_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Four(Ranks):
        def gather(self, mine: object) -> list[int]:  # type: ignore[override]
            return [1, 1, 0, 0]

    ranks = Four()
    ranks.world = 4
    with pytest.raises(ConfigError, match=r"4 processes.*only 2 .*--nproc_per_node 2"):
        module._check_gpus(ranks)
