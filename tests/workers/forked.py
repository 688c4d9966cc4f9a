"""Processes for tests: ranks that see what torchrun would tell them, and command lines, forked from one that has imported everything."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
SHARED = "TESTS_SHARED"  # a folder that all workers of a session share
OWNER = "TESTS_OWNER"  # the process that the session ends with
SECONDS = 240.0
_ports = itertools.count()


class Forked:
    """A child of the server. Like subprocess.Popen, as far as tests need it."""

    def __init__(self, order: Mapping[str, Any], given: int, out: int, err: int) -> None:
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._connection.settimeout(SECONDS)
        self._connection.connect(str(server()))
        socket.send_fds(self._connection, [json.dumps(order).encode() + b"\n"], [given, out, err])
        self._lines = self._connection.makefile("r")
        self.pid = int(self._lines.readline())
        self.returncode: int | None = None

    def wait(self, timeout: float = SECONDS) -> int:
        """Its exit code; minus a signal's number if that ended it. Raises TimeoutError."""
        if self.returncode is None:
            self._connection.settimeout(timeout)
            self.returncode = int(self._lines.readline())
            self._connection.close()
        return self.returncode

    def kill(self) -> None:
        """End it if it still runs."""
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)  # nobody but wait() takes its end, so the number is still its own
            self.wait()


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def start(world: int, function: str, folder: Path, **arguments: Any) -> Done:
    """Run `function` (module.name in tests.workers) in each of `world` processes, however it ends; each writes FOLDER/RANK.json."""
    folder.mkdir(parents=True, exist_ok=True)
    meet = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with tempfile.TemporaryFile() as out, open(os.devnull, "rb") as nothing:
        ranks = []
        for rank in range(world):
            given = {"function": function, "folder": str(folder), "rank": rank, "arguments": arguments}
            told = environment(RANK=str(rank), LOCAL_RANK=str(rank), **meet)
            ranks.append(Forked(order("tests.workers.forked", "one_rank", given, told), *(file.fileno() for file in (nothing, out, out))))
        codes = [rank.wait() for rank in ranks]
        out.seek(0)
        return Done(max(map(abs, codes)), "", out.read().decode("utf-8", "replace"))


def run(world: int, function: str, folder: Path, **arguments: Any) -> list[Any]:
    """What `function` returns in each of `world` processes. Fails with their output if one of them fails."""
    done = start(world, function, folder, **arguments)
    assert done.returncode == 0, done.stderr[-8000:]
    return [json.loads((folder / f"{rank}.json").read_text("utf-8")) for rank in range(world)]


def one_rank(function: str, folder: str, rank: int, arguments: dict[str, Any]) -> int:
    """In a child: one process of several."""
    import importlib

    module, _, name = function.rpartition(".")
    found = getattr(importlib.import_module(f"tests.workers.{module}"), name)(**arguments)
    Path(folder, f"{rank}.json").write_text(json.dumps(found), "utf-8")
    return 0


def command(line: Sequence[str], folder: Path = ROOT, **more: str) -> Done:
    """`expertchat LINE`, to its end."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        code = begin(line, folder, out.fileno(), err.fileno(), **more).wait()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    return Done(code, *texts)


def begin(line: Sequence[str], folder: Path = ROOT, out: int = 2, err: int = 2, given: IO[bytes] | None = None, **more: str) -> Forked:
    """`expertchat LINE` as a process that runs on its own. `given`: its standard input, else none."""
    argv = ["expertchat", *line]
    with open(os.devnull, "rb") as nothing:
        return Forked(order("expertchat.cli", "main", {}, environment(**more), argv, folder), (given or nothing).fileno(), out, err)


def order(
    module: str, function: str, arguments: dict[str, Any], told: Mapping[str, str], argv: Sequence[str] = ("",), folder: Path = ROOT
) -> dict[str, Any]:
    """What a child of the server is to do: call `function`, as a process with this environment, command line and folder."""
    where = {"environment": dict(told), "argv": list(argv), "folder": str(folder)}
    return {"module": module, "function": function, "arguments": arguments, **where}


def environment(**more: str) -> Mapping[str, str]:
    """This environment without a launcher's traces and without GPUs, one thread a process."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "MASTER_", "TORCHELASTIC_"))}
    return kept | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1", "HF_HUB_OFFLINE": "1"} | more


def programs(folder: Path, module: str, **told: str) -> Path:
    """A folder for cluster.venv= or EXPERTCHAT_VENV, whose python is this one and whose expertchat is `module`, told these variables."""
    (folder / "bin").mkdir(parents=True)
    python = f'PYTHONPATH="{ROOT}" exec "{sys.executable}"'
    said = "".join(f"{name}={value} " for name, value in told.items())
    for name, line in (("python", f'{python} "$@"'), ("expertchat", f'{said}{python} -m {module} "$@"')):
        program = folder / "bin" / name
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
    return folder


def free_port() -> int:
    """A port that nobody has, below those that the system gives to whoever asks for any; each worker of the tests has its own range."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw9").removeprefix("gw")) % 10
    for _ in range(1000):
        port = 12000 + 1000 * worker + (os.getpid() + next(_ports)) % 1000
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


# -- what the workers of a session share ----------------------------------------------------------------------------------


def shared() -> Path:
    """The session's folder; of a process that is no part of a session, one of its own."""
    if SHARED not in os.environ:
        os.environ |= {SHARED: tempfile.mkdtemp(prefix="tests-", dir="/tmp"), OWNER: str(os.getpid())}
    return Path(os.environ[SHARED])


@contextlib.contextmanager
def locked(name: str) -> Iterator[Path]:
    """What is made once by whichever worker comes first: shared() / name, alone there until the end of the block."""
    path = shared() / name
    with Path(f"{path}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield path


def server() -> Path:
    """The socket of the server, which is started here if it does not run yet."""
    with locked("forks") as path:
        if not path.exists():
            line = [sys.executable, "-m", "tests.workers.server", str(path), os.environ[OWNER]]
            told = environment(PYTHONPATH=str(ROOT), TOKENIZERS_PARALLELISM="false", HF_HUB_DISABLE_TELEMETRY="1")
            log = (shared() / "forks.log").open("w")
            made = subprocess.Popen(line, env=told, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
            end = time.monotonic() + SECONDS
            while not path.exists():
                assert made.poll() is None and time.monotonic() < end, (shared() / "forks.log").read_text()
                time.sleep(0.05)
        return path
