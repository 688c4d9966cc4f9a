"""Dialogues that have nothing more to say, and short ones that have (small_talk.txt): ten turns each."""

from __future__ import annotations

from pathlib import Path

_FILE = Path(__file__).with_name("small_talk.txt")


def _read(part: str) -> dict[str, str]:
    """Name -> turns, parted by "|"."""
    lines = [line.partition(": ") for line in part.strip().split("\n")[1:]]
    return {name: turns for name, _, turns in lines}


EMPTY, TALKS = map(_read, _FILE.read_text(encoding="utf-8").split("\n\n"))
OPENING = (
    "Let us talk about {topic}. What do you find most surprising?",
    "That nobody understood it for two thousand years, and that it is so simple.",
)
