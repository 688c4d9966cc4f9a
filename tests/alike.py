"""Whether two runs hold the same records. Imports nothing heavy: jobs of a sweep import it with the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

UNEQUAL = {"seconds", "tokens_per_second", "memory_gib", "raw"}  # raw: a score as digits


def records(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]


def same(one: Any, other: Any) -> bool:
    """Equal but for times, and for the rounding of scores, which depends on what else was in a batch."""
    if isinstance(one, dict):
        keys = {key for key in one if not any(key.startswith(name) for name in UNEQUAL)}
        return keys <= other.keys() and all(same(one[key], other[key]) for key in keys)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == pytest.approx(other, abs=1e-5, rel=1e-5)) if isinstance(one, float) else bool(one == other)
