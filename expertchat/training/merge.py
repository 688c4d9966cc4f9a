"""`expertchat merge`: trained weights and their base become one model, in the published layout, checked before it gets its name."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import GenerationConfig

from expertchat.backends.adapters import Adapters
from expertchat.backends.folders import find_folder, settings_of
from expertchat.backends.gguf import header, is_gguf
from expertchat.backends.hardware import DTYPES as DTYPES_OF
from expertchat.backends.linear_experts import published_config
from expertchat.backends.loading import gib_of, weight_files
from expertchat.backends.quantization import saved_kind
from expertchat.backends.trained import into_base, work_in
from expertchat.backends.unpacking import unpacked
from expertchat.backends.weights import Loaded, load_weights
from expertchat.config import ConfigError
from expertchat.folder.writing import saving
from expertchat.text.sentences import shown_path
from expertchat.training.card import merged_card
from expertchat.training.merge_config import MergeConfig
from expertchat.training.source import Source, find_source

TOLERANCE = {"fp32": 1e-3, "fp16": 0.05, "bf16": 0.1}  # of the logits' spread; what rounding may do to them in so many layers
DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "F32": "fp32", "BF16": "bf16", "F16": "fp16"}
TEXT = "Tides rise and fall twice a day because the Moon pulls at the sea. What else should be said about them, and what is missing?"
# Beside the weights: whatever makes the tokenizer, the chat template and the licence, copied as they are.
KEPT = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "tekken.json", "chat_template*",
    "generation_config.json", "LICENSE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip


@dataclass(frozen=True)
class Merged:
    """What was written. Differences are those of the logits over their spread, the median over the tokens of a short text."""

    out: Path
    source: Path
    base: str
    dtype: str
    gib: float
    difference: float  # the written model against base and adapter
    effect: float  # base and adapter against the base alone
    notes: tuple[str, ...]


def run_merge(config: MergeConfig, tell: Callable[[str], None] = lambda text: None) -> Merged:
    """Merge, write, check, and only then give the folder its name. `tell` hears what goes on. Raises ConfigError."""
    out = _new_folder(config.out)
    source = find_source(config)
    folder = find_folder(source.base, source.revision, models_dir=config.models_dir)
    if kind := saved_kind(settings_of(folder)):
        raise ConfigError(
            f"base {source.base}: its files hold {kind} weights, into which nothing can be merged exactly; name its unquantised weights "
            "with base=PATH"
        )
    dtype = own_dtype(folder, source.base) if config.dtype == "auto" else config.dtype
    if is_gguf(folder):
        folder = unpacked(folder, DTYPES_OF[dtype], source.base)[0]
    tell(f"loading {shown_path(source.base)} in {dtype}")
    loaded = load_weights(folder, source.base, dtype=dtype, device=config.device, linear_experts=True if source.learnt.adapter else None)
    for below in [*source.learnt.layers][:-1]:
        work_in(loaded.model, below, source.base)
    ids_T = loaded.tokenizer(TEXT, return_tensors="pt")["input_ids"][0]
    base_T_V = logits(loaded.model, ids_T)
    model, wanted_T_V = _trained(loaded, source, ids_T)
    effect = spread(base_T_V, wanted_T_V)
    tell(f"writing {out}")
    with saving(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-", ignore_cleanup_errors=True)
    with scratch as work:
        place = Path(work) / "model"
        with saving(out):
            write(model, folder, place)
            (place / "README.md").write_text(merged_card(source.base, source.folder, dtype), "utf-8")
        del model, loaded
        gc.collect()
        tell("reading it again and comparing its logits")
        again = load_weights(place, str(out), dtype=dtype, device=config.device)
        difference = spread(logits(again.model, ids_T), wanted_T_V)
        del again
        if not difference <= TOLERANCE[dtype]:  # nan is not
            raise ConfigError(
                f"the merged weights do not answer as the base with {source.folder} does: their logits differ by {difference:.2g} of the "
                f"spread, more than {TOLERANCE[dtype]:g}; nothing was written. Set dtype=fp32"
            )
        size = gib_of(weight_files(place))
        with saving(out):
            os.replace(place, out)
    notes = _notes(source, dtype, difference, effect)
    return Merged(out, source.folder, source.base, dtype, size, difference, effect, tuple(notes))


# -- what is merged -----------------------------------------------------------------------------------------------------


def own_dtype(folder: Path, name: str) -> str:
    """The number type that a model's config.json names, else that of its largest tensor; bf16 for what a GGUF file quantises.

    Raises ConfigError unless it is fp32, bf16 or fp16.
    """
    if is_gguf(folder):
        return DTYPES.get(header(folder).kind, "bf16")
    settings = settings_of(folder)
    kind = settings.get("dtype") or settings.get("torch_dtype")
    if kind is None:
        with safe_open(weight_files(folder)[0], "pt") as file:
            parts = [file.get_slice(key) for key in file.keys()]  # noqa: SIM118 (no dict)
            kind = max(parts, key=lambda part: torch.Size(part.get_shape()).numel()).get_dtype()
    if kind not in DTYPES:
        raise ConfigError(f"base {name}: its weights are kept in {kind}; say in what they shall be merged: dtype=bf16, fp16 or fp32")
    return DTYPES[kind]


def _trained(loaded: Loaded, source: Source, ids_T: Tensor) -> tuple[Any, Tensor]:
    """The base with the trained weights worked in, and the logits that it must have."""
    if not source.learnt.adapter:
        work_in(loaded.model, source.learnt, source.base)
        return loaded.model, logits(loaded.model, ids_T)
    adapters = Adapters(loaded.model)
    adapters.load("trained", source.folder)
    wanted_T_V = logits(loaded.model, ids_T)
    return into_base(adapters, source.folder), wanted_T_V


# -- writing and checking -----------------------------------------------------------------------------------------------


def write(model: Any, base: Path, place: Path) -> None:
    """The model in the layout in which it is published, and beside it what the base's folder has for tokenizer and templates."""
    published = published_config(model.config)
    model.generation_config = GenerationConfig()  # the published ones do not always pass transformers' own checks; the file is copied
    model.save_pretrained(place)
    (place / "generation_config.json").unlink(missing_ok=True)
    published.save_pretrained(place)
    for pattern in KEPT:
        for file in base.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, place / file.name)


