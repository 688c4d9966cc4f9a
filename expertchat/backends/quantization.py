"""Which numbers a model's weights are kept in: the choice with its reason, and whether it really came about."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from expertchat.backends.hardware import free_memory, gpus_of, weakest
from expertchat.config import ConfigError

Kind = Literal["none", "nf4", "int8"]
GIB = 2**30
_ROOM = 1.25  # beside the weights: cache, activations and what the allocator loses
_CLASSES = {"Params4bit": "nf4", "Int8Params": "int8"}
_DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class Card:
    """What the choice depends on. `capability`: CUDA compute capability, None elsewhere; `free`: bytes for weights, None if unknown."""

    name: str
    capability: tuple[int, int] | None = None
    free: int | None = None


def find_card(device: str, gpus: Sequence[int] | None = None) -> Card:
    """The card behind "cpu", "mps", "cuda:1" or "balanced" (all GPUs), or the `gpus` that a model stands on: their memory together, the
    least capability among them."""
    gpus = gpus or gpus_of(device)
    if gpus:
        names = sorted({torch.cuda.get_device_name(i) for i in gpus})
        count = f"{len(gpus)} x " if len(gpus) > 1 else ""
        return Card(count + ", ".join(names), weakest(gpus)[1], sum(free_memory(f"cuda:{i}") for i in gpus))
    return Card(device, None, free_memory(device))


def choose_quantization(wanted: str, card: Card, full_bytes: int, saved: str | None = None) -> tuple[Kind, str | None]:
    """What the weights are kept in, with the reason. Raises ConfigError where the card cannot do what is wanted.

    `full_bytes`: the weights in the number type that was chosen; `saved`: what the folder holds its weights in already, if quantised.
    """
    if saved:
        if saved not in ("nf4", "int8"):
            raise ConfigError(f"the folder holds its weights in {saved}, which is not loaded: name one with plain, nf4 or int8 weights")
        if wanted not in ("auto", saved):
            raise ConfigError(f"quantization={wanted}, but the folder holds its weights in {saved}: set quantization={saved}, or auto")
        wanted = saved
    kind, note = _by_size(card, full_bytes) if wanted == "auto" else (wanted, None)
    lacking = importlib.util.find_spec("bitsandbytes") is None
    if wanted == "auto" and kind != "none" and lacking:
        kind, note = "none", "not quantised: the package bitsandbytes is not installed"
    if kind == "none":
        return "none", note
    if lacking:
        raise ConfigError(f"quantization={kind} needs the package bitsandbytes: pip install bitsandbytes, or set quantization=none")
    if kind == "int8" and card.capability is not None and card.capability < (7, 5):
        raise ConfigError(
            f"quantization=int8 needs a GPU of compute 7.5 or newer (LLM.int8), and {card.name} has "
            f"{card.capability[0]}.{card.capability[1]}: set quantization=nf4"
        )
    return ("nf4" if kind == "nf4" else "int8"), f"{kind}: the folder holds its weights in it" if saved else note


def _by_size(card: Card, full_bytes: int) -> tuple[Kind, str]:
    size = _size(full_bytes)
    if card.free is None:
        return "none", f"not quantised: the free memory of {card.name} is not known"
    free = f"{_size(card.free)} free on {card.name}"
    if full_bytes * _ROOM <= card.free:
        return "none", f"not quantised: its {size} fit into the {free}"
    return "nf4", f"nf4: its {size} and a quarter more for the work do not fit into the {free}"


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"


def bits_config(kind: Kind, compute: torch.dtype) -> BitsAndBytesConfig | None:
    """What transformers needs to load in `kind`; nf4 with double quantisation (Dettmers et al. 2023, arXiv 2305.14314)."""
    if kind == "none":
        return None
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute)


def saved_kind(config: dict[str, Any]) -> str | None:
    """What a config.json says its folder's weights are quantised in: nf4, int8, another method's name, or None."""
    saved = config.get("quantization_config")
    if not isinstance(saved, dict):
        return None
    if saved.get("load_in_4bit"):
        return str(saved.get("bnb_4bit_quant_type", "fp4"))
    return "int8" if saved.get("load_in_8bit") else str(saved.get("quant_method", "unknown"))


def settle(model: Any, kind: Kind, name: str) -> None:
    """Make sure that every weight that should be is quantised, and that quantised layers compute exactly and pass gradients on the CPU.

    Raises ConfigError that names what stayed as it was.
    """
    plain = unquantised(model, kind)
    if plain:
        size = sum(p.numel() * p.element_size() for p in plain.values())
        raise ConfigError(
            f"model {name}: quantization={kind} left {len(plain)} weights as they were ({next(iter(plain))}, ...: {_size(size)}), "
            "because they are no plain linear layers: set quantization=none"
        )
    compute_exactly(model)


def compute_exactly(model: Any) -> None:
    """Let quantised layers compute exactly and pass gradients on the CPU."""
    for module in model.modules():
        # The packed layout for AVX512-BF16 rounds to bf16 whatever the dtype, and gradients end in it without an error.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def unquantised(model: Any, kind: Kind) -> dict[str, nn.Parameter]:
    """Weights of linear layers and fused (3-D) weights that are not kept in `kind`; the output layer does not count."""
    head = model.get_output_embeddings()
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    found = {}
    for path, module in model.named_modules():
        if module is head or isinstance(module, convolutions):
            continue
        for leaf, parameter in module.named_parameters(recurse=False):
            linear = isinstance(module, nn.Linear) and leaf == "weight"
            if (linear or parameter.ndim >= 3) and _CLASSES.get(type(parameter).__name__) != kind:
                found[f"{path}.{leaf}".lstrip(".")] = parameter
    return found


def footprint(model: Any) -> dict[str, int]:
    """Bytes of a model's tensors by kind: fp32, bf16, fp16, nf4, int8, "quantisation state", "adapters", "buffers"; shared ones once."""
    sizes: Counter[str] = Counter()
    seen: set[int] = set()

    def add(kind: str, tensor: Any) -> None:
        if isinstance(tensor, torch.Tensor) and id(tensor) not in seen:
            seen.add(id(tensor))
            sizes[kind] += tensor.numel() * tensor.element_size()

    for path, parameter in model.named_parameters():
        quantised = _CLASSES.get(type(parameter).__name__)
        kind = quantised or ("adapters" if ".lora_" in path else _DTYPES.get(parameter.dtype, str(parameter.dtype)))
        add(kind, parameter)
        state = getattr(parameter, "quant_state", None)
        for part in (state, getattr(state, "state2", None)):
            for tensor in (getattr(part, "absmax", None), getattr(part, "code", None), getattr(part, "offset", None)):
                add("quantisation state", tensor)
        add("quantisation state", getattr(parameter, "SCB", None))
    for buffer in model.buffers():
        add("buffers", buffer)
    return dict(sizes)


def footprint_note(model: Any) -> str:
    """One line, the largest part first: "22.8 GiB: nf4 21.1, quantisation state 0.7, bf16 1.0"."""
    parts = sorted(footprint(model).items(), key=lambda part: -part[1])
    total = sum(size for _, size in parts)
    unit = GIB if total >= GIB / 10 else 2**20
    shown = ", ".join(f"{kind} {size / unit:.1f}" for kind, size in parts if size >= unit / 20)
    return f"{_size(total)}: {shown}"
