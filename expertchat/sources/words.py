"""SOURCE words of a command line: `expertchat judge RUN judge=...` is `expertchat judge 'source.path=["RUN"]' judge=...`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

# Hydra's flags that take the word after them.
_VALUED = {
    "--config", "--cfg", "-c", "--package", "-p", "--info", "-i", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
}  # fmt: skip


def as_overrides(arguments: Sequence[str], key: str = "source.path") -> list[str]:
    """The arguments with their SOURCE words as one override of `key`; everything else stays as it is.

    A word with = in it is a source where it is there as a file or folder.

    >>> as_overrides(["runs/one", "judge=length", "a,b.csv", "--cfg", "job"])
    ['judge=length', '--cfg', 'job', 'source.path=["runs/one","a,b.csv"]']
    """
    sources, others, flag = list[str](), list[str](), ""
    for word in arguments:
        (sources if is_source(word, flag) else others).append(word)
        flag = word
    quoted = ",".join('"' + word.replace('"', '\\"') + '"' for word in sources)
    return [*others, *([f"{key}=[{quoted}]"] if sources else [])]


def is_source(word: str, before: str = "") -> bool:
    """Whether a word names a SOURCE; `before`: the word before it, which may take it."""
    if before in _VALUED:
        return False
    if word.startswith(("-", "+")) or (word.startswith("~") and not word.startswith("~/")):
        return False
    return "=" not in word or ("/" in word.partition("=")[0] and Path(word).exists())
