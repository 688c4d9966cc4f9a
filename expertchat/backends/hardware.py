"""Device, number type and attention for a model, chosen by what the machine has, each with its reason."""

from __future__ import annotations

import importlib.util

import torch

from expertchat.config import ConfigError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
    return wanted, None


def choose_dtype(wanted: str, device: str) -> tuple[torch.dtype, str | None]:
    """The number type and a note with the reason of an automatic choice or the cost of a wanted one."""
    on_gpu = device.startswith("cuda") or device == "balanced"
    if not on_gpu:
        if wanted == "auto":
            return torch.float32, f"fp32: exact and repeatable on {device}"
        return DTYPES[wanted], None
    index = int(device.partition(":")[2] or 0) if device != "balanced" else 0
    name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
    has_bf16 = capability >= (8, 0)
    if wanted == "auto":
        if has_bf16:
            return torch.bfloat16, f"bf16: {name} (compute {capability[0]}.{capability[1]}) computes in it"
        return torch.float16, f"fp16: {name} (compute {capability[0]}.{capability[1]}) has no bf16"
    if wanted == "bf16" and not has_bf16:
        return torch.bfloat16, f"bf16 as asked, but {name} only emulates it, slowly: dtype=fp16 is faster"
    return DTYPES[wanted], None


def choose_attention(wanted: str, device: str, dtype: torch.dtype) -> tuple[str, str | None]:
    """The attention implementation; flash attention 2 is refused where it cannot run."""
    if wanted == "auto":
        return "sdpa", None
    if wanted == "flash_attention_2":
        on_gpu = device.startswith("cuda") or device == "balanced"
        if not on_gpu or torch.cuda.get_device_capability() < (8, 0):
            raise ConfigError(f"attention=flash_attention_2 needs a GPU of compute 8.0 or newer, not {device}: set attention=sdpa")
        if dtype == torch.float32:
            raise ConfigError("attention=flash_attention_2 needs dtype bf16 or fp16, and dtype is fp32: set attention=sdpa or dtype=bf16")
        if importlib.util.find_spec("flash_attn") is None:
            raise ConfigError("attention=flash_attention_2 needs the package flash-attn: install it or set attention=sdpa")
    return wanted, None
