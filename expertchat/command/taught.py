"""The words of a command that trains one model on rows: FILE, data=FILE, model=WORD, train=full."""

from __future__ import annotations

from collections.abc import Sequence

from expertchat.command.named_models import with_models
from expertchat.sources.words import as_overrides

TRAIN = ("lora", "full", "last_layer")  # as online_dpo has them
DATA = "data="


def taught(words: Sequence[str], kind: str = "sft_") -> list[str]:
    """The words as overrides; `kind`: how its options of conf/train begin.

    >>> taught(["spells.txt", "model=embedded:mixtral", "train=full"])
    ['model=embedded_mixtral', 'train=sft_full', 'data.path=["spells.txt"]']
    >>> taught(["data=[a.csv,b.csv]"])
    ['data.path=[a.csv,b.csv]']
    """
    found = []
    for word in words:
        key, _, value = word.partition("=")
        if key == "train" and value in TRAIN:
            found.append(f"train={kind}{value}")
        elif word.startswith(f"{DATA}["):
            found.append(f"data.path={value}")
        elif word.startswith(DATA) and value:
            found.append(value)  # a FILE as any other
        else:
            found.append(word)
    return as_overrides(with_models(found), "data.path")
