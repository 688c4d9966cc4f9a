"""Kill -9 a run of best_of_n at random moments, resume it each time, and compare it with an unbroken run.

    python -m tests.proofs.kill_best_of_n [KILLS] [OVERRIDE ...]

Exit code 0 if prompts, histories, candidates, opinions, choices and figures are the same, and nothing was asked for twice.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RUN = ["n=4", "count=24", "turns=2", "judge@long=length", "rule_text=first_sentence", "write_pairs=true", "view=none", "resamples=200"]
RECORDS = ("prompts", "transcripts", "candidates", "answers", "opinions", "judges", "selections", "demonstrations", "pairs")
TIMES = ("seconds", "source")  # what differs from run to run; the source of a demonstration names its folder
NOISE = 1e-3  # of scores, by what else is in a batch


def start(folder: Path, overrides: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "expertchat.cli", "best_of_n", *RUN, *overrides, f"run.dir={folder}"])


def content(folder: Path, name: str) -> list[tuple[str, dict[str, Any]]]:
    found = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]
    kept = [{key: value for key, value in one.items() if key not in TIMES} for one in found]
    return sorted(((str(one["id"]), one) for one in kept), key=lambda one: one[0])


def same(one: Any, two: Any) -> bool:
    """Whether two values are equal, numbers within the noise."""
    if isinstance(one, float) and isinstance(two, float):
        return abs(one - two) <= NOISE
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(same(value, two[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.jsonl")) if folder.is_dir() else 0


def main(kills: int, overrides: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory() as place:
        whole, broken = Path(place) / "whole", Path(place) / "broken"
        assert start(whole, overrides).wait() == 0
        draw, total = random.Random(0), size(whole)
        for i in range(kills):
            run, at = start(broken, overrides), round(total * (i + draw.random()) / (kills + 1))
            while run.poll() is None and size(broken) < at:
                time.sleep(0.002)
            run.send_signal(signal.SIGKILL)
            print(f"kill {i + 1}: at {size(broken):,} of {total:,} bytes, exit code {run.wait()}", flush=True)
        assert start(broken, overrides).wait() == 0
        good = True
        for name in RECORDS:
            one, two = content(whole, name), content(broken, name)
            twice = sum(n > 1 for n in Counter(key for key, _ in two).values())
            print(f"{name}: {len(two):,} records, {'the same' if same(one, two) else 'and they DIFFER'}; {twice} of them twice")
            good = good and same(one, two) and not twice
        curves = [json.loads((folder / "summary.json").read_text("utf-8"))["curve"] for folder in (whole, broken)]
        print(f"figures: {'the same' if same(*curves) else 'they DIFFER'}")
        return 0 if good and same(*curves) else 1


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else 6
    raise SystemExit(main(number, [word for word in sys.argv[1:] if not word.isdigit()]))
