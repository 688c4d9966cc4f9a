"""Kill -9 a run at random moments, resume it each time, and compare it with an unbroken run.

    python -m tests.proofs.kill [KILLS]

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
from pathlib import Path

RUN = ["conversation.count=16", "conversation.turns=6", "view=none", "run.seed=7"]
FILES = {"transcripts": "turns", "ratings": "expected", "wim": "text", "rewards": "value"}


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "expertchat.cli", "converse", *RUN, f"run.dir={folder}"])


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
            out[key] = round(value, 3) if isinstance(value, float) else value
    return out


def main(kills: int) -> int:
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as scratch:
        whole, broken = Path(scratch) / "whole", Path(scratch) / "broken"
        began = time.monotonic()
        assert start(whole).wait() == 0
        seconds = time.monotonic() - began
        print(f"unbroken run: {seconds:.1f} s, {len(content(whole))} records", flush=True)
        done = 0
        while done < kills:
            run = start(broken)
            wait = rng.uniform(0.05, 0.8) * seconds  # loading alone takes a good part of it
            try:
                code = run.wait(timeout=wait)
                print(f"ended by itself with {code} before kill {done + 1}: starting afresh", flush=True)
                assert code == 0 and content(broken) == content(whole)
                broken = Path(scratch) / f"broken{done}"
            except subprocess.TimeoutExpired:
                run.send_signal(signal.SIGKILL)
                run.wait()
                done += 1
                events = broken / "events.jsonl"
                lines = events.read_bytes().count(b"\n") if events.exists() else 0
                print(f"kill {done} after {wait:.1f} s: {lines} events on disk", flush=True)
        assert start(broken).wait() == 0
        same = content(broken) == content(whole)
        print(f"after {kills} kills: {len(content(broken))} records, {'the same ids and texts' if same else 'DIFFERENT'}")
        return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20))
