"""One writer for each folder: a start that was requeued takes over from its own orphan, everybody else is refused."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expertchat.config import ConfigError
from expertchat.events import AnyEvent, Note, RunFinished, RunStarted
from expertchat.folder import lock
from expertchat.folder import run_folder as run_folder
from expertchat.folder.here import Place
from expertchat.folder.jsonl import read_json
from expertchat.folder.lock import CLAIM, HEARTBEAT, LOCK, FolderLock, read_heartbeat
from expertchat.folder.writing import WriteError, replace
from tests.scripted import Collect, Double, run
from tests.test_resume import SMALL, contents

ROOT = Path(__file__).parents[1]
LONG = 300.0  # seconds that no test waits
FORK = multiprocessing.get_context("fork")
# A writer that appends a line as often as it can until it has lost the folder; then it says why, and ends.
WRITER = """
import os, sys
from pathlib import Path
from expertchat.folder import lock
from expertchat.folder.jsonl import Log
from expertchat.folder.writing import WriteError
from expertchat.folder.here import Place
folder, job, restarts, host = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
if host:
    lock.socket.gethostname = lambda: host
    lock.fcntl = None
held = lock.FolderLock(folder, 300.0, 0.02, here=Place(job, restarts))
log = Log(folder / "records.jsonl")
try:
    while True:
        with held.held():
            log.append('{"by": "orphan"}')
except WriteError as error:
    print(error)
held.release()
"""


def writer(folder: Path, job: str = "123", restarts: int = 0, host: str = "") -> subprocess.Popen[str]:
    """Another python that writes `folder`; returns when it has written something."""
    command = [sys.executable, "-c", WRITER, str(folder), job, str(restarts), host]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)
    soon(lambda: (folder / "records.jsonl").exists() and (folder / "records.jsonl").stat().st_size > 0)
    return process


def soon(true: Callable[[], object]) -> None:
    """Wait for something that will come."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)


def beat(folder: Path, name: str = HEARTBEAT, **values: object) -> None:
    content = {"host": "node7", "pid": 4711, "time": time.time(), "token": "theirs", "job": None, "restarts": None, **values}
    replace(folder / name, json.dumps(content))


