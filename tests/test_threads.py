"""How many threads compute beside other programs, and how they wait for each other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from expertchat.backends import threads
from expertchat.backends.threads import Others, Threads, busy_seconds, wait_shortly

TICK = os.sysconf("SC_CLK_TCK")


@pytest.fixture(autouse=True)
def nobody_followed() -> Iterator[None]:
    yield
    threads.follow(None)


def given(most: int, cores: int, taken: Sequence[float | None]) -> list[int]:
    """How many threads there are after each look at what others take."""
    left, found = iter(taken), list[int]()
    one = Threads(most, cores, lambda: next(left), lambda number: None)
    for _ in taken:
        one.look()
        found.append(one.now)
    return found


@pytest.mark.parametrize(
    ("most", "cores", "taken", "wanted"),
    [
        (2, 2, [0.0, 0.3, 0.39, 0.3], [2, 2, 2, 2]),  # 2 - 0.39 + 0.4 are two cores still
        (2, 2, [0.7, 1.0, 0.3, 0.3, 0.3], [1, 1, 1, 1, 1]),  # and 2 - 0.3 + 0.25 are no second one yet
        (2, 2, [1.0, 0.1, 1.0, 0.1, 0.1], [1, 1, 1, 1, 2]),  # one calm look is not enough
        (2, 2, [1.0, None, 0.1, None, 0.1], [1, 1, 1, 1, 2]),  # a look that came too soon says nothing
        (2, 2, [2.0, 5.0], [1, 1]),  # never none
        (16, 16, [3.0, 0.0, 0.0], [13, 13, 16]),
        (4, 64, [30.0, 62.0, 40.0, 40.0], [4, 2, 2, 4]),  # a part of a large machine, whose other cores are busy or not
    ],
)
def test_as_many_threads_as_there_are_free_cores(most: int, cores: int, taken: Sequence[float | None], wanted: list[int]) -> None:
    assert given(most, cores, taken) == wanted


def test_threads_are_given_only_where_the_number_changes() -> None:
    heard: list[int] = []
    one = Threads(2, 2, lambda: 1.0, heard.append)
    for _ in range(3):
        one.look()
    assert heard == [1]


@pytest.fixture
def stat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes what the system says of cores: user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice."""
    monkeypatch.setattr(threads, "STAT", tmp_path / "stat")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {1, 12}, raising=False)

    def write(**cores: list[int]) -> None:
        lines = ["cpu  9 9 9 9 9 9 9 9 9 9", *(f"{core} {' '.join(map(str, of))}" for core, of in cores.items()), "intr 5", "ctxt 7"]
        (tmp_path / "stat").write_text("\n".join(lines) + "\n")

    return write


def test_the_cores_that_may_be_used_count_and_what_gives_way_does_not(stat: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    stat(cpu1=[10, 500, 20, 900, 30, 1, 2, 3, 4, 5], cpu2=[999] * 10, cpu12=[100, 0, 0, 0], cpu13=[999] * 10)
    monkeypatch.setattr("os.nice", lambda more: 0)
    assert busy_seconds() == (10 + 20 + 1 + 2 + 3 + 100) / TICK
    monkeypatch.setattr("os.nice", lambda more: 5)  # who gives way itself has the others' low priority beside it
    assert busy_seconds() == (10 + 500 + 20 + 1 + 2 + 3 + 100) / TICK


def test_what_others_take_is_what_this_program_does_not(stat: Callable[..., None]) -> None:
    clock, own = iter([0.0, 0.4, 1.0, 3.0, 9.0]), iter([5.0, 5.3, 5.5, 9.0, 9.5])
    stat(cpu1=[0, 0, 0, 0], cpu12=[0, 0, 0, 0])
    others = Others(lambda: next(clock), lambda: next(own))
    assert others.cores() is None  # 0.4 s are too short to say
    stat(cpu1=[TICK, 0, 0, 0], cpu12=[0, 0, TICK // 4, 0])
    assert others.cores() == pytest.approx(0.75)  # 1.25 s in one second, 0.5 s of it our own
    assert others.cores() == 0.0  # 0 s in two, and 3.5 s of our own: the kernel counts in ticks, and no core is less than free
    assert others.cores() is None  # half a second of work in six: it has slept, and who worked then may be gone


def test_this_machine_says_what_it_does() -> None:
    before = busy_seconds()
    assert before > 0
    sum(range(2_000_000))
    assert busy_seconds() >= before


def test_where_the_system_says_nothing_threads_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "STAT", tmp_path / "none")
    threads.follow(4)
    threads.look()
    assert threads._followed is None


def test_following_ends_with_the_next_run(stat: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", heard.append)
    monkeypatch.setattr(threads, "SECONDS", 0.0)
    monkeypatch.setattr(threads, "ASLEEP", 0.0)  # so short a time may be one in which this program had no core
    stat(cpu1=[0, 0, 0, 0], cpu12=[0, 0, 0, 0])
    threads.follow(2)
    stat(cpu1=[10**9, 0, 0, 0], cpu12=[0, 0, 0, 0])
    threads.look()
    threads.follow(None)
    threads.look()
    assert heard == [1]


@pytest.mark.parametrize(
    ("dtypes", "device", "followed"),
    [
        (["bfloat16"], "cpu", True),
        (["bfloat16", "float16"], "cpu", True),
        (["bfloat16", "float32"], "cpu", False),  # texts in fp32 must not depend on what else runs
        (["bfloat16"], "cuda", False),
        ([], "cpu", False),
    ],
)
def test_who_follows(dtypes: list[str], device: str, followed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    threads.follow_for(SimpleNamespace(device=torch.device(device), dtype=getattr(torch, name)) for name in dtypes)
    assert (threads._followed is not None) is followed


# -- waiting --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "wanted"),
    [({}, threads.SPINS["GOMP_SPINCOUNT"]), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_threads_wait_shortly_unless_somebody_said_how(said: dict[str, str], wanted: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    wait_shortly()
    found = os.environ.get("GOMP_SPINCOUNT")
    os.environ.pop("GOMP_SPINCOUNT", None)
    os.environ.update({name: value for name, value in before.items() if name == "GOMP_SPINCOUNT"})
    assert found == wanted


def test_it_is_said_before_torch_is_there() -> None:
    """libgomp reads the environment when it is loaded."""
    door = "lambda rest: print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules) or 0"
    said = f"import os, sys; from expertchat.doors import entry; entry.find = lambda name: {door}; entry.enter(['models'])"
    without = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    found = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True, env=without)
    assert found.stdout == f"{threads.SPINS['GOMP_SPINCOUNT']} False\n"
