"""What a job may use of the machine, and the number type on a CPU: each choice with its reason."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from expertchat.backends import hardware
from expertchat.backends.hardware import choose_attention, choose_dtype, cpu_bf16, free_memory, gpus_of, parameters_of, usable_cores
from expertchat.backends.quantization import Card, find_card
from expertchat.config import ConfigError
from tests import tiny

torch.set_num_threads(1)
GIB = 2**30


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty tree of control groups, 16 cores of affinity, 64 GiB of free memory, no Slurm."""
    monkeypatch.setattr(hardware, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(hardware, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    memory = type("Memory", (), {"available": 64 * GIB})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    return tmp_path


def stand_in(groups: Path, membership: str, **files: str) -> None:
    """The job stands in the groups of `membership`; `files` by path, "__" for "/" and "_dot_" for "."."""
    (groups / "membership").write_text(membership)
    for name, text in files.items():
        file = groups / "cgroup" / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def test_without_groups_the_affinity_and_the_machine_count(groups: Path) -> None:
    assert usable_cores() == 16 and free_memory("cpu") == 64 * GIB


def test_version_2_the_least_of_all_groups_above_the_job(groups: Path) -> None:
    # 250 ms of every 100 ms are 2.5 cores: 3. The group above allows 8, its root says nothing.
    stand_in(
        groups,
        "0::/jobs/one\n",
        jobs__one__cpu_dot_max="250000 100000\n",
        jobs__cpu_dot_max="800000 100000\n",
        cpu_dot_max="max 100000\n",
        jobs__one__memory_dot_max="max\n",
        jobs__memory_dot_max=f"{10 * GIB}\n",
        jobs__memory_dot_current=f"{7 * GIB}\n",
        jobs__memory_dot_stat=f"anon {4 * GIB}\ninactive_file {2 * GIB}\nactive_file {GIB}\n",
    )
    assert usable_cores() == 3
    assert free_memory("cpu") == 5 * GIB  # 10 - 7, and 2 of the 7 are files that the system would drop


def test_version_1_has_files_of_its_own(groups: Path) -> None:
    stand_in(
        groups,
        "5:cpu,cpuacct:/a\n4:memory:/a\n0::/\n",
        **{
            "cpu,cpuacct__a__cpu_dot_cfs_quota_us": "400000\n",
            "cpu,cpuacct__a__cpu_dot_cfs_period_us": "100000\n",
            "cpu,cpuacct__cpu_dot_cfs_quota_us": "-1\n",
            "cpu,cpuacct__cpu_dot_cfs_period_us": "100000\n",
            "memory__a__memory_dot_limit_in_bytes": f"{8 * GIB}\n",
            "memory__a__memory_dot_usage_in_bytes": f"{9 * GIB}\n",
            "memory__memory_dot_limit_in_bytes": "9223372036854771712\n",
            "memory__memory_dot_usage_in_bytes": "1000\n",
        },
    )
    assert usable_cores() == 4
    assert free_memory("cpu") == 0  # over the limit is not below nothing


def test_a_path_of_the_machine_outside_a_container_falls_back_on_the_root(groups: Path) -> None:
    stand_in(groups, "0::/machine/container/1234\n", cpu_dot_max="200000 100000\n")
    assert usable_cores() == 2


@pytest.mark.parametrize("text", ["", "max\n", "nonsense here\n", "0 100000\n", "100000 0\n", "1 2 3\n"])
def test_odd_quotas_limit_nothing(groups: Path, text: str) -> None:
    stand_in(groups, "0::/\n", cpu_dot_max=text, memory_dot_max=text, memory_dot_current=text)
    assert usable_cores() == 16


@pytest.mark.parametrize(("value", "cores"), [("4", 4), ("64", 16), ("0", 1), ("", 16), ("many", 16)])
def test_slurm_counts_too(groups: Path, monkeypatch: pytest.MonkeyPatch, value: str, cores: int) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", value)
    assert usable_cores() == cores


def test_memory_of_cards(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A card with 3 GiB free, and 2 GiB that torch holds, of which 0.5 are in use: 4.5 GiB. Two such cards: 9.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * GIB, 16 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: GIB // 2)
    assert free_memory("cuda:1") == 4.5 * GIB and free_memory("balanced") == 9 * GIB


def test_the_real_machine_has_memory_and_cores() -> None:
    assert 0 < free_memory("cpu") <= psutil.virtual_memory().total and usable_cores() >= 1


# -- number types -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("has", "parameters", "dtype", "note"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, 28_000_000, torch.bfloat16, "bf16: this CPU computes in it (AVX512-BF16)"),
        ({"avx512_bf16": True, "amx_bf16": True}, 10_000_000, torch.bfloat16, "(AMX-BF16), which is faster; dtype=fp32 for exact"),
        ({"avx512_bf16": True}, 1_400_000, torch.float32, "fp32: 1.4 M parameters gain nothing from bf16, and fp32 is exact"),
        ({"avx512_bf16": True}, None, torch.float32, "fp32: exact and repeatable on cpu"),
        ({"avx512_f": True}, 28_000_000, torch.float32, "fp32: this CPU has no bf16 instructions"),
        ({}, 28_000_000, torch.float32, "fp32: this CPU has no bf16 instructions"),
    ],
)
def test_dtype_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, has: dict[str, bool], parameters: int | None, dtype: torch.dtype, note: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    chosen, said = choose_dtype("auto", "cpu", parameters)
    assert chosen == dtype and said is not None and note in said


def test_the_least_capable_of_the_gpus_that_a_model_stands_on_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [("A100", (8, 0)), ("V100", (7, 0)), ("A100", (8, 0))]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: cards[i][0])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i=0: cards[i][1])
    monkeypatch.setattr("expertchat.backends.quantization.free_memory", lambda device: GIB)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    for device, places, gpus in [
        ("cuda", {"model.layers.0": 0, "lm_head": "cuda:2", "model.norm": "cpu"}, (0, 2)), ("cuda", {"": 1}, (1,)), ("cuda:1", None, (1,)),
        ("balanced", None, (0, 1, 2)), ("cpu", None, ()),
    ]:  # fmt: skip
        assert gpus_of(device, places) == gpus
    assert choose_dtype("auto", "cuda", gpus=(0, 2))[0] == torch.bfloat16 == choose_dtype("auto", "cuda:2")[0]
    assert choose_dtype("auto", "cuda", gpus=(1,)) == choose_dtype("auto", "balanced") == choose_dtype("auto", "cuda", gpus=(0, 1, 2))
    assert choose_dtype("auto", "balanced") == (torch.float16, "fp16: V100 (compute 7.0) has no bf16")
    assert choose_attention("flash_attention_2", "cuda", torch.float16, gpus=(0, 2))[0] == "flash_attention_2"
    for device, gpus in (("cuda:1", None), ("cuda", (0, 1)), ("balanced", None)):
        with pytest.raises(ConfigError, match=r"compute 8\.0 or newer, not V100"):
            choose_attention("flash_attention_2", device, torch.float16, gpus=gpus)
    assert find_card("cuda", (0, 1)) == Card("2 x A100, V100", (7, 0), 2 * GIB)


def test_a_wanted_dtype_is_taken_and_its_cost_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert choose_dtype("fp32", "cpu", 28_000_000) == (torch.float32, None)
    assert "no bf16 instructions: dtype=fp32 is faster" in str(choose_dtype("bf16", "cpu", 28_000_000)[1])
    assert choose_dtype("auto", "mps", 28_000_000)[0] == torch.float32


def test_where_torch_cannot_tell_linux_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("unsupported")

    monkeypatch.setattr(torch.cpu, "get_capabilities", fail, raising=False)
    for flags, found in [(["fpu", "avx512_bf16"], "AVX512-BF16"), (["amx_bf16", "amx_tile"], "AMX-BF16"), ([], None)]:
        monkeypatch.setattr(hardware, "_cpu_flags", lambda flags=flags: flags)
        assert cpu_bf16() == found


def test_parameters_are_counted_from_the_headers(tmp_path: Path) -> None:
    folder = tiny.build(tmp_path / "model", "llama3")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    assert parameters_of(folder) == sum(parameter.numel() for parameter in model.parameters())
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"holds no model\.safetensors"):
        parameters_of(folder)
