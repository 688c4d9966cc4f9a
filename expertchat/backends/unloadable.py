"""Why a model could not be loaded, in one message each: what is wrong with its folder, with this machine, or with an option."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import __version__ as version

from expertchat.backends.folders import folder_problem
from expertchat.backends.wholeness import tensors_problem
from expertchat.text.sentences import first_line


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or in main memory."""
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def tokenizer_failure(error: Exception) -> str:
    """Why a tokenizer could not be loaded, and what to do."""
    if isinstance(error, ImportError):
        return f"its tokenizer cannot be loaded: it needs a package that is not here ({first_line(error)}): install it"
    if isinstance(error, PermissionError):
        return f"its tokenizer cannot be loaded: {error.filename or 'a file'} may not be read: correct its permissions"
    return f"its tokenizer cannot be loaded ({first_line(error)}): download its tokenizer files again"


def weights_failure(error: Exception, folder: Path, where: str, options: Mapping[str, str]) -> str:
    """Why the weights could not be loaded to the device `where`, and what to do; `options`: how they were asked for, by their keys.

    That the folder is to be downloaded again is said only where it is not whole.
    """
    line = first_line(error)
    if out_of_memory(error):
        return f"does not fit into the memory of {where}; set quantization=nf4, device=balanced or a smaller model"
    if isinstance(error, PermissionError):
        return f"cannot be loaded: {error.filename or 'a file'} may not be read: correct its permissions"
    if isinstance(error, ImportError):
        return f"cannot be loaded: it needs a package that is not here ({line}): install it"
    problem = folder_problem(folder) or tensors_problem(folder)
    if problem:
        return f"cannot be loaded: {problem}"
    if isinstance(error, OSError):
        return f"cannot be loaded: {line}: check the disk that it lies on"
    if "CUDA" in str(error) or type(error).__name__ == "AcceleratorError":
        return f"cannot be loaded: the device {where} fails ({line}): name another one, or set device=cpu"
    asked = ", ".join(f"{key}={value}" for key, value in options.items())
    return f"cannot be loaded: {line}; its folder is whole, so one of {asked}, transformers {version} does not fit: change that"


def pass_failure(error: Exception, model: Any) -> str:
    """Why a loaded model cannot be run, and what to do."""
    said = f"{type(error).__name__}: {first_line(error)}"
    if getattr(model, "quantization_method", None) is not None:
        return f"{said}; its layers do not suit the quantization: set quantization=none"
    return f"{said}; its config.json does not fit its weights, or not transformers {version}: update it, or name another model"
