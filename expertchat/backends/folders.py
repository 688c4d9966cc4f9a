"""Where a model is: embedded, a local folder, or the Hugging Face cache; and whether its folder is whole. No torch here."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from expertchat.backends import gguf
from expertchat.backends.packaged import PREFIX, packaged
from expertchat.config import ConfigError, conf_dir, near
from expertchat.text.sentences import first_line

EMBEDDED = Path(__file__).resolve().parents[1] / "world" / "models"
Check = Callable[[Path], str | None]
_HUB_ID = re.compile(r"[\w.-]{1,96}(?:/[\w.-]{1,96})?")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
_WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.md"]
_UNWANTED = ["original/*", "consolidated*", "onnx/*", "openvino/*", "*.gguf"]


def resolve_path(path: str | Path, models_dir: str | None = None) -> Path | str:
    """A folder or GGUF file (or "embedded:NAME", "package:NAME/FILE") as a Path, everything else as the hub id that it is taken for.

    A folder without a config.json, but with one GGUF file, is that file. Raises ConfigError.

    `models_dir`: the folder that is searched for a hub id's last part.
    """
    text = str(path)
    if text.startswith("embedded:"):
        name = text.removeprefix("embedded:")
        folder = EMBEDDED / name
        if not re.fullmatch(r"\w+", name) or not folder.is_dir():
            there = sorted(entry.name for entry in EMBEDDED.glob("*") if entry.is_dir()) if EMBEDDED.is_dir() else []
            known = f"there are {', '.join(there)}" if there else "the package holds none: run `expertchat world build`"
            raise ConfigError(f"model path {text}: no such embedded model ({known})")
        return folder
    folder = packaged(text) if text.startswith(PREFIX) else Path(text).expanduser()
    if folder.is_dir():
        return gguf.only_file(folder, text) or folder
    if folder.is_file() and folder.suffix == ".gguf":
        return folder
    if folder.is_file():
        raise ConfigError(f"model path {text}: is a file; name a GGUF file, or the folder that holds config.json and *.safetensors")
    looks_local = text.startswith((".", "/", "~")) or text.endswith(("/", ".gguf"))
    if looks_local or not _HUB_ID.fullmatch(text):
        kind = "file" if text.endswith(".gguf") else "folder"
        looked = "" if folder.is_absolute() and str(folder) == text else f" (looked in {folder.absolute()})"
        raise ConfigError(f"model path {text}: no such {kind}{looked}; correct it, or name a hub id OWNER/NAME")
    beside = Path(models_dir).expanduser() / text.rpartition("/")[2] if models_dir else None
    return gguf.only_file(beside, str(beside)) or beside if beside is not None and beside.is_dir() else text


def is_hub_id(path: str, models_dir: str | None = None) -> bool:
    """Whether a path can only be found on the hub or in its cache."""
    if models_dir and (Path(models_dir).expanduser() / path.rpartition("/")[2]).is_dir():
        return False
    return not path.startswith(("embedded:", PREFIX, "/", ".", "~")) and not path.endswith(".gguf") and not Path(path).exists()


def find_folder(path: str | Path, revision: str | None = None, check: Check | None = None, models_dir: str | None = None) -> Path:
    """The checked local folder, or GGUF file, of a model; a hub id comes from `models_dir` or the cache, or is downloaded.

    Nothing is downloaded where HF_HUB_OFFLINE is set.

    Raises ConfigError with one message that names what was tried and what to do.
    """
    check = check or folder_problem
    here, why = _look(path, revision, check, models_dir)
    if here is not None:
        return here
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    place = str(path)
    if not _has_network():
        raise ConfigError(_missing(place, revision, f"{why}, and {constants.ENDPOINT} cannot be reached"))
    try:
        folder = Path(snapshot_download(place, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ConfigError(_missing(place, revision, f"{why}, and the download failed ({first_line(error)})")) from None
    problem = check(folder)
    if problem:
        raise ConfigError(f"model {place}, downloaded to {folder}: {problem}")
    return folder


def find_here(path: str | Path, revision: str | None = None, check: Check | None = None, models_dir: str | None = None) -> Path | None:
    """The same without the network; None for what may be had from the hub. Raises ConfigError for what cannot be had."""
    return _look(path, revision, check or folder_problem, models_dir)[0]


def _look(path: str | Path, revision: str | None, check: Check, models_dir: str | None) -> tuple[Path | None, str]:
    """What is on this machine, or why it must come from the hub. Raises ConfigError where it is not whole, or nothing may be fetched."""
    place = resolve_path(path, models_dir)
    if isinstance(place, Path):
        problem = check(place)
        if problem:
            raise ConfigError(f"model folder {_shown(path, place)}: {problem}")
        return place, ""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    why = "it is not in the cache"
    try:
        folder = Path(snapshot_download(place, revision=revision, local_files_only=True))
        problem = check(folder)
        if problem is None:
            return folder, ""
        why = f"its copy in the cache is not whole ({problem})"
    except (LocalEntryNotFoundError, FileNotFoundError):
        pass
    if constants.HF_HUB_OFFLINE:
        raise ConfigError(_missing(place, revision, f"{why}, and HF_HUB_OFFLINE is set"))
    return None, why


def cached(hub_id: str, revision: str | None = None) -> Path | None:
    """The folder of a hub id in the hub's cache, or None."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, FileNotFoundError, ValueError):
        return None


