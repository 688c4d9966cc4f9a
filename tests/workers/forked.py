"""Runs a function in several processes that see what torchrun would tell them, and keeps what each returns.

    python -m tests.workers.forked WORLD MODULE FUNCTION ARGUMENTS_JSON FOLDER

The processes are forked after the imports, which take longer than the work. Each writes FOLDER/RANK.json.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SECONDS = 240.0


def run(world: int, function: str, folder: Path, **arguments: Any) -> list[Any]:
    """What `function` (module.name in tests.workers) returns in each of `world` processes. Fails with their output if one of them fails."""
    done = start(world, function, folder, **arguments)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return [json.loads((folder / f"{rank}.json").read_text("utf-8")) for rank in range(world)]


def start(world: int, function: str, folder: Path, **arguments: Any) -> subprocess.CompletedProcess[str]:
    """The same, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    module, _, name = function.rpartition(".")
    work = [str(world), f"tests.workers.{module}", name, json.dumps(arguments), str(folder)]
    command = [sys.executable, "-m", "tests.workers.forked", *work]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=SECONDS)


def environment(**more: str) -> Mapping[str, str]:
    """This environment without a launcher's traces and without GPUs, one thread a process."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "MASTER_", "TORCHELASTIC_"))}
    return kept | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1", "HF_HUB_OFFLINE": "1"} | more


def main() -> int:
    world, module, name, arguments, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3], json.loads(sys.argv[4]), Path(sys.argv[5])
    work = getattr(importlib.import_module(module), name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            code = 1
            try:
                (folder / f"{rank}.json").write_text(json.dumps(work(**arguments)), "utf-8")
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return max(map(abs, codes))


if __name__ == "__main__":
    sys.exit(main())
