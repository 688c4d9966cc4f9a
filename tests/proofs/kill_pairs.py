"""Kill -9 build_pairs, then dpo on its pairs, at random moments; resume each time, and compare with unbroken runs.

    python -m tests.proofs.kill_pairs [KILLS] [TALK]

TALK: the folder of a conversation's run with the embedded models; one of 24 dialogues is made where none is named. Exit code 0 if records,
steps and adapters are the same and nothing was generated twice.
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
from typing import Any

from safetensors.torch import load_file

from tests.alike import records, same

TALK = ["converse", "conversation.count=24", "conversation.turns=6", "judging.wim.enabled=false", "judging.z=0", "run.seed=3"]
BUILD = ["judge=truth", "model=embedded_llama", "choose.high=2", "choose.low=1", "counterpart.attempts=6", "engine.max_batch=4"]
DPO = ["train.epochs=3", "evaluation.histories=8", "evaluation.final=8", "evaluation.turns=2", "data.share=0.2"]
KEPT = {"build_pairs": ("pairs", "attempts", "outcomes", "opinions"), "dpo": ("steps", "metrics", "preferences")}


def start(words: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "expertchat.cli", *words, "view=none", f"run.dir={folder}"])


def content(command: str, folder: Path) -> dict[str, dict[str, Any]]:
    """The records by file and id."""
    found: dict[str, dict[str, Any]] = {}
    for name in KEPT[command]:
        for record in records(folder, name):
            key = f"{name} {record['id']}"
            assert key not in found, f"{key} stands twice in {folder}"
            found[key] = record
    return found


def answers(folder: Path) -> list[str]:
    """The ids of what models answered, each as often as it was kept."""
    path = folder / "answers.jsonl"
    return [json.loads(line)["id"] for line in path.read_text("utf-8").splitlines()] if path.is_file() else []


def ends_alike(command: str, words: Sequence[str], scratch: Path, kills: int, rng: random.Random) -> bool:
    """Run a command unbroken and killed; whether both come to the same."""
    whole, broken = scratch / f"{command}-whole", scratch / f"{command}-broken"
    began = time.monotonic()
    assert start([command, *words], whole).wait() == 0
    took = time.monotonic() - began
    done = 0
    for _ in range(kills):
        run = start([command, *words], broken)
        time.sleep(rng.uniform(0.3, 0.8) * took)
        if run.poll() is not None:
            break
        run.send_signal(signal.SIGKILL)
        run.wait()
        done += 1
    assert start([command, *words], broken).wait() == 0
    one, two = content(command, whole), content(command, broken)
    differing = [key for key in one.keys() | two.keys() if key not in one or key not in two or not same(one[key], two[key])]
    for key in differing[:5]:
        print(f"differs: {key}: {one.get(key)} / {two.get(key)}"[:3000])
    twice = len(answers(broken)) - len(set(answers(broken)))
    said = "DIFFERENT" if differing else "the same"
    print(f"{command}: {took:.0f} s unbroken; after {done} kills {len(two)} records, {said}", flush=True)
    print(f"{command}: {len(answers(broken))} answers of models, {twice} of them kept twice", flush=True)
    good = not differing and not twice
    if command == "dpo":
        a, b = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (whole, broken))
        worst = max(float((a[name] - b[name]).abs().max()) for name in a) if a.keys() == b.keys() else float("inf")
        print(f"dpo: final adapter: largest difference {worst:g}", flush=True)
        good = good and worst == 0
    return good


def main(kills: int, talk: str | None) -> int:
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        if talk is None:
            talk = str(scratch / "talk")
            assert start(TALK, Path(talk)).wait() == 0
        built = ends_alike("build_pairs", [talk, *BUILD], scratch, kills, rng)
        return 0 if ends_alike("dpo", [str(scratch / "build_pairs-whole"), *DPO], scratch, kills, rng) and built else 1


if __name__ == "__main__":
    arguments = sys.argv[1:]
    count = int(arguments.pop(0)) if arguments and arguments[0].isdecimal() else 4
    sys.exit(main(count, arguments[0] if arguments else None))
