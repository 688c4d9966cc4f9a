"""Updates by four processes against one: the same losses and weights, a quarter of the weights each, and any number goes on."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from expertchat.config import ConfigError
from expertchat.training.ranks import Ranks
from expertchat.training.rows import Row, alike, length
from expertchat.training.sharding import average, is_sharded, parameter_bytes, split
from tests import checkpoints, tiny
from tests.workers.forked import run
from tests.workers.updates import update

torch.set_num_threads(1)
CLOSE = 1e-5
EXPERTS = ["q_proj", "v_proj", "w1", "w2", "w3"]
# 28 pairs by 12: steps of 12, 12 and 4. Of each, four processes have 3, 3 and 1 pairs, two at a time.
UNEVEN = {"count": 28, "batch": 12, "micro_batch": 2, "loss": ["ipo"], "reference": "round_start", "rounds": 2}


def rank(number: int, world: int) -> Ranks:
    """A rank that knows no others."""
    ranks = Ranks.alone()
    ranks.rank, ranks.world = number, world
    return ranks


# -- the batches ----------------------------------------------------------------------------------------------------------


def test_split_by_hand() -> None:
    # 29 pairs, 12 a step: 12, 12 and 5. Four processes: 3 of each full step, one of the last, and the 29th pair is given up.
    # The first 8 of a step are dealt out from the first process to the last, the next 4 back again: 0..3 4..7, then 11 10 9 8.
    share = split(29, 12, 2, rank(1, 4))
    assert share.batches == [[1, 5], [10], [13, 17], [22], [25]]
    # Two passes make a step; a pass of two of three pairs counts 2/3 of them, so 2/3 * 2 against the mean over both passes.
    assert share.accumulation == 2
    assert share.weights == pytest.approx([4 / 3, 2 / 3, 4 / 3, 2 / 3, 1.0])
    assert share.surplus == 1


def test_every_process_has_its_share_of_the_long_rows_and_none_is_given_up_for_its_length() -> None:
    chance = random.Random(4)
    rows: list[Row] = [{"prompt_ids": [0] * chance.randrange(1, 900), "chosen_ids": [1], "rejected_ids": [i]} for i in range(4 * 32 + 3)]
    given_up: list[Row] = rows[-3:]
    trained = alike(rows, 32, split(len(rows), 32, 4, rank(0, 4)).surplus)
    assert sorted(row["rejected_ids"][0] for row in trained) == list(range(4 * 32))  # the last of the drawn order, whatever their length
    assert max(map(length, given_up)) < max(map(length, trained))
    shares = [split(len(rows), 32, 4, rank(i, 4)) for i in range(4)]
    whole = [sum(length(trained[i]) for part in share.batches for i in part) for share in shares]
    assert max(whole) / min(whole) < 1.03  # in contiguous parts the last process had 5.9 times the tokens of the first (25318 and 4288)
    parts = list(zip(*(share.batches for share in shares), strict=True))
    for part in parts:  # the processes wait for each other at every pass under fsdp: each is about as long in all of them
        longest = [max(length(trained[i]) for i in mine) for mine in part]
        assert max(longest) - min(longest) < 150


def test_split_alone_leaves_all_as_it_is() -> None:
    share = split(10, 4, 2, Ranks.alone())
    assert share.batches == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert (share.weights, share.accumulation, share.surplus) == ([1.0] * 5, 2, 0)
    assert split(0, 4, 2, Ranks.alone()).batches == []


@given(st.integers(0, 90), st.integers(1, 6), st.integers(1, 9), st.integers(1, 5))
def test_split_gives_everyone_equal_parts(count: int, per_rank: int, micro: int, world: int) -> None:
    batch = per_rank * world
    shares = [split(count, batch, micro, rank(i, world)) for i in range(world)]
    assert len({(tuple(s.weights), s.accumulation, s.surplus) for s in shares}) == 1  # all make the same passes
    seen = sorted(i for s in shares for part in s.batches for i in part)
    assert len(seen) == len(set(seen)) == count - shares[0].surplus and shares[0].surplus < world
    assert all(1 <= len(part) <= micro for s in shares for part in s.batches)
    steps = math.ceil(len(shares[0].batches) / shares[0].accumulation)
    for n in range(steps):
        mine = slice(n * shares[0].accumulation, (n + 1) * shares[0].accumulation)
        step = [i for s in shares for part in s.batches[mine] for i in part]
        assert all(n * batch <= i < (n + 1) * batch for i in step)  # steps keep the order
        parts, weights = shares[0].batches[mine], shares[0].weights[mine]
        # What the Trainer makes of it, sum of loss * weight / passes, is the mean over the step's pairs: each counts 1 / pairs.
        each = [weight / len(part) / len(parts) for part, weight in zip(parts, weights, strict=True)]
        assert each == pytest.approx([1 / sum(map(len, parts))] * len(parts))


def test_split_refuses_what_cannot_be_parted() -> None:
    with pytest.raises(ConfigError, match=r"train\.batch=6 cannot be parted among 4 processes: set train\.batch=8"):
        split(6, 6, 2, rank(0, 4))
    with pytest.raises(ConfigError, match=r"train\.batch=16 cannot be parted among 3 .*set train\.batch=15 train\.micro_batch=5$"):
        split(6, 16, 16, rank(0, 3))  # train.batch is a multiple of train.micro_batch too


def test_average_alone_changes_nothing() -> None:
    parameter = nn.Parameter(torch.ones(2))
    average([parameter], Ranks.alone())
    assert parameter.grad is None and not is_sharded(nn.Linear(1, 1))
    assert parameter_bytes(nn.Linear(3, 2)) == (32, 32)  # (3 * 2 + 2) numbers of 4 bytes


# -- four processes against one -------------------------------------------------------------------------------------------


def by_one(folder: Path, **case: Any) -> dict[str, Any]:
    """What one process makes of it, here."""
    return update(sharding="pipeline", out=str(folder), **case)


def by_four(folder: Path, *cases: dict[str, Any]) -> list[dict[str, Any]]:
    """What four make of each case, the same in all of them; `base_bytes` and `all_bytes` as the largest of them has it."""
    found = run(4, "updates.many", folder, cases=[{"out": str(folder / str(i)), **case} for i, case in enumerate(cases)])
    for case in zip(*found, strict=True):
        if "refused" not in case[0]:
            assert all((one["losses"], one["figures"]) == (case[0]["losses"], case[0]["figures"]) for one in case)
            assert all(one["equal"] for one in case)  # the weights are rank 0's, bit by bit
            assert sum(one["base_bytes"][0] for one in case) in (case[0]["base_bytes"][1], 4 * case[0]["base_bytes"][1])  # fsdp, ddp
    return found[0]


STEPS = ("loss", "grad_norm", "learning_rate")


def assert_same(
    four: dict[str, Any], folder: Path, one: dict[str, Any], one_folder: Path, figures: Sequence[str] = (*STEPS, "log_ratio", "accuracy")
) -> None:
    assert four["losses"] == pytest.approx(one["losses"], abs=CLOSE)
    mine, theirs = (load_file(place / "adapter" / "adapter_model.safetensors") for place in (folder, one_folder))
    assert mine.keys() == theirs.keys()
    assert max(float((mine[name] - theirs[name]).abs().max()) for name in mine) < CLOSE
    assert max(float(tensor.abs().max()) for name, tensor in theirs.items() if ".lora_B." in name) > 100 * CLOSE  # it has learnt something
    for name in ("steps", "surplus", "too_long"):
        assert [f[name] for f in four["figures"]] == [f[name] for f in one["figures"]]
    for name in figures:
        assert [f[name] for f in four["figures"]] == pytest.approx([f[name] for f in one["figures"]], abs=CLOSE, rel=CLOSE)


@pytest.fixture
def llama(tmp_path: Path) -> str:
    return str(tiny.build(tmp_path / "llama", "llama3"))


def test_ddp_makes_the_steps_of_one_process(llama: str, tmp_path: Path) -> None:
    one = by_one(tmp_path / "one", model=llama)
    uneven = by_one(tmp_path / "uneven", model=llama, **UNEVEN)
    found = by_four(
        tmp_path / "four",
        {"sharding": "ddp", "model": llama},
        {"sharding": "ddp", "model": llama, **UNEVEN},
        {"sharding": "ddp", "model": llama, "count": 27},
        {"sharding": "ddp", "model": llama, "batch": 6, "micro_batch": 3},
    )
    assert_same(found[0], tmp_path / "four/0", one, tmp_path / "one")
    assert_same(found[1], tmp_path / "four/1", uneven, tmp_path / "uneven", STEPS)  # TRL's figures count smaller passes as much
    # 27 pairs by 8: the last step's 3 are too few for four processes, so three steps remain.
    assert (found[2]["figures"][0]["surplus"], found[2]["figures"][0]["steps"]) == (3, 3)
    assert "train.batch=6" in found[3]["refused"]


def test_fsdp_makes_the_steps_of_one_process_with_a_quarter_of_the_weights(llama: str, tmp_path: Path) -> None:
    tied = str(checkpoints.write(tmp_path / "tied", "smollm", initializer_range=0.3))
    uneven = by_one(tmp_path / "uneven", model=llama, **UNEVEN)
    small = {"model": tied, "learning_rate": 0.002}  # Adam makes a full step of the smallest gradient, rounding errors and all
    one = by_one(tmp_path / "one", **small)
    found = by_four(
        tmp_path / "four",
        {"sharding": "fsdp", "model": llama, **UNEVEN},
        {"sharding": "fsdp", **small, "checkpointing": True, "old_peft": True},
    )
    assert_same(found[0], tmp_path / "four/0", uneven, tmp_path / "uneven", STEPS)
    assert_same(found[1], tmp_path / "four/1", one, tmp_path / "one")
    for case in found:
        here, whole = case["base_bytes"]
        assert 0.25 <= here / whole < 0.2525  # four do not divide every matrix evenly
        here, whole = case["all_bytes"]
        assert here / whole < 0.27  # the adapters are whole everywhere: 2 % of a tiny model


@pytest.mark.slow
def test_fsdp_on_four_bits_and_on_routed_experts(llama: str, tmp_path: Path) -> None:
    mixtral = str(tiny.build(tmp_path / "mixtral", "mixtral"))
    # Adam makes a full step of the smallest gradient, rounding errors and all, and some experts see a token or two: small steps.
    experts = {"model": mixtral, "quantization": "nf4", "targets": EXPERTS, "learning_rate": 0.001}
    four_bit = by_one(tmp_path / "nf4", model=llama, quantization="nf4")
    routed = by_one(tmp_path / "routed", **experts)
    found = by_four(
        tmp_path / "four",
        {"sharding": "fsdp", "model": llama, "quantization": "nf4"},
        {"sharding": "fsdp", "model": llama, "quantization": "nf4", "attach_first": True},
        {"sharding": "fsdp", **experts},
        {"sharding": "ddp", **experts},
        {"sharding": "fsdp", "model": llama, "quantization": "int8"},
    )
    for i in (0, 1):
        assert_same(found[i], tmp_path / f"four/{i}", four_bit, tmp_path / "nf4")
        assert 0.25 <= found[i]["base_bytes"][0] / found[i]["base_bytes"][1] < 0.2525
    for i in (2, 3):
        assert_same(found[i], tmp_path / f"four/{i}", routed, tmp_path / "routed")
    assert "quantization=int8" in found[4]["refused"] and "train.sharding=ddp" in found[4]["refused"]


def test_a_torch_that_cannot_part_four_bits_is_named(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from expertchat.backends.folders import find_folder
    from expertchat.backends.weights import load_weights
    from expertchat.training import sharding

    def older(*_: Any, **__: Any) -> None:  # torch 2.11 makes each part a parameter with a gradient first
        nn.Parameter(torch.zeros(2, dtype=torch.uint8))

    monkeypatch.setattr(sharding, "fully_shard", older)
    monkeypatch.setattr(sharding, "init_device_mesh", lambda *_: None)
    model = load_weights(find_folder(llama), "m", dtype="fp32", device="cpu", quantization="nf4").model
    with pytest.raises(ConfigError, match=r"no parts of 4-bit weights.*train\.sharding=ddp, or quantization=none"):
        sharding.shard(model, Ranks.alone())


def test_any_number_of_processes_goes_on(llama: str, tmp_path: Path) -> None:
    """A round by one process and a round by four, and the other way round, is two rounds by one."""
    whole = by_one(tmp_path / "whole", model=llama, rounds=2)
    by_one(tmp_path / "first", model=llama)
    first, second = by_four(
        tmp_path / "four",
        {"sharding": "fsdp", "model": llama},
        {"sharding": "ddp", "model": llama, "resume": str(tmp_path / "first")},
    )
    again = by_one(tmp_path / "second", model=llama, resume=str(tmp_path / "four/0"))
    steps = len(first["losses"])
    for folder, later in ((tmp_path / "four/1", second), (tmp_path / "second", again)):
        cut = {"losses": whole["losses"][steps:], "figures": whole["figures"][1:]}
        assert_same(later, folder, cut, tmp_path / "whole")
        states = [torch.load(place / "optimizer.pt", weights_only=True) for place in (folder, tmp_path / "whole")]
        assert states[0]["scheduler"] == states[1]["scheduler"]
        for mine, theirs in zip(*(state["optimizer"]["state"].values() for state in states), strict=True):
            assert mine["step"] == theirs["step"]
            assert all(torch.allclose(mine[key], theirs[key], atol=CLOSE) for key in ("exp_avg", "exp_avg_sq"))


def test_groups_of_replies_make_the_steps_of_one_process(llama: str, tmp_path: Path) -> None:
    """GRPO and RLOO by two processes: histories of two to four replies, some without a score, ratios and a base that are remembered.

    Of 21 histories 16 have a spread, of 23 they are 18: steps of 8, 8 and 2.
    """
    cases: list[dict[str, Any]] = [
        {"method": "grpo", "count": 21, "micro_batch": 2, "rounds": 2},
        {"method": "grpo", "count": 23, "micro_batch": 2, "epochs": 2, "normalise": "tokens", "learning_rate": 0.004},
        {"method": "rloo", "count": 23, "micro_batch": 4, "epochs": 2, "normalise": None, "scale": None, "beta": 0, "learning_rate": 4e-3},
    ]
    shared = [{"sharding": sharding, "model": llama, **case} for case, sharding in zip(cases, ("ddp", "fsdp", "ddp"), strict=True)]
    found = run(2, "updates.many", tmp_path / "two", cases=[{"out": str(tmp_path / "two" / str(i)), **c} for i, c in enumerate(shared)])
    for i, case in enumerate(cases):
        one = by_one(tmp_path / f"one{i}", model=llama, **case)
        assert all(rank[i]["losses"] == found[0][i]["losses"] and rank[i]["equal"] for rank in found)
        assert_same(found[0][i], tmp_path / f"two/{i}", one, tmp_path / f"one{i}", STEPS)
        assert one["engine"] and one["figures"][0]["groups"] > 10 and one["figures"][0]["nulls"] > 0
