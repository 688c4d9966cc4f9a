"""Folders and files that are to be written, and texts that are to be read: what is wrong with them, found without making anything."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PATHS = (
    "path", "trained", "dir", "file", "script", "out", "models_dir", "adapter", "base", "model", "names", "wheelhouse", "venv", "archives",
    "runs",
)  # fmt: skip


def home_problems(plain: Any, place: str = "") -> Iterator[str]:
    """Every value that begins with the home folder (~, ~NAME) of somebody whom this machine does not know."""
    if isinstance(plain, Mapping):
        for key, value in plain.items():
            yield from home_problems(value, f"{place}.{key}".lstrip("."))
    elif isinstance(plain, list):
        for value in plain:
            yield from home_problems(value, place)
    elif isinstance(plain, str) and plain.startswith("~") and place.rpartition(".")[2] in PATHS:
        try:
            Path(plain).expanduser()
        except RuntimeError:
            yield f"{place}={plain}: this machine knows no home folder {plain.partition('/')[0]}; write the whole path"


def can_be_read_twice(path: str) -> bool:
    """Whether to look into a file now takes nothing from the run: not from a pipe (topics.file=<(...))."""
    try:
        place = Path(path).expanduser()
        return place.is_file() or place.is_dir() or not place.exists()
    except (OSError, ValueError):
        return True


def new_folder_problem(key: str, path: str | Path, begun: bool = True) -> str | None:
    """Why no folder can be made there, or, where `begun` allows that it is there, written."""
    try:
        folder = Path(path).expanduser()
        if folder.is_dir():
            if not begun and any(folder.iterdir()):
                return f"{key}={path}: is there already; name a new folder"
            return None if os.access(folder, os.W_OK | os.X_OK) else f"{key}: cannot write {folder}: Permission denied; name another folder"
        if folder.exists() or folder.is_symlink():
            return f"{key}={path}: is a file; name a folder" if folder.is_file() else f"{key}={path}: is no folder; name another one"
        return _parent_problem(key, path, folder, "folder")
    except (OSError, ValueError) as error:
        return f"{key}={path}: cannot be used ({getattr(error, 'strerror', None) or error}); name another folder"


def new_file_problem(key: str, path: str | Path) -> str | None:
    """Why no file can be written there; one that is there may be written over."""
    try:
        file = Path(path).expanduser()
        if file.is_dir():
            return f"{key}={path}: cannot be written (it is a folder); name a file"
        if file.exists():
            return None if os.access(file, os.W_OK) else f"{key}={path}: cannot be written (Permission denied); name another file"
        return _parent_problem(key, path, file, "file")
    except (OSError, ValueError) as error:
        return f"{key}={path}: cannot be written ({getattr(error, 'strerror', None) or error}); name another file"


def _parent_problem(key: str, path: str | Path, place: Path, kind: str) -> str | None:
    """Why what is above a place lets nothing be made in it."""
    above = next(one for one in place.absolute().parents if one.exists() or one.is_symlink())
    if not above.is_dir():
        return f"{key}={path}: cannot be written, {above} is a file; name another {kind}"
    unreal = above == Path("/proc") or Path("/proc") in above.parents  # it says that root may write there, and nobody may
    if not os.access(above, os.W_OK | os.X_OK) or unreal:
        return f"{key}={path}: cannot be written, {above} lets nobody like you write into it; name another {kind}"
    return None
