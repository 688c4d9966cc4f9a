"""A real server killed with -9 in the middle of a run and begun again: the run waits, goes on, and lacks nothing.

    python -m tests.proofs.restart_server FILE.gguf [RESTARTS] [DIALOGUES]

The server is llama.cpp (pip install xllamacpp) with that file, in a process of its own. Exit code 0 if the run came to its end, every
dialogue is whole, nothing is null for want of an answer, and no answer stands twice in served.jsonl; 2 where the server was killed between
two requests, so that none was sent again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from expertchat.backends.served.address import free_port
from expertchat.folder.jsonl import read_lines
from expertchat.serving.started import Started

SERVE = """
import sys, time, xllamacpp
wanted = xllamacpp.CommonParams()
wanted.model.path, wanted.model_alias, wanted.port, wanted.hostnames = sys.argv[1], {"m"}, int(sys.argv[2]), ["127.0.0.1"]
rows, context, wanted.cpuparams.n_threads = map(int, sys.argv[3:])
wanted.n_parallel, wanted.n_ctx, wanted.verbosity = rows, rows * context, -1
server = xllamacpp.Server(wanted)
while True:
    time.sleep(60)
"""


def started(file: Path, port: int, context: int, folder: Path, rows: int = 4, threads: int = 1) -> Started:
    """llama.cpp as a process of its own, as soon as it answers; `rows` requests of `context` tokens at once. Raises Failed where it does
    not in two minutes."""
    line = [sys.executable, "-c", SERVE, str(file), *map(str, (port, rows, context, threads))]
    server = Started(line, os.environ, folder, f"http://127.0.0.1:{port}")
    server.wait(120, lambda: False)  # it ends with this process
    return server


def kill(server: Started) -> None:
    os.kill(server.pid, signal.SIGKILL)
    server.stop()  # which now only takes note of its end


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [line for _, line in read_lines(folder / f"{name}.jsonl")]


def main(file: Path, restarts: int = 2, dialogues: int = 4, context: int = 2048, *more: str) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        run, port = Path(scratch, "run"), free_port()
        server = started(file, port, context, Path(scratch))
        words = [f"run.dir={run}", "view=plain", "topics=everyday", f"conversation.count={dialogues}", "conversation.turns=4",
                 "judging.wim.enabled=false", "judging.z=0.0", "judging.analysis=false", "server.wait=60"]  # fmt: skip
        for seat in ("experts.a", "experts.b"):
            words += [f"model@{seat}=server", f"{seat}.url=http://127.0.0.1:{port}/v1", f"{seat}.model=m", f"prompts@{seat}.prompts=small",
                      f"{seat}.decoding.reply.max_new_tokens=40"]  # fmt: skip
        with open(f"{scratch}/said", "w+") as said:
            running = subprocess.Popen([sys.executable, "-m", "expertchat.cli", "converse", *words, *more], stdout=said, stderr=said)
            for restart in range(restarts):
                goal = 3 + 6 * restart
                while running.poll() is None and len(lines(run, "served")) < goal:
                    time.sleep(0.02)
                kill(server)
                print(f"killed with {len(lines(run, 'served'))} answers on the ledger", flush=True)
                time.sleep(1.0)
                server = started(file, port, context, Path(scratch))
            code = running.wait()
            said.seek(0)
            told = [line for line in said.read().splitlines() if "server http" in line]
        server.stop()
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
    well = ended and whole == dialogues and not lost and not twice
    return 1 if not well else 0 if again else 2


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:4])) if len(sys.argv) > 1 else __doc__)
