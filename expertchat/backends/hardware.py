"""Device, number type and attention for a model, chosen by what the machine has, each with its reason; and what this job may use of it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from expertchat.backends.folders import tensor_shapes
from expertchat.config import ConfigError

if TYPE_CHECKING:
    from expertchat.backends.architecture import Architecture

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SMALL = 10_000_000  # parameters below which bf16 is no faster on a CPU: 4.4 ms a step against 3.2 ms in fp32 with 1.4 million
CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def choose_device(wanted: str) -> tuple[str, str | None]:
    """The device to load on ("balanced" = over all GPUs) and a note where the choice was automatic."""
    if wanted == "auto":
        if torch.cuda.is_available():
            return "cuda", f"device cuda: {torch.cuda.get_device_name(0)}"
        return "cpu", "device cpu: this machine has no GPU that torch can use"
    if wanted == "balanced":
        if not torch.cuda.is_available():
            raise ConfigError("device=balanced needs at least one GPU, and torch finds none: set device=cpu")
        if importlib.util.find_spec("accelerate") is None:
            raise ConfigError("device=balanced needs the package accelerate: pip install accelerate")
        return wanted, None
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise ConfigError(f"device={wanted} is no device: use auto, cpu, cuda, cuda:1 or balanced") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ConfigError(f"device={wanted}, but torch finds {count} GPUs: set device=auto or device=cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device=mps is Apple's, and torch finds none here: set device=auto or device=cpu")
    return wanted, None


def gpus_of(device: str, places: Mapping[str, int | str] | None = None) -> tuple[int, ...]:
    """The numbers of the GPUs that a model stands on: those of its map of `places`, else of its device ("balanced": all of them)."""
    if places:
        devices = {f"cuda:{place}" if isinstance(place, int) else place for place in places.values()}
        return tuple(sorted({number for one in devices for number in gpus_of(one)}))
    if device == "balanced":
        return tuple(range(torch.cuda.device_count()))
    return (int(device.partition(":")[2] or 0),) if device.startswith("cuda") else ()


def weakest(gpus: Sequence[int]) -> tuple[str, tuple[int, int]]:
    """The name and the compute capability of the least capable of some GPUs: what it cannot do, a model that stands on all cannot."""
    index = min(gpus, key=torch.cuda.get_device_capability)
    return torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)


def choose_dtype(
    wanted: str, device: str, parameters: int | None = None, gpus: Sequence[int] | None = None
) -> tuple[torch.dtype, str | None]:
    """The number type of a model of so many `parameters`, and a note with the reason of an automatic choice or the cost of a wanted one.

    `gpus`: those that it stands on, where they are not its device's.
    """
    gpus = gpus or gpus_of(device)
    if not gpus:
        return _choose_without_gpu(wanted, device, parameters)
    name, capability = weakest(gpus)
    has_bf16 = capability >= (8, 0)
    if wanted == "auto":
        if has_bf16:
            return torch.bfloat16, f"bf16: {name} (compute {capability[0]}.{capability[1]}) computes in it"
        return torch.float16, f"fp16: {name} (compute {capability[0]}.{capability[1]}) has no bf16"
    if wanted == "bf16" and not has_bf16:
        return torch.bfloat16, f"bf16 as asked, but {name} only emulates it, slowly: dtype=fp16 is faster"
    return DTYPES[wanted], None


def _choose_without_gpu(wanted: str, device: str, parameters: int | None) -> tuple[torch.dtype, str | None]:
    has_bf16 = cpu_bf16() if device == "cpu" else None
    if wanted == "bf16" and device == "cpu" and not has_bf16:
        return torch.bfloat16, "bf16 as asked, but this CPU has no bf16 instructions: dtype=fp32 is faster"
    if wanted != "auto":
        return DTYPES[wanted], None
    if device != "cpu" or parameters is None:
        return torch.float32, f"fp32: exact and repeatable on {device}"
    if parameters < SMALL:
        return torch.float32, f"fp32: {parameters / 1e6:.1f} M parameters gain nothing from bf16, and fp32 is exact"
    if has_bf16:
        return torch.bfloat16, f"bf16: this CPU computes in it ({has_bf16}), which is faster; dtype=fp32 for exact repetition"
    return torch.float32, "fp32: this CPU has no bf16 instructions"


def cpu_bf16() -> str | None:
    """The instructions with which this CPU multiplies matrices of bf16, or None where there are none or nobody can tell."""
    names = {"amx_bf16": "AMX-BF16", "avx512_bf16": "AVX512-BF16"}
    try:
        has = torch.cpu.get_capabilities()
    except Exception:  # an older torch has it not, and not every platform answers
        has = dict.fromkeys(_cpu_flags(), True)
    return next((text for name, text in names.items() if has.get(name)), None)


def _cpu_flags() -> list[str]:
    """The features that Linux names for the first core."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])