def folder_problem(folder: Path) -> str | None:
    """What is wrong with a model folder and what to do, or None. Reads the headers of the weights, not the weights."""
    if gguf.is_gguf(folder):
        return gguf.gguf_problem(folder)
    config = folder / "config.json"
    if not config.is_file():
        return "holds no config.json; name the folder that holds config.json, *.safetensors and the tokenizer"
    if _is_pointer(config):
        return _pointer(config)
    try:
        if not isinstance(json.loads(config.read_text("utf-8")), dict):
            return "config.json is no JSON object; download the model again"
    except ValueError as error:
        return f"config.json is no JSON ({error}); download the model again"
    files, problem = _weight_files(folder)
    if problem:
        return problem
    for file in files:
        problem = weights_problem(file)
        if problem:
            return problem
    found = [folder / name for name in _TOKENIZERS if (folder / name).is_file()]
    if not found:
        return f"holds no tokenizer (none of {', '.join(_TOKENIZERS)}); download the model again"
    return next((_pointer(file) for file in found if _is_pointer(file)), None)


def embedder_problem(folder: Path) -> str | None:
    """Like folder_problem, for a sentence-transformers folder: its parts may stand in folders of their own."""
    if gguf.is_gguf(folder):
        return f"{folder.name} is a GGUF file, which sentence-transformers does not read; name the folder of a sentence embedder"
    if (folder / "config.json").is_file():
        return folder_problem(folder)
    if not (folder / "modules.json").is_file():
        return "holds neither modules.json nor config.json; name the folder of a sentence-transformers model"
    files = [*folder.rglob("*.safetensors")]
    if not files:
        return "holds no *.safetensors; download the model again"
    return next((problem for problem in map(weights_problem, files) if problem), None)


def settings_of(folder: Path) -> dict[str, Any]:
    """What the config.json of a folder says, or what it would say of a GGUF file. Raises ConfigError where it cannot be read."""
    if gguf.is_gguf(folder):
        return gguf.settings(folder)
    try:
        values = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: its config.json cannot be read ({error}); run `expertchat models verify`") from None
    return values if isinstance(values, dict) else {}


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in a folder's weight files, or in a GGUF file, from their headers."""
    if gguf.is_gguf(folder):
        return gguf.shapes(folder)
    files, problem = _weight_files(folder)
    if problem:
        raise ConfigError(f"model folder {folder}: {problem}")
    return {name: shape for file in files for name, shape in _header(file).shapes.items()}


def _weight_files(folder: Path) -> tuple[list[Path], str | None]:
    """The files that hold the weights, and a problem if some are missing."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        if _is_pointer(index):
            return [], _pointer(index)
        try:
            names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            return [], f"{index.name} cannot be read; download the model again"
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            return [], f"lacks {missing[0]}{more} of {len(names)} weight files; download the model again"
        return [folder / name for name in names], None
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"], None
    if any(folder.glob("*.bin")) or any(folder.glob("*.pth")):
        return [], "holds weights in pickle files only, which are not loaded; save the model again as safetensors (model.save_pretrained)"
    return [], "holds no model.safetensors; download the model again"


class _Header(NamedTuple):
    """What the header of a safetensors file says: the shapes of its tensors by name; and what is wrong with the file."""

    shapes: dict[str, tuple[int, ...]]
    problem: str | None = None


def weights_problem(file: Path) -> str | None:
    """What is wrong with a safetensors file, from its header and its size."""
    return _pointer(file) if _is_pointer(file) else _header(file).problem


def header_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in one safetensors file."""
    return dict(_header(file).shapes)


def _header(file: Path) -> _Header:
    state = file.stat()
    return _read_header(file, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=256)  # asked by the checks, the plan and the loader, of every file of a model
def _read_header(file: Path, size: int, changed: int) -> _Header:
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(size - 8, 100_000_000):
            return _Header({}, f"{file.name} is no safetensors file or was cut short ({size} bytes); download it again")
        try:
            tensors = {name: entry for name, entry in json.loads(stream.read(length)).items() if name != "__metadata__"}
            end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
            shapes = {name: tuple(entry["shape"]) for name, entry in tensors.items()}
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return _Header({}, f"{file.name} has a broken header; download it again")
    if size != 8 + length + end:
        short = f"{file.name} has {size} bytes, but its header says {8 + length + end}: the download was cut short; download it again"
        return _Header(shapes, short)
    return _Header(shapes)


def _is_pointer(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(40).startswith(b"version https://git-lfs")


def _pointer(file: Path) -> str:
    return f"{file.name} is a git-lfs pointer, not the file itself; run `git lfs pull` in the folder, or `hf download` the model"


def _missing(hub_id: str, revision: str | None, why: str) -> str:
    from huggingface_hub import constants

    version = f" --revision {revision}" if revision else ""
    meant = ""
    if "/" not in hub_id:  # it may as well have been meant to be one of these
        options = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
        meant = f"no option of conf/model ({near(hub_id, options).removeprefix('; ') or ', '.join(options)}), "
    return (
        f"model {hub_id}: {meant}no folder of this name (looked in {Path(hub_id).absolute()}), "
        f"and on the hub: {why} (cache: {constants.HF_HUB_CACHE}). "
        f"Run `hf download {hub_id}{version}` on a machine with network (`hf auth login` first for a gated model), "
        "set HF_HOME to the folder of that cache, or set the model's path to a local folder"
    )


def _has_network(timeout: float = 3.0) -> bool:
    """Whether the hub's host can be reached at all: its client would retry for half a minute before it says so."""
    from urllib.parse import urlsplit

    from huggingface_hub import constants

    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    parts = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)), timeout).close()
    except OSError:
        return False
    return True


def _shown(path: str | Path, folder: Path) -> str:
    return str(folder) if str(path) == str(folder) else f"{path} ({folder})"
