"""A model named in one word: an option of conf/model, embedded:NAME, a folder, a GGUF file, a hub id; or a run that has trained one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from expertchat.config import conf_dir

_CHOICE = re.compile(r"(\+?)model@([\w.]+)=(.+)")
KEPT = ("family", "revision", "quantization", "context_length", "thinking")  # of the model that a run has trained


def model_overrides(word: str, place: str = "model", added: str = "") -> list[str]:
    """The overrides that choose the model a word means. `added`: "+" where the place has no model yet.

    >>> model_overrides("embedded:llama"), model_overrides("models/it's")
    (['model=embedded_llama'], ['model=auto', "model.path='models/it\\\\'s'"])
    >>> model_overrides("models/x", "experts.a")
    ['model@experts.a=auto', "experts.a.path='models/x'"]
    """
    choice = added + (place if place == "model" else f"model@{place}")
    if option := _option(word):
        return [f"{choice}={option}"]
    folder = Path(word).expanduser()
    if _trained(folder):
        return _of_run(word, choice, place)
    return [f"{choice}=auto", f"{place}.path={quoted(word)}"]


def with_models(arguments: Sequence[str], place: str | None = "model") -> list[str]:
    """The arguments with model=WORD as what it means; lists of a sweep and null stay as they are.

    So does model@PLACE=WORD (with place=None it alone) where WORD is a folder, or looks like one or like a hub id; any other is the name
    of an option.
    """
    found: list[str] = []
    for word in arguments:
        key, equals, value = word.partition("=")
        plain = key == place and equals and value and value != "null" and "," not in value
        chosen = _CHOICE.fullmatch(word)
        if plain and place is not None:
            found += model_overrides(value, place)
        elif chosen and "," not in chosen[3] and (set(chosen[3]) & set("/:") or Path(chosen[3]).expanduser().is_dir()):
            found += model_overrides(chosen[3], chosen[2], chosen[1])
        else:
            found.append(word)
    return found


def _option(word: str) -> str | None:
    """The option of conf/model of this name."""
    options = {path.stem for path in (conf_dir() / "model").glob("*.yaml")}
    return next((name for name in (word, word.replace(":", "_")) if name in options), None)


def _trained(folder: Path) -> bool:
    """Whether a folder is a run, a round of one, or holds an adapter or trained weights; and no whole model."""
    if not folder.is_dir() or (folder / "config.json").is_file():
        return False
    marks = ("config.yaml", "adapter_config.json", "weights.safetensors", "adapter", "DONE")
    return any((folder / name).exists() for name in marks)


def _of_run(word: str, choice: str, place: str) -> list[str]:
    """The base of what a run has trained, as it was there, with that on top. What is wrong with it is told where all is checked."""
    from expertchat.backends.learnt import find_learnt
    from expertchat.config import ConfigError

    told = f"{place}.trained={quoted(word)}"
    try:
        learnt = find_learnt(word)
    except ConfigError:
        return [f"{choice}=auto", told]
    option = next((path.stem for path in sorted((conf_dir() / "model").glob("*.yaml")) if _path_of(path) == learnt.base), "auto")
    kept = {key: learnt.expert[key] for key in KEPT if learnt.expert.get(key) is not None}
    if option == "auto" and learnt.expert.get("family") == "world":
        option = "embedded_llama"  # whose wordings any model of the embedded world knows
    base = [] if learnt.base is None else [f"{place}.path={quoted(learnt.base)}"]
    return [f"{choice}={option}", *base, told, *(f"{place}.{key}={quoted(str(value))}" for key, value in kept.items())]


def _path_of(option: Path) -> str | None:
    found = re.search(r"^path: \"?([^\s\"]+)", option.read_text("utf-8"), re.MULTILINE)
    return found[1] if found else None


def quoted(word: str) -> str:
    """A word as the value of an override."""
    return word if re.fullmatch(r"[\w.]+", word) else "'{}'".format(word.replace("'", "\\'"))
