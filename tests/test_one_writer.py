"""One writer for each run folder: who is refused, who takes over, and how the one before notices. Starts of one job: test_lock.py."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expertchat.config import ConfigError
from expertchat.events import Note
from expertchat.folder import lock
from expertchat.folder.lock import FolderLock, read_heartbeat
from expertchat.folder.store import Store
from expertchat.folder.writing import WriteError
from tests.test_store import CONFIG, opened


def beat(folder: Path, **values: object) -> None:
    content = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time(), "token": "x", **values}
    (folder / lock.HEARTBEAT).write_text(json.dumps(content))


def dead_pid() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    first = opened(tmp_path / "run")
    with pytest.raises(ConfigError, match=rf"is being written by another process \(process {os.getpid()} on .*expertchat watch"):
        Store(tmp_path / "run", CONFIG, [])
    first.close()
    assert read_heartbeat(tmp_path / "run") is None
    opened(tmp_path / "run").close()


@pytest.mark.parametrize("locks", [True, False])
def test_a_fresh_heartbeat_of_another_host_is_respected_and_an_old_one_is_not(
    tmp_path: Path, locks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not locks:
        monkeypatch.setattr(lock, "fcntl", None)
    beat(tmp_path, host="elsewhere", time=time.time() - 60)
    with pytest.raises(ConfigError, match="on elsewhere, last seen 60 s ago"):
        FolderLock(tmp_path)
    beat(tmp_path, host="elsewhere", time=time.time() - 200)
    taken = FolderLock(tmp_path)
    assert taken.note is not None and "on elsewhere, last seen 200 s ago is gone" in taken.note
    taken.release()


def test_without_file_locks_a_live_process_is_respected_and_a_dead_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "fcntl", None)
    beat(tmp_path, pid=os.getppid())
    with pytest.raises(ConfigError, match="another process"):
        FolderLock(tmp_path)
    beat(tmp_path, pid=dead_pid())
    taken = FolderLock(tmp_path)
    assert taken.note is not None
    taken.release()


def test_with_file_locks_a_reused_process_id_does_not_block(tmp_path: Path) -> None:
    beat(tmp_path, pid=os.getppid())  # this process lives, but it does not hold the lock
    taken = FolderLock(tmp_path)
    assert taken.note is not None
    taken.release()


def test_a_writer_that_was_taken_over_notices_and_stops(tmp_path: Path) -> None:
    store = opened(tmp_path / "run")
    store._lock.release()
    store._lock = FolderLock(tmp_path / "run", beat_seconds=0.01)
    beat(tmp_path / "run", host="elsewhere", token="theirs")
    deadline = time.monotonic() + 5
    while not store._lock.lost and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(WriteError, match="another process has taken"):
        store.send(Note(text="x"))
    store.close()
    assert (read_heartbeat(tmp_path / "run") or {})["token"] == "theirs"


def test_the_heartbeat_beats(tmp_path: Path) -> None:
    taken = FolderLock(tmp_path, beat_seconds=0.01)
    first = (read_heartbeat(tmp_path) or {})["time"]
    deadline = time.monotonic() + 5
    while (read_heartbeat(tmp_path) or {}).get("time") == first and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (read_heartbeat(tmp_path) or {})["time"] > first
    taken.release()


@settings(max_examples=50)
@given(st.binary(max_size=60))
def test_any_heartbeat_file_is_read_or_ignored(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "beats"
    folder.mkdir(exist_ok=True)
    (folder / lock.HEARTBEAT).write_bytes(content)
    FolderLock(folder).release()
