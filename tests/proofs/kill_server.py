"""Kill -9 a conversation over a server at random moments, resume it each time, and compare it with an unbroken one.

    python -m tests.proofs.kill_server [KILLS]

The server is the stub of the tests, in this process: it counts what it has answered. Exit code 0 if the records are the same and nothing
was asked again that was on the ledger when a kill hit.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.served import Stub

KEY = "sesame-opens-3f9"
DIALOGUES, TURNS = 12, 6
KEPT = ("transcripts", "ratings", "wim", "rewards")


def words(stub: Stub, folder: Path) -> list[str]:
    found = [f"run.dir={folder}", "view=none", "topics=everyday", f"conversation.count={DIALOGUES}", f"conversation.turns={TURNS}",
             "judging.form=expected", "embedder=server", f"embedder.url={stub.url}", "embedder.model=e",
             "embedder.key_from=HERE_API_KEY"]  # fmt: skip
    for seat in "ab":
        place = f"experts.{seat}"
        found += [f"model@{place}=server", f"{place}.url={stub.url}", f"{place}.model=m", f"{place}.key_from=HERE_API_KEY"]
    return found


def start(stub: Stub, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "expertchat.cli", "converse", *words(stub, folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"HERE_API_KEY": KEY})


def kept(folder: Path, name: str) -> dict[str, Any]:
    """Records by id, without times."""
    lines = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]
    for line in lines:
        for turn in line.get("turns", ()):
            turn.pop("seconds")
    return {line["id"]: line for line in lines}


def main(kills: int) -> int:
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as scratch, Stub(key=KEY, slow=0.03) as whole, Stub(key=KEY, slow=0.03) as stub:
        one, two = Path(scratch) / "whole", Path(scratch) / "broken"
        assert start(whole, one).wait() == 0
        answers, known = sum(whole.answered.values()), dict[str, int]()
        for kill in range(kills):
            run, goal = start(stub, two), (kill + rng.random()) * answers / (kills + 1)
            while run.poll() is None and sum(stub.answered.values()) < goal:
                time.sleep(0.002)
            run.send_signal(signal.SIGKILL)
            run.wait()
            time.sleep(0.2)  # what the server was about
            there = {line.get("text") for line in kept(two, "served").values()} if (two / "served.jsonl").exists() else set()
            known |= {asked: stub.answered[asked] for asked, text in stub.texts.items() if text in there and asked not in known}
            print(f"kill {kill + 1} after {sum(stub.answered.values())} of {answers} answers, {len(known)} texts on the ledger", flush=True)
        assert start(stub, two).wait() == 0
        alike = {name: kept(one, name) == kept(two, name) for name in KEPT}
        twice = sum(stub.answered[asked] > times for asked, times in known.items())
        leaks = [str(path) for path in Path(scratch).rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
        served = len(kept(two, "served"))
    print(f"{served} answers; the same: {alike}; keys: {leaks or 0}")
    print(f"of {len(known)} texts that were on the ledger at a kill {twice} were asked for again")
    return 0 if all(alike.values()) and not twice and not leaks else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10))
