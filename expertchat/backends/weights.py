"""From a checked model folder to a model and its tokenizer on their device."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from expertchat.backends.hardware import choose_attention, choose_device, choose_dtype
from expertchat.config import ConfigError


class Loaded(NamedTuple):
    """A model in evaluation form, its tokenizer, and the automatic choices with their reasons."""

    model: Any
    tokenizer: Any
    notes: tuple[str, ...]


def load_weights(folder: Path, name: str, *, dtype: str = "auto", device: str = "auto", attention: str = "auto") -> Loaded:
    """Load a checked model folder. Raises ConfigError with one message."""
    where, device_note = choose_device(device)
    number, dtype_note = choose_dtype(dtype, where)
    kind, attention_note = choose_attention(attention, where, number)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        both: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=number,
            device_map="balanced" if where == "balanced" else None,
            attn_implementation=kind,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except torch.cuda.OutOfMemoryError:
        raise ConfigError(f"model {name}: does not fit into the memory of {where}; set device=balanced or a smaller model") from None
    except Exception as error:  # whatever a broken folder makes the loaders raise, the user gets one message
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(f"model {name} ({folder}): cannot be loaded: {lines[0]}; download it again or name another model") from None
    model, report = both
    missing = sorted(report.get("missing_keys", ()))
    if missing:
        raise ConfigError(
            f"model {name} ({folder}): its weights lack {len(missing)} tensors ({missing[0]}, ...); "
            "they do not belong to its config.json: download it again"
        )
    if where != "balanced":
        model.to(where)
    return Loaded(model.eval(), tokenizer, tuple(note for note in (device_note, dtype_note, attention_note) if note))
