"""Kill -9 a run that is trained on rows at random moments, resume it each time, and compare it with an unbroken run.

    python -m tests.proofs.kill_rows [KILLS] [COMMAND] [FILE] [OVERRIDE ...]

COMMAND: sft (default), or another on the same loop. The moments are spread over the phases: what each kill hit is printed. Exit code 0 if
figures, steps and weights are the same.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from safetensors.torch import load_file

from tests.alike import records, same
from tests.proofs.kill_training import phase, wait_for

SPELLS = str(Path(__file__).parents[2] / "examples" / "spells.txt")
SMALL = ["view=none", "train.epochs=6", "train.batch=2", "train.micro_batch=2", "evaluation.samples=2", "evaluation.tokens=24"]
ROUNDS = 6
PHASES = ("updating", "evaluating", "saving")
SPREAD = {"updating": 0.8, "evaluating": 0.2}  # seconds over which the moment is drawn


def start(folder: Path, words: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "expertchat.cli", *words, f"run.dir={folder}"], stdout=subprocess.DEVNULL)


def main(kills: int, words: list[str]) -> int:
    rng, hit = random.Random(1), Counter[str]()
    with tempfile.TemporaryDirectory() as scratch:
        whole, broken = Path(scratch) / "whole", Path(scratch) / "broken"
        assert start(whole, words).wait() == 0
        for kill in range(kills):
            run, wanted, number = start(broken, words), PHASES[kill % len(PHASES)], 1 + kill * ROUNDS // kills
            wait_for(run, broken, wanted, number)
            time.sleep(rng.uniform(0, SPREAD.get(wanted, 0.02)))
            if run.poll() is not None:
                print(f"it ended by itself with {run.returncode} before kill {kill + 1}", flush=True)
                break
            run.send_signal(signal.SIGKILL)
            run.wait()
            where = phase(broken)
            hit[where.split()[0]] += 1
            print(f"kill {kill + 1} at {where}", flush=True)
        assert start(broken, words).wait() == 0
        counts, alike = [], True
        for name in ("metrics", "steps"):
            one, two = records(whole, name), records(broken, name)
            counts.append(f"{len(two)} {name}")
            alike = alike and len(one) == len(two) and all(map(same, one, two))
        weights = [load_file(next((folder / "adapter").glob("*.safetensors"))) for folder in (whole, broken)]
        worst = max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0])
        print(f"after {sum(hit.values())} kills ({dict(hit)}): {', '.join(counts)}, {'the same' if alike else 'DIFFERENT'}")
        print(f"what the run gives: largest difference {worst:g}")
        return 0 if alike and worst == 0 else 1


if __name__ == "__main__":
    given = sys.argv[1:]
    count = int(given.pop(0)) if given and given[0].isdecimal() else 6
    sys.exit(main(count, given or ["sft", SPELLS, *SMALL]))
