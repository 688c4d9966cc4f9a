"""A model named in one word: an option of conf/model, embedded:NAME, a folder, a GGUF file, a hub id."""

from __future__ import annotations

from collections.abc import Sequence

from expertchat.config import conf_dir


def model_overrides(word: str, place: str = "model") -> list[str]:
    """The overrides that choose the model a word means.

    >>> model_overrides("embedded:llama"), model_overrides("models/it's")
    (['model=embedded_llama'], ['model=auto', "model.path='models/it\\\\'s'"])
    """
    options = {path.stem for path in (conf_dir() / "model").glob("*.yaml")}
    for name in (word, word.replace(":", "_")):
        if name in options:
            return [f"{place}={name}"]
    quoted = word.replace("'", "\\'")
    return [f"{place}=auto", f"{place}.path='{quoted}'"]


def with_models(arguments: Sequence[str], place: str = "model") -> list[str]:
    """The arguments with model=WORD as what it means; lists of a sweep and null stay as they are."""
    found: list[str] = []
    for word in arguments:
        key, equals, value = word.partition("=")
        plain = key == place and equals and value and value != "null" and "," not in value
        found += model_overrides(value, place) if plain else [word]
    return found
