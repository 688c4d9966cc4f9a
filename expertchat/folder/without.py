"""Runs in which nobody talks: what they hold in place of dialogues, said to whoever names one where dialogues are wanted."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from expertchat.config import ConfigError
from expertchat.folder.reader import RunReader

HOLDS = {
    "sft": "answers to rows",
    "dpo": "pairs and what was learnt of them",
    "build_pairs": "pairs of texts",
    "reward_model": "a judge that was trained",
    "posts": "posts",
    "best_of_n": "candidates to prompts",
    "judge": "opinions of what stands elsewhere",
    "pick": "choices among texts that stand elsewhere",
    "serve": "what a server has told",
}
SPEAKS = frozenset({"sft", "dpo"})  # what these have trained may talk in another run


def without_dialogues(run: RunReader) -> str | None:
    """Why a run has none and what to name in its place; None where it may have some.

    It is said of a run whose kind is known: a run of converse that has not come far says something else.
    """
    if run.path("transcripts").is_file() or (holds := HOLDS.get(run.kind)) is None:
        return None
    word = shlex.quote(str(run.folder))
    talks = f"let it talk first (expertchat converse model@experts.a={word}), and name that run"
    remedy = talks if run.kind in SPEAKS else "name another run"
    if sources := _sources(run):
        remedy = f"name what it was made of: {', '.join(sources)}"
    return f"{run.folder}: is a run of {run.kind}, which holds {holds} and no dialogue; {remedy}"


def _sources(run: RunReader) -> list[str]:
    """The runs that it has read."""
    try:
        source = run.config.get("source")
    except ConfigError:
        return []
    paths = source.get("path") if isinstance(source, Mapping) else None
    there = [RunReader(Path(path).expanduser()) for path in paths if isinstance(path, str)] if isinstance(paths, list) else []
    return [str(one.folder) for one in there if one.path("transcripts").is_file()]
