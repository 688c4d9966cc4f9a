"""Kill -9 the training of a reward model in each of its phases, resume it each time, and compare it with an unbroken run.

    python -m tests.proofs.kill_reward_model [KILLS] [OVERRIDE ...]

Exit code 0 if figures, opinions and weights are the same.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file

from tests.proofs.kill_training import phase, wait_for
from tests.test_reward_training import rows, table

RUN = ["epochs=4", "train.batch=8", "train.micro_batch=4", "resamples=200", "view=none", "model.device=cpu"]
PHASES = ("updating", "evaluating", "saving")


def start(folder: Path, source: Path, overrides: Sequence[str]) -> subprocess.Popen[bytes]:
    words = ["reward_model", str(source), *RUN, *overrides, f"run.dir={folder}"]
    return subprocess.Popen([sys.executable, "-m", "expertchat.cli", *words])


def content(folder: Path) -> list[str]:
    """Figures, what is held out and what is said of it."""
    found = []
    for name in ("metrics", "items", "opinions"):
        found += [json.dumps(json.loads(line), sort_keys=True) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]
    return found


def difference(one: Path, two: Path) -> float:
    """The largest one between two weights."""
    here, there = (load_file(folder / "model" / "model.safetensors") for folder in (one, two))
    return max(float((here[name] - there[name]).abs().max()) for name in here)


def main(kills: int, overrides: Sequence[str]) -> int:
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as scratch:
        source, whole, broken = table(Path(scratch) / "pairs.jsonl", rows(160)), Path(scratch) / "whole", Path(scratch) / "broken"
        assert start(whole, source, overrides).wait() == 0
        for kill in range(kills):
            run = start(broken, source, overrides)
            wait_for(run, broken, PHASES[kill % len(PHASES)], 1 + kill * 4 // kills)
            time.sleep(rng.uniform(0, 0.3 if kill % len(PHASES) == 0 else 0.02))
            hit = phase(broken)
            run.send_signal(signal.SIGKILL)
            run.wait()
            print(f"kill {kill + 1}: {hit}", flush=True)
        assert start(broken, source, overrides).wait() == 0
        same, apart = content(whole) == content(broken), difference(whole, broken)
        print(f"{len(content(whole))} records, {'the same' if same else 'NOT the same'}; largest difference of the weights {apart:g}")
        return 0 if same and apart == 0 else 1


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else 6
    sys.exit(main(number, [word for word in sys.argv[1:] if not word.isdigit()]))
