"""A real server killed with -9 in the middle of a run and begun again: the run waits, goes on, and lacks nothing.

    python -m tests.proofs.restart_server FILE.gguf [RESTARTS] [DIALOGUES]

The server is llama.cpp (pip install xllamacpp) with that file, in a process of its own. Exit code 0 if the run came to its end, every
dialogue is whole, nothing is null for want of an answer, and no answer stands twice in served.jsonl.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

SERVE = """
import sys, time, xllamacpp
wanted = xllamacpp.CommonParams()
wanted.model.path, wanted.model_alias, wanted.port, wanted.hostnames = sys.argv[1], {"m"}, int(sys.argv[2]), ["127.0.0.1"]
wanted.n_parallel, wanted.n_ctx, wanted.cpuparams.n_threads, wanted.verbosity = 4, 4 * int(sys.argv[3]), 1, -1
server = xllamacpp.Server(wanted)
while True:
    time.sleep(60)
"""


class LlamaCpp:
    """One server at one port, which may be begun again."""

    def __init__(self, file: Path, context: int = 2048) -> None:
        self.file, self.context = file, context
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Start it, and wait until it is there."""
        self.running = subprocess.Popen([sys.executable, "-c", SERVE, str(self.file), str(self.port), str(self.context)])
        for _ in range(600):
            if self.running.poll() is not None:
                raise SystemExit(f"the server ended with {self.running.returncode}")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5)
                return
            except OSError:
                time.sleep(0.2)
        raise SystemExit("the server is not there after two minutes")

    def kill(self) -> None:
        self.running.kill()
        self.running.wait()


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    path = folder / f"{name}.jsonl"
    found = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in found if line.endswith(b"\n")]


def main(file: Path, restarts: int = 2, dialogues: int = 4, context: int = 2048, *more: str) -> int:
    server = LlamaCpp(file, context)
    server.start()
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch, "run")
        words = [f"run.dir={run}", "view=plain", "topics=everyday", f"conversation.count={dialogues}", "conversation.turns=4",
                 "judging.wim.enabled=false", "judging.z=0.0", "judging.analysis=false", "server.wait=60"]  # fmt: skip
        for seat in ("experts.a", "experts.b"):
            words += [f"model@{seat}=server", f"{seat}.url={server.url}", f"{seat}.model=m", f"prompts@{seat}.prompts=small",
                      f"{seat}.decoding.reply.max_new_tokens=40"]  # fmt: skip
        with open(f"{scratch}/said", "w+") as said:
            running = subprocess.Popen([sys.executable, "-m", "expertchat.cli", "converse", *words, *more], stdout=said, stderr=said)
            for restart in range(restarts):
                goal = 3 + 6 * restart
                while running.poll() is None and len(lines(run, "served")) < goal:
                    time.sleep(0.02)
                server.kill()
                print(f"killed with {len(lines(run, 'served'))} answers on the ledger", flush=True)
                time.sleep(1.0)
                server.start()
            code = running.wait()
            said.seek(0)
            told = [line for line in said.read().splitlines() if "server http" in line]
        server.kill()
        answers, ratings = lines(run, "served"), lines(run, "ratings")
        lost = [line["problem"] for line in ratings if line.get("fault") == "unanswered"]
        turns = [turn for line in lines(run, "transcripts") for turn in line["turns"]]
        lost += [turn["note"] for turn in turns if "server" in (turn.get("note") or "")]
        again = sum(line["tries"] for line in answers) - len(answers)
        twice = len(answers) - len({line["id"] for line in answers})
        whole, ended = len(lines(run, "transcripts")), (run / "summary.json").exists()  # a model that rates nothing ends with 1
    print(*told[:4], sep="\n")
    print(f"exit code {code}; {whole} of {dialogues} dialogues, {len(turns)} turns, {len(ratings)} ratings, {len(answers)} answers; "
          f"{again} requests were sent again, {twice} answers stand twice, {len(lost)} are lacking")  # fmt: skip
    return 0 if ended and whole == dialogues and not lost and not twice and again else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:4])) if len(sys.argv) > 1 else __doc__)