def choose_attention(
    wanted: str, device: str, dtype: torch.dtype, architecture: Architecture | None = None, gpus: Sequence[int] | None = None
) -> tuple[str, str | None]:
    """The attention implementation, with the reason where it is not the usual one; what the model's class or the device has not is refused.

    Without an `architecture` every implementation counts as there. `gpus`: those of the model, where they are not its device's.
    """
    if wanted == "auto":
        if architecture is None or "sdpa" in architecture.attentions:
            return "sdpa", None
        return "eager", f"attention eager: {architecture.why_no_sdpa}"
    if architecture is not None and wanted not in architecture.attentions:
        usable = ", ".join(architecture.attentions)
        raise ConfigError(f"attention={wanted}, but {architecture.name} supports {usable} only: set attention=auto, or one of these")
    instead = "auto" if architecture is not None and "sdpa" not in architecture.attentions else "sdpa"
    if wanted == "flash_attention_2":
        gpus = gpus or gpus_of(device)
        if not gpus or weakest(gpus)[1] < (8, 0):
            where = weakest(gpus)[0] if gpus else device
            raise ConfigError(f"attention=flash_attention_2 needs a GPU of compute 8.0 or newer, not {where}: set attention={instead}")
        if dtype == torch.float32:
            remedy = f"set attention={instead} or dtype=bf16"
            raise ConfigError(f"attention=flash_attention_2 needs dtype bf16 or fp16, and dtype is fp32: {remedy}")
        if importlib.util.find_spec("flash_attn") is None:
            raise ConfigError(f"attention=flash_attention_2 needs the package flash-attn: install it or set attention={instead}")
    return wanted, None


def parameters_of(folder: Path) -> int:
    """Numbers in a folder's weight files, from their headers. Raises ConfigError where files are missing."""
    return sum(prod(shape) for shape in tensor_shapes(folder).values())


# -- what this job may use of the machine -------------------------------------------------------------------------------


def free_memory(device: str) -> int:
    """Free bytes of a device: of the card (all cards: "balanced"), or of the main memory that this job may have."""
    if device == "balanced":
        return sum(free_memory(f"cuda:{index}") for index in range(torch.cuda.device_count()))
    if device.startswith("cuda"):
        free: int = torch.cuda.mem_get_info(device)[0]
        # What torch holds but does not use is free for this program.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil

    return max(0, min([int(psutil.virtual_memory().available), *_cgroup_memory()]))


def usable_cores() -> int:
    """Cores that this job may use: the least of what affinity, the control group's quota and Slurm allow; at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    limits = [affinity, *_cgroup_cores(), *([int(slurm)] if slurm.isdecimal() else [])]
    return max(1, min(limits))


def _cgroup_cores() -> list[int]:
    """Cores by the quotas of the control groups that this job stands in, parts of a core rounded up."""
    quotas = [(_words(folder / "cpu.max") or ["max"]) for folder in _cgroups("")]
    for folder in [*_cgroups("cpu"), *_cgroups("cpu,cpuacct")]:
        quotas.append([*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")])
    pairs = [(int(words[0]), int(words[1])) for words in quotas if len(words) == 2 and words[0].isdecimal() and words[1].isdecimal()]
    return [max(1, ceil(quota / period)) for quota, period in pairs if quota > 0 and period > 0]


def _cgroup_memory() -> list[int]:
    """Bytes left under the memory limits of the control groups that this job stands in. Cached files count as free."""
    files = [(folder, "memory.max", "memory.current", "inactive_file") for folder in _cgroups("")]
    files += [(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file") for folder in _cgroups("memory")]
    left = []
    for folder, limit, usage, cached in files:
        most, used = (next(iter(_words(folder / name)), "") for name in (limit, usage))
        if most.isdecimal() and used.isdecimal():
            stat = _words(folder / "memory.stat")
            reclaimable = int(stat[stat.index(cached) + 1]) if cached in stat else 0
            left.append(int(most) - int(used) + reclaimable)
    return left


def _cgroups(controller: str) -> list[Path]:
    """The folders of a controller's groups from this job's up to the root; "" is the one tree of version 2."""
    place = "/"
    for line in _lines(MEMBERSHIP):
        parts = line.split(":", 2)
        if len(parts) == 3 and parts[1] == controller:
            place = parts[2]
    root = CGROUPS / controller
    # Inside a container the path may be that of the machine outside, of which only the root is seen here.
    return [folder for folder in [root / place.strip("/"), *(root / place.strip("/")).parents] if folder.is_relative_to(root)]


def _words(file: Path) -> list[str]:
    return [word for line in _lines(file) for word in line.split()]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return []
