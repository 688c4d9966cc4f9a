"""Whether a model folder holds what its config.json says: every tensor of the architecture in its size, and a tokenizer that can chat."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from expertchat.backends.architecture import find_architecture
from expertchat.backends.folders import settings_of, tensor_shapes
from expertchat.backends.layouts import BLOCK, experts_of, has_linear_experts
from expertchat.backends.rendering import Renderer
from expertchat.config import ConfigError
from expertchat.text.sentences import first_line

Shapes = dict[str, tuple[int, ...]]
_QUANTISED = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".quant_state.bitsandbytes__nf4", ".SCB", ".weight_format")


def tensors_problem(folder: Path) -> str | None:
    """What the weight files of a checked folder lack, or None. Compares their headers with the model on the meta device."""
    logging.set_verbosity_error()
    there, found = tensor_shapes(folder), find_architecture(folder)
    if isinstance(found, str):
        return found
    config = found.config
    try:
        wanted, optional = _wanted(config, there)
    except Exception as error:  # whatever a broken config.json makes transformers raise
        return f"its config.json describes no model that transformers can build ({first_line(error)}); correct it, or download it again"
    quantised = getattr(config, "quantization_config", None) is not None
    missing = sorted(set(wanted) - set(there) - optional)
    if missing:
        return f"lacks {len(missing)} of {len(wanted)} tensors ({missing[0]}{', ...' if len(missing) > 1 else ''}); download it again"
    odd = [] if quantised else sorted(name for name in set(wanted) & set(there) if wanted[name] != there[name])
    if odd:
        sizes = f"{list(there[odd[0]])} and not {list(wanted[odd[0]])}"
        return f"{len(odd)} tensors have another size than config.json says ({odd[0]}: {sizes}); the files do not belong together"
    unknown = sorted(name for name in set(there) - set(wanted) - optional if not name.endswith(("inv_freq", *_QUANTISED)))
    if unknown:
        return f"holds {len(unknown)} tensors that its config.json has no place for ({unknown[0]}); the files do not belong together"
    return None


def _wanted(config: Any, there: Shapes) -> tuple[Shapes, set[str]]:
    """The tensors of the architecture in the layout of the folder, and those that may be left out because they are tied to another."""
    import torch

    experts = experts_of(config.model_type)
    if experts and any(re.search(r"\.experts\.\d+\.", name) for name in there) and not has_linear_experts(config.model_type):
        from expertchat.backends.linear_experts import linear_config

        config = linear_config(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    own, published = f".{BLOCK}.", f".{experts.block}." if experts else ""
    block = published if published and any(published in name for name in there) else own
    shapes = {name.replace(own, block): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = set(getattr(model, "all_tied_weights_keys", None) or ()) if getattr(config, "tie_word_embeddings", False) else set()
    return shapes, tied


def tokenizer_problem(folder: Path) -> str | None:
    """Why a folder's tokenizer cannot be used for chats, or None."""
    logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # whatever a broken tokenizer file raises
        return f"its tokenizer cannot be loaded ({first_line(error)}); download the model again"
    if not tokenizer.chat_template:
        return "its tokenizer has no chat template: this is a base model; take its instruct version, or add a chat_template.jinja"
    try:
        Renderer(tokenizer, folder.name)
    except ConfigError as error:
        return error.problems[0].partition(": ")[2]
    rows = settings_of(folder).get("vocab_size")
    if isinstance(rows, int) and tokenizer.vocab_size > rows:  # added tokens that no chat makes do no harm: they are tried out at load
        return f"its tokenizer has {tokenizer.vocab_size} tokens, but the model has embeddings for {rows} only; they do not belong together"
    return None
