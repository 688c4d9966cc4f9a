"""Whose embedded models a run was begun with: it does not go on with those of another world, whose texts and figures are others.

An id of their weights stands in provenance.json of a run that uses them, and in the config of an adapter as the revision of its base. Where
none stands they were the first ones, which had no id yet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from expertchat.folder.jsonl import read_json
from expertchat.folder.reader import read_config

MODELS = Path(__file__).resolve().parents[1] / "world" / "models"
NAMES = ("embedder", "llama", "mixtral")
PREFIX = "embedded:"
KEY = "embedded_models"  # in provenance.json
FIRST = "08466a341bf422d3"  # the first world's (sources 68dc10d2b86a08be in its card.json)


def models_id(place: Path | None = None) -> str | None:
    """An id of the weights that lie at `place` (None: in the package), whatever was done to make them; None where there are none."""
    files = [(place or MODELS) / name / "model.safetensors" for name in NAMES]
    there = [(file, file.stat()) for file in files if file.is_file()]
    return _digest(tuple((file, about.st_size, about.st_mtime_ns) for file, about in there)) if there else None


@lru_cache(maxsize=16)
def _digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Of a few megabytes, hence 20 ms; size and time stand for a change."""
    parts = [f"{file.parent.name} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file, _, _ in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def noted(config: Mapping[str, Any]) -> dict[str, Any]:
    """What provenance.json says of the embedded models of a run that begins now; nothing for one that uses none."""
    return {KEY: models_id()} if uses_embedded(config) else {}


def uses_embedded(config: Mapping[str, Any]) -> bool:
    """Whether any model of a run is an embedded one, or its embedder is, by its config as it stands in config.yaml."""
    embedder = config.get("embedder")
    models = [one for one in _models(config) if one is not embedder]
    here = [one for one in models if one.get("backend", "local") in ("local", "llamacpp")]
    if any(_is_embedded(one) for one in here):
        return True
    if not isinstance(embedder, Mapping) or embedder.get("backend", "local") != "local":
        return False
    path, seats = str(embedder.get("path")), [one for one in models if "family" in one]
    follows = path == "auto" and bool(seats) and all(_speaks_as_embedded(one) for one in seats)
    return follows or path.startswith(PREFIX)


def _models(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The groups of a config that name a model."""
    for value in config.values():
        if isinstance(value, Mapping):
            if isinstance(value.get("path"), str):
                yield value
            yield from _models(value)


def _is_embedded(model: Mapping[str, Any]) -> bool:
    """auto stands for one where a reward model is trained."""
    return str(model["path"]).startswith(PREFIX) or (model["path"] == "auto" and "family" not in model)


def _speaks_as_embedded(model: Mapping[str, Any]) -> bool:
    """Whether embedder.path=auto takes the embedded one beside it."""
    return model["family"] == "world" or str(model["path"]).startswith((PREFIX, "scripted"))


def begun_with(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The id of the embedded models that a run of this config was begun with; None for one that uses none."""
    return id_in(folder) if uses_embedded(config) else None


def id_in(run: Path) -> str:
    """The id that a run's provenance.json holds, or is to be taken for having."""
    return str((read_json(run / "provenance.json") or {}).get(KEY) or FIRST)


def other_id(folder: Path) -> str | None:
    """The id of the embedded models that the run in `folder` was begun with, where the package holds others now.

    Raises ConfigError where its config cannot be read.
    """
    file = folder / "config.yaml"
    then = begun_with(folder, read_config(file, "name another run.dir")) if file.is_file() else None
    return None if then == models_id() else then


def others(folder: Path) -> str | None:
    """Why the run in `folder` cannot go on with the embedded models that there are, in words that follow its name. Raises as `other_id`."""
    if (then := other_id(folder)) is None:
        return None
    remedy = f"name a new run.dir, or go on with the version of the package that it was begun with{_version(folder)}"
    return f"was begun with {both(then)}: it would go on as another run; {remedy}"


def both(then: str) -> str:
    """Which embedded models they were, and which there are."""
    first = ", the first there were" if then == FIRST else ""
    return f"the embedded models {then}{first}, and the package holds {models_id() or 'none'} now"


def unlike(then: str | None) -> str | None:
    """Why what was trained on the embedded models of an id (None: the first) does not fit those of the package; None where it does."""
    then = then or FIRST
    if then == models_id():
        return None
    return f"was trained on {both(then)}: train it again, or take the version of the package that it was trained with"


def _version(folder: Path) -> str:
    """The version and the commit that a run was begun with, as far as they are known."""
    told = read_json(folder / "provenance.json") or {}
    packages, git = told.get("packages"), told.get("git")
    version = packages.get("expertchat") if isinstance(packages, Mapping) else None
    commit = git.get("commit") if isinstance(git, Mapping) else None
    known = [*([f"expertchat {version}"] if version else []), *([f"commit {str(commit)[:10]}"] if commit else [])]
    return f" ({', '.join(known)})" if known else ""
