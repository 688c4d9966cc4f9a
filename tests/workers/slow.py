"""`expertchat` whose scripted experts take their time: a run that lasts, and computes next to nothing.

`environment` makes a folder for cluster.venv=, `scripted` says what such a run consists of.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from expertchat.backends.scripted import ScriptedBackend
from expertchat.cli import main
from tests.workers.forked import ROOT, programs

REPLIES = ["Tides follow the Moon.", "Why twice a day?", "There are two bulges of water.", "And spring tides?", "Then the Sun helps."]


def environment(folder: Path, seconds: float) -> Path:
    """A folder for cluster.venv=, whose expertchat waits `seconds` for every batch of replies."""
    return programs(folder, "tests.workers.slow", SECONDS_A_BATCH=f"{seconds}")


def everywhere(folder: Path, seconds: float) -> dict[str, str]:
    """The environment in which every Python is that slow, whoever starts it: the folder's sitecustomize.py sees to it."""
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text("from tests.workers.slow import slow\n\nslow()\n")
    return {"PYTHONPATH": f"{folder}:{ROOT}", "SECONDS_A_BATCH": f"{seconds}"}


def scripted(folder: Path) -> list[str]:
    """Overrides: both experts scripted, rated in numbers alone, so that nothing heavy is imported."""
    script = folder / "script.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    marks = [{"match": f"c00[0-9]{n}.*-by-", "text": f"{n}"} for n in range(1, 10)]
    script.write_text("".join(json.dumps(rule) + "\n" for rule in [*marks, {"match": "-by-", "text": "10"}, {"text": REPLIES}]))
    seats = [f"experts.{seat}.{key}" for seat in "ab" for key in ("backend=scripted", f"script={script}")]
    return ["topics=list", "topics.list=[tides,bees,volcanoes]", "judging=numeric", *seats]


def slow() -> None:
    """From now on, in this process, scripted experts wait SECONDS_A_BATCH."""
    real = ScriptedBackend.generate

    def generate(self: ScriptedBackend, requests: Any, *more: Any) -> Any:
        time.sleep(float(os.environ["SECONDS_A_BATCH"]))
        return real(self, requests, *more)

    ScriptedBackend.generate = generate  # type: ignore[method-assign]


if __name__ == "__main__":
    slow()
    sys.exit(main())