# -- two processes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["", "node7"], ids=["one host", "another host, no file locks"])
def test_a_requeued_start_takes_over_from_its_own_orphan(tmp_path: Path, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if host:
        monkeypatch.setattr(lock, "fcntl", None)
    orphan = writer(tmp_path, host=host)
    said: list[str] = []
    taken = FolderLock(tmp_path, LONG, 0.02, here=Place("123", 1), say=said.append)
    # From here on the orphan writes nothing: what this one appends stays the last line, though the orphan still has the file open.
    with open(tmp_path / "records.jsonl", "a") as file, taken.held():
        file.write('{"by": "successor"}\n')
    output, _ = orphan.communicate(timeout=60)
    assert (tmp_path / "records.jsonl").read_text().endswith('{"by": "orphan"}\n{"by": "successor"}\n')
    assert output.startswith(f"another start of job 123 has taken {tmp_path} over (process {os.getpid()} on ")
    where = f"process {orphan.pid} on {host or socket.gethostname()} (job 123)"
    assert len(said) == 1 and where in said[0] and "is asked to let go, and taken for dead if it is silent for" in said[0]
    assert taken.note is not None and where in taken.note and taken.note.endswith("that one has let go")
    assert not (tmp_path / CLAIM).exists() and taken.lost is None
    taken.release()
    assert not (tmp_path / HEARTBEAT).exists()


def test_a_killed_orphan_of_this_host_is_taken_over_at_once(tmp_path: Path) -> None:
    orphan = writer(tmp_path)
    orphan.kill()
    orphan.communicate()
    said: list[str] = []
    taken = FolderLock(tmp_path, LONG, 0.02, here=Place("123", 1), say=said.append)
    assert not said and taken.note is not None and f"process {orphan.pid} on" in taken.note and "is gone" in taken.note
    taken.release()


@pytest.mark.parametrize("here", [None, Place("124", 1), Place("123", 0)], ids=["no job", "another job", "the same start"])
def test_any_other_second_writer_is_refused_at_once(tmp_path: Path, here: Place | None) -> None:
    first = writer(tmp_path)
    words = rf"is being written by another process \(process {first.pid} on .* \(job 123\), last seen \d+ s ago"
    with pytest.raises(ConfigError, match=words):
        FolderLock(tmp_path, LONG, 0.02, here=here)
    assert not (tmp_path / CLAIM).exists()
    FolderLock(tmp_path, LONG, 0.02, here=Place("123", 9)).release()
    first.communicate(timeout=60)


# -- a writer of another host -------------------------------------------------------------------------------------------


def test_a_dead_orphan_of_another_host_is_waited_for_until_it_is_stale(tmp_path: Path) -> None:
    beat(tmp_path, job="123", restarts=0)
    said: list[str] = []
    taken = FolderLock(tmp_path, 0.5, 0.02, here=Place("123", 1), say=said.append)
    assert "process 4711 on node7 (job 123), last seen " in said[0] and "s ago, an earlier start of this job" in said[0]
    assert taken.note is not None and taken.note.endswith("that one is gone")
    assert (read_heartbeat(tmp_path) or {})["token"] == taken.token
    taken.release()


def test_another_job_waits_for_a_writer_on_another_host_that_may_be_dead(tmp_path: Path) -> None:
    """And is refused as soon as that one beats; outside of a job nobody waits."""
    beat(tmp_path, job="123", restarts=0)
    with pytest.raises(ConfigError, match="is being written by another process"):
        FolderLock(tmp_path, 0.5, 0.02)
    with pytest.raises(ConfigError, match="is being written by another process"):
        FolderLock(tmp_path, LONG, 0.02, here=Place("124", 0), say=lambda text: beat(tmp_path, job="123", restarts=0))
    said: list[str] = []
    taken = FolderLock(tmp_path, 0.5, 0.02, here=Place("124", 0), say=said.append)
    assert "it is taken for dead if it is silent" in said[0]
    assert taken.note is not None and "is gone; its lock was taken over" in taken.note
    taken.release()


def test_an_orphan_that_beats_on_is_refused_in_the_end(tmp_path: Path) -> None:
    beat(tmp_path, job="123", restarts=0)
    done = threading.Event()

    def beats() -> None:
        while not done.wait(0.01):
            beat(tmp_path, job="123", restarts=0)

    thread = threading.Thread(target=beats)
    thread.start()
    try:
        with pytest.raises(ConfigError, match=r"on node7 \(job 123\).*it was asked to let go 2 s ago"):
            FolderLock(tmp_path, 1.0, 0.02, here=Place("123", 1))  # it waits twice as long
    finally:
        done.set()
        thread.join()
    assert not (tmp_path / CLAIM).exists()


@pytest.mark.parametrize(
    ("name", "values"),
    [(HEARTBEAT, {"job": "77"}), (HEARTBEAT, {"job": "123", "restarts": 2}), (CLAIM, {"job": "123", "restarts": 2})],
    ids=["another job came", "a later start came", "a later start waits too"],
)
def test_who_waits_gives_way(tmp_path: Path, name: str, values: dict[str, Any]) -> None:
    beat(tmp_path, job="123", restarts=0)
    with pytest.raises(ConfigError, match="is being written by another process"):
        FolderLock(tmp_path, LONG, 0.02, here=Place("123", 1), say=lambda text: beat(tmp_path, name, **values))
    assert (read_json(tmp_path / CLAIM) or {}).get("restarts") == (2 if name == CLAIM else None)


def test_an_interrupt_ends_the_waiting_and_takes_the_claim_back(tmp_path: Path) -> None:
    beat(tmp_path, job="123", restarts=0)

    def interrupt() -> None:
        soon((tmp_path / CLAIM).exists)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes ignore it
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            FolderLock(tmp_path, LONG, 0.02, here=Place("123", 1))
    finally:
        signal.signal(signal.SIGINT, before)
    thread.join()
    assert not (tmp_path / CLAIM).exists() and (read_heartbeat(tmp_path) or {})["token"] == "theirs"


# -- one process --------------------------------------------------------------------------------------------------------


def test_what_is_being_written_is_finished_first(tmp_path: Path) -> None:
    old = FolderLock(tmp_path, LONG, 0.01, here=Place("123", 0))
    came: list[FolderLock] = []
    thread = threading.Thread(target=lambda: came.append(FolderLock(tmp_path, LONG, 0.01, here=Place("123", 1))))
    with old.held():
        thread.start()
        soon(lambda: old.lost)
        first = (read_heartbeat(tmp_path) or {})["time"]
        soon(lambda: (read_heartbeat(tmp_path) or {})["time"] > first)  # it beats on, for this may take minutes
        with old.held():  # a part of the same checkpoint
            pass
        assert not came
    thread.join()
    with pytest.raises(WriteError, match="another start of job 123"), old.held():
        pass
    old.release()
    assert came[0].lost is None and (read_heartbeat(tmp_path) or {})["token"] == came[0].token  # the old one took nothing with it
    came[0].release()


def test_a_frozen_writer_looks_before_it_writes(tmp_path: Path) -> None:
    old = FolderLock(tmp_path, 60.0, LONG, here=Place("123", 0))  # its heart beats too seldom to see anything
    beat(tmp_path, job="123", restarts=1)
    with old.held():  # its own beat is young: nobody can have taken the folder over
        pass
    old._renewed -= 31  # half of the 60 s after which others take it for dead
    with pytest.raises(WriteError, match=r"another start of job 123 has taken .* over \(process 4711 on node7"), old.held():
        pass
    old._closing.set()
    old.release()
    assert (read_heartbeat(tmp_path) or {})["token"] == "theirs"


def test_a_frozen_writer_whose_successor_has_ended_writes_nothing(tmp_path: Path) -> None:
    old = FolderLock(tmp_path, 60.0, LONG)
    (tmp_path / HEARTBEAT).unlink()
    with old.held():  # somebody tidied up
        pass
    old._renewed -= 31
    with pytest.raises(WriteError, match=r"has taken .* over, and has ended"), old.held():
        pass
    old._closing.set()
    old.release()


def test_a_last_beat_of_the_orphan_does_not_drive_its_successor_away(tmp_path: Path) -> None:
    new = FolderLock(tmp_path, LONG, 0.01, here=Place("123", 1))
    beat(tmp_path, job="123", restarts=0)
    soon(lambda: (read_heartbeat(tmp_path) or {})["token"] == new.token)
    assert new.lost is None
    new.release()


def test_a_lock_file_that_was_removed_is_not_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who opened the file before its owner removed it must lock the one that is there now, or two would hold a lock each."""
    real, calls = FolderLock._open, []

    def opened(self: FolderLock) -> int:
        fd = real(self)
        if not calls:
            (tmp_path / LOCK).unlink()
        calls.append(fd)
        return fd

    monkeypatch.setattr(FolderLock, "_open", opened)
    first = FolderLock(tmp_path)
    assert len(calls) == 2
    with pytest.raises(ConfigError, match="is being written by another process"):
        FolderLock(tmp_path)
    first.release(remove=True)
    assert not list(tmp_path.iterdir())


VALUES = st.none() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
BEATS = st.dictionaries(st.sampled_from(["host", "pid", "time", "token", "job", "restarts", "x"]), VALUES)


@settings(max_examples=150, deadline=None)
@given(BEATS, BEATS, st.booleans())
def test_any_heartbeat_and_claim_are_understood_or_refused(
    tmp_path_factory: pytest.TempPathFactory, heart: dict[str, Any], claim: dict[str, Any], job: bool
) -> None:
    folder = tmp_path_factory.getbasetemp() / "beats"
    folder.mkdir(exist_ok=True)
    (folder / HEARTBEAT).write_text(json.dumps(heart))
    (folder / CLAIM).write_text(json.dumps(claim))
    try:
        FolderLock(folder, 0.05, 0.01, here=Place("1", 1) if job else None).release()
    except ConfigError as error:
        assert "is being written by another process" in str(error)
    for path in folder.iterdir():
        path.unlink()


# -- a run --------------------------------------------------------------------------------------------------------------


def test_a_requeued_run_goes_on_where_its_orphan_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, told = tmp_path / "run", tmp_path / "told"
    monkeypatch.setattr(run_folder, "BEAT_SECONDS", 0.02)
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    assert run(tmp_path / "whole", *SMALL) == 0

    class Tell(Collect):
        def send(self, event: AnyEvent) -> None:
            if isinstance(event, RunFinished):
                told.write_text(f"{event.status}: {event.reason}")

    def orphan() -> None:
        os._exit(run(folder, *SMALL, double=Double(seconds=0.05), sink=Tell()))

    process = FORK.Process(target=orphan)
    process.start()
    soon((folder / "events.jsonl").exists)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    sink = Collect()
    assert run(folder, *SMALL, sink=sink) == 0
    process.join(60)
    assert process.exitcode == 1
    assert told.read_text().startswith(f"failed: another start of job 123 has taken {folder} over (process {os.getpid()} on ")
    assert contents(folder) == contents(tmp_path / "whole")
    notes = [event.text for event in sink.of(Note)]
    assert any("is asked to let go" in text for text in notes) and any(text.endswith("that one has let go") for text in notes)
    assert sink.of(RunStarted)[0].job == "123"
    assert json.loads((folder / "provenance.json").read_text())["slurm"] == {"job": "123", "restarts": 0}
    assert not (folder / HEARTBEAT).exists() and not (folder / CLAIM).exists()


def test_a_signal_while_a_run_waits_for_its_folder_is_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    folder = tmp_path / "run"
    folder.mkdir()
    beat(folder, job="123", restarts=0)

    class Signal(Collect):
        def send(self, event: AnyEvent) -> None:
            super().send(event)
            if isinstance(event, Note):
                os.kill(os.getpid(), signal.SIGUSR1)

    sink = Signal()
    assert run(folder, *SMALL, sink=sink) == 3
    assert [(event.status, event.reason) for event in sink.of(RunFinished)] == [("stopped", "SIGUSR1")]
    assert (read_heartbeat(folder) or {})["token"] == "theirs" and not (folder / CLAIM).exists()


def test_a_signal_just_after_the_folder_was_taken_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = FolderLock._write

    def written_and_stopped(self: FolderLock) -> None:
        write(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(FolderLock, "_write", written_and_stopped)
    with pytest.raises(KeyboardInterrupt):
        run_folder.RunFolder(tmp_path / "deep" / "run", {}, [])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "run").mkdir()
    with pytest.raises(KeyboardInterrupt):
        run_folder.RunFolder(tmp_path / "run", {}, [])
    assert list((tmp_path / "run").iterdir()) == []


def test_a_run_of_another_command_is_told_as_one(tmp_path: Path) -> None:
    """Not as a hundred keys that differ."""
    many = {f"key{i}": i for i in range(40)}
    first = run_folder.RunFolder(tmp_path / "run", {"conversation": 1}, ["expertchat", "converse"])
    first.open()
    first.close()
    with pytest.raises(ConfigError, match=r"is a run of converse, not of judge; name another folder$"):
        run_folder.RunFolder(tmp_path / "run", many, ["expertchat", "judge"])
    with pytest.raises(ConfigError, match="is a run of another config"):
        run_folder.RunFolder(tmp_path / "run", many, ["expertchat", "converse"])
