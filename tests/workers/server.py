"""A process that has imported everything, and forks those that tests want: the imports take longer than most of what they do.

    python -m tests.workers.server SOCKET PID     # ends when process PID does

A child is a process like one that was started afresh: it has its own environment, folder, output and session, its exit code is what it
returns, and a signal ends it as any other. One that nobody waits for any more is killed. `forked.py` asks for them.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Mapping
from typing import Any

ORDER = 1 << 22  # bytes of an order, at most
HEAVY = ("trl", "sentence_transformers", "torch.distributed.fsdp", "expertchat.backends.embedding", "expertchat.training.online")


def main(path: str, owner: int) -> None:
    """Listen until the owner has ended."""
    for name in HEAVY:
        importlib.import_module(name)
    from trl import DPOConfig, DPOTrainer  # noqa: F401  (lazy in its package)

    gc.collect()
    gc.freeze()  # else every child's collector touches, and so copies, what all of them share
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that see to a child
    life = os.pidfd_open(owner)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(f"{path}.new")
        listening.listen(64)
        os.rename(f"{path}.new", path)  # whoever sees it can connect
        while True:
            ready, _, _ = select.select([listening, life], [], [])
            if life in ready:
                return
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                os.close(life)
                _see_to(connection)
            connection.close()


def _see_to(connection: socket.socket) -> None:
    """Fork the child that is asked for, and say how it ended; kill it if whoever asked has gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    said, files, _, _ = socket.recv_fds(connection, ORDER, 3)
    while not said.endswith(b"\n"):
        said += connection.recv(ORDER)
    child = os.fork()
    if child == 0:
        connection.close()
        _become(json.loads(said), *files)
    end = os.pidfd_open(child)
    connection.sendall(f"{child}\n".encode())
    ready, _, _ = select.select([end, connection], [], [])
    if end not in ready:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):
        connection.sendall(f"{code}\n".encode())
    os._exit(0)


def _become(order: Mapping[str, Any], given: int, out: int, err: int) -> None:
    """Do what is ordered in this process, and end."""
    os.setsid()
    code: Any = 1
    try:
        for number, file in enumerate((given, out, err)):
            os.dup2(file, number)
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)  # the old ones know what kind of file they were
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
        os.environ.clear()
        os.environ.update(order["environment"])
        os.chdir(order["folder"])
        sys.argv = list(order["argv"])
        work = getattr(importlib.import_module(order["module"]), order["function"])
        code = work(**order["arguments"])
    except SystemExit as leaving:
        code = leaving.code
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1 if code else 0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
