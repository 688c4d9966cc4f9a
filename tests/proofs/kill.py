"""Kill -9 a run at random moments, resume it each time, and compare it with an unbroken run.

    python -m tests.proofs.kill [KILLS [OVERRIDE ...]]

Prints when each kill came and whether record ids and texts are the same. Exit code 0 if they are.
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

RUN = ["conversation.count=16", "conversation.turns=6", "view=none", "run.seed=7"]
NOISE = 1e-4  # of scores
FILES = {"transcripts": "turns", "ratings": "expected", "wim": "text", "rewards": "value"}


def start(folder: Path, words: Sequence[str] = RUN) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "expertchat.cli", "converse", *words, f"run.dir={folder}"])


def content(folder: Path) -> dict[str, object]:
    """file/id -> what must be equal. Fails on a double id."""
    out: dict[str, object] = {}
    for name, field in FILES.items():
        for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines():
            record = json.loads(line)
            key = f"{name}/{record['id']}"
            assert key not in out, f"{key} is there twice"
            value = record[field]
            if name == "transcripts":
                value = [(t["speaker"], t["text"], t["tokens"]) for t in value]
            out[key] = value
    return out


def differing(one: dict[str, object], two: dict[str, object]) -> list[str]:
    """What is not the same: a record of only one, another text, scores that are more than NOISE apart.

    Scores differ in their last digits by the batch that they are computed in.
    """
    found = [f"{key} is in one only" for key in sorted(one.keys() ^ two.keys())]
    for key in sorted(one.keys() & two.keys()):
        a, b = one[key], two[key]
        if (abs(a - b) > NOISE) if isinstance(a, float) and isinstance(b, float) else a != b:
            found.append(f"{key}: {a!r} against {b!r}")
    return found


def main(kills: int, words: Sequence[str] = ()) -> int:
    rng = random.Random(1)
    words = (*RUN, *words)
    with tempfile.TemporaryDirectory() as scratch:
        whole, broken = Path(scratch) / "whole", Path(scratch) / "broken"
        began = time.monotonic()
        assert start(whole, words).wait() == 0
        seconds = time.monotonic() - began
        print(f"unbroken run: {seconds:.1f} s, {len(content(whole))} records", flush=True)
        done, afresh = 0, 0
        while done < kills:
            run = start(broken, words)
            wait = rng.uniform(0.05, 0.8) * seconds  # loading alone takes a good part of it
            try:
                code = run.wait(timeout=wait)
                print(f"ended by itself with {code} before kill {done + 1}: starting afresh", flush=True)
                assert code == 0 and not (other := differing(content(whole), content(broken))), other
                afresh += 1
                broken = Path(scratch) / f"broken{afresh}"
            except subprocess.TimeoutExpired:
                run.send_signal(signal.SIGKILL)
                run.wait()
                done += 1
                events = broken / "events.jsonl"
                lines = events.read_bytes().count(b"\n") if events.exists() else 0
                print(f"kill {done} after {wait:.1f} s: {lines} events on disk", flush=True)
        assert start(broken, words).wait() == 0
        other = differing(content(whole), content(broken))
        print(f"after {kills} kills: {len(content(broken))} records, {'the same ids and texts' if not other else f'DIFFERENT: {other}'}")
        return 1 if other else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20, sys.argv[2:]))
