"""From a checked GGUF file to a folder as transformers publishes models: safetensors in the machine's number type, tokenizer, template.

The folder is kept: measured on a busy machine, SmolLM2-135M took 37 s to unpack (10 of them its tokenizer) and 0.4 s to load again. And
every way in which a model is loaded, split, quantised, merged or served then takes a GGUF file like any other.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from expertchat.backends.folders import folder_problem
from expertchat.backends.gguf import header, lacks_package
from expertchat.backends.packaged import cache_dir, kept, sha256
from expertchat.config import ConfigError
from expertchat.folder.writing import saving
from expertchat.text.sentences import first_line

NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
FORM = 1  # of what is kept; another number unpacks anew


def is_unpacked(file: Path) -> bool:
    """Whether a file was unpacked before, in some number type."""
    return any(cache_dir().glob(f"{_stem(file)}-*/expertchat.json"))


def unpacked(file: Path, number: torch.dtype, name: str) -> tuple[Path, str]:
    """The folder with the file's weights in `number`, and a note on it. Raises ConfigError with one message."""
    found, kind = header(file), NAMES[number]
    about = {"file": file.name, "bytes": file.stat().st_size, "sha256": sha256(file), "dtype": kind, "kept in": found.kind, "form": FORM}
    folder = kept(f"{_stem(file)}-{kind}", about, lambda place: _unpack(file, number, name, place))
    problem = folder_problem(folder)
    if problem:
        raise ConfigError(f"model {name}: its unpacked copy {folder}: {problem.partition(';')[0]}; remove that folder, it is made again")
    return folder, (
        f"GGUF file of {file.stat().st_size / 1e6:,.1f} MB (SHA-256 {sha256(file)[:16]}): {found.parameters / 1e6:,.0f} M parameters kept "
        f"in {found.kind}, unpacked to {kind}; the copy is kept in the user's cache, because unpacking takes the longest"
    )


def _stem(file: Path) -> str:
    return f"{file.stem}-{sha256(file)[:16]}-{FORM}"


def _unpack(file: Path, number: torch.dtype, name: str, place: Path) -> None:
    if problem := lacks_package():
        raise ConfigError(f"model {name}: {problem}")
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    where: dict[str, Any] = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name, "local_files_only": True}
    # Else the weights stay packed: they cannot be saved, and every product unpacks them.
    whole: dict[str, Any] = {"quantization_config": transformers.GgufConfig(dequantize=True)} if hasattr(transformers, "GgufConfig") else {}
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(**where)
            both: Any = AutoModelForCausalLM.from_pretrained(**where, **whole, dtype=number, output_loading_info=True)
    except Exception as error:  # whatever a broken file makes the reader raise, the user gets one message
        why = f"{file.name} cannot be unpacked: {first_line(error)}"
        raise ConfigError(f"model {name}: {why}; download it again or take another file") from None
    model, report = both
    if missing := sorted(report.get("missing_keys", ())):
        raise ConfigError(f"model {name}: {file.name} lacks {len(missing)} tensors of the model ({missing[0]}, ...); download it again")
    _take_facts(file, model, tokenizer)
    with saving(place):
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)


def _take_facts(file: Path, model: Any, tokenizer: Any) -> None:
    """What the file says and transformers does not take over by itself."""
    found = header(file)
    if found.end_ids:
        model.generation_config.eos_token_id = list(found.end_ids)
    if template := found.values.get("tokenizer.chat_template"):
        tokenizer.chat_template = template
    if length := found.of("context_length"):
        model.config.max_position_embeddings = tokenizer.model_max_length = int(length)
    model.config.name_or_path = file.stem
    if getattr(model.config, "quantization_config", None) is not None:
        del model.config.quantization_config  # the weights are plain ones now


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the reader's warnings and its progress bar off the screen."""
    from transformers import modeling_gguf_pytorch_utils as reader

    level, bar = logging.root.manager.disable, getattr(reader, "tqdm", None)
    logging.disable(logging.WARNING)
    reader.tqdm = lambda items, **_: items  # type: ignore[assignment]
    try:
        yield
    finally:
        reader.tqdm = bar
        logging.disable(level)