def logits(model: Any, ids_T: Tensor) -> Tensor:
    """Of every token of a text, fp32, on the CPU."""
    with torch.inference_mode():
        found_T_V: Tensor = model(ids_T[None].to(model.get_input_embeddings().weight.device)).logits[0].float().cpu()
    return found_T_V


def spread(found_T_V: Tensor, wanted_T_V: Tensor) -> float:
    """How far logits are off, over how far the wanted ones spread; the median over the tokens, because a mixture of experts may well send
    one of them elsewhere for a rounding error."""
    width_T = (wanted_T_V - wanted_T_V.mean(-1, keepdim=True)).norm(dim=-1)
    return float(((found_T_V - wanted_T_V).norm(dim=-1) / width_T).median())


def _new_folder(path: str) -> Path:
    out = Path(path).expanduser()
    if out.is_dir() and not any(out.iterdir()):
        return out
    if out.exists():
        raise ConfigError(f"out={path}: is there already; name a new folder")
    return out


def _notes(source: Source, dtype: str, difference: float, effect: float) -> list[str]:
    notes = []
    if source.quantization != "none":
        notes.append(
            f"the run had {shown_path(source.base)} with quantization={source.quantization}: the adapter is merged into unquantised "
            f"weights, {dtype}"
        )
    if effect and difference > effect / 2:
        notes.append(
            f"rounding to {dtype} changes the logits by {difference:.2g}, the adapter by {effect:.2g} of their spread: much of it is lost; "
            "dtype=fp32 keeps it"
        )
    return notes
