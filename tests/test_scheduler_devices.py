"""The scheduler over several devices: a thread for each, all else in the main one."""

from __future__ import annotations

import threading

import pytest

from expertchat.backends.asking import Flow, Place
from expertchat.events import AnyEvent, TextStreamed
from expertchat.talk.scheduler import Scheduler
from tests.lanes import LaneDouble, steps, talk


def test_one_device_needs_no_thread() -> None:
    a, b = LaneDouble(), LaneDouble()
    Scheduler({"a": a, "b": b}).run([steps("p", [1, 1], "ab")])
    assert a.threads | b.threads == {threading.get_ident()}


def test_devices_work_at_the_same_time_in_one_thread_each() -> None:
    """Each advance waits until the other device is in one too: without overlap the barrier breaks."""
    barrier = threading.Barrier(2)
    a, b = (LaneDouble(device=device, work=lambda: barrier.wait(timeout=20)) for device in ("cuda:0", "cuda:1"))
    assert Scheduler({"a": a, "b": b}).run([steps("p", [2, 2, 2], "a"), steps("q", [1, 1, 1], "b")])
    assert a.steps == [["p0"], ["p0"], ["p1"], ["p1"], ["p2"], ["p2"]] and b.steps == [["q0"], ["q1"], ["q2"]]
    assert len(a.threads) == len(b.threads) == 1
    assert len(a.threads | b.threads | {threading.get_ident()}) == 3


def test_cuda_and_cuda_0_are_one_device() -> None:
    a, b = LaneDouble(device="cuda"), LaneDouble(device="cuda:0")
    Scheduler({"a": a, "b": b}).run([steps("p", [1, 1], "ab")])
    assert a.threads | b.threads == {threading.get_ident()}


def test_flows_and_announcements_stay_in_the_main_thread() -> None:
    seen: set[int] = set()
    events: list[AnyEvent] = []

    def announce(event: AnyEvent) -> None:
        seen.add(threading.get_ident())
        events.append(event)

    def flow(name: str) -> Flow[None]:
        yield from steps(name, [1, 2, 1], "ab", place=Place(name, 0, "a"))
        seen.add(threading.get_ident())

    a, b = LaneDouble(device="cuda:0"), LaneDouble(device="cuda:1")
    scheduler = Scheduler({"a": a, "b": b}, announce=announce, total=3)
    assert scheduler.run([flow(name) for name in "pqr"])
    assert seen == {threading.get_ident()}
    assert {event.conversation for event in events if isinstance(event, TextStreamed)} == {"p", "q", "r"}
    assert (scheduler.finished, scheduler.turns, scheduler.tokens) == (3, 9, 9)  # 3 flows of 3 requests, a token each


def test_an_error_of_one_device_is_raised_and_the_other_finishes_its_advance() -> None:
    running, failed, ended = threading.Event(), threading.Event(), threading.Event()

    def fail() -> None:
        assert running.wait(timeout=20)
        failed.set()
        raise ValueError("device lost")

    def slow() -> None:
        running.set()
        assert failed.wait(timeout=20)
        ended.set()

    a, b = LaneDouble(device="cuda:0", work=fail), LaneDouble(device="cuda:1", work=slow)
    with pytest.raises(ValueError, match="device lost"):
        Scheduler({"a": a, "b": b}).run([steps("p", [1]), steps("q", [1], "b")])
    assert ended.is_set() and [lane.closed for lane in a.lanes + b.lanes] == [True, True]


def test_stop_waits_for_every_device_and_keeps_what_they_gave() -> None:
    barrier = threading.Barrier(2)
    got: list[str] = []
    a, b = (LaneDouble(device=device, work=lambda: barrier.wait(timeout=20)) for device in ("cuda:0", "cuda:1"))

    def flow(who: str) -> Flow[None]:
        yield from steps("p", [1], who)
        got.append(who)
        yield from steps("q", [1], who)

    scheduler = Scheduler({"a": a, "b": b}, stop=lambda: bool(a.threads))
    assert not scheduler.run([flow("a"), flow("b")])
    assert sorted(got) == ["a", "b"] and a.steps == b.steps == [["p0"]]


def test_a_backend_on_another_device_forgets_in_its_own_thread() -> None:
    a, b = LaneDouble(device="cuda:0"), LaneDouble(device="cuda:1")
    scheduler = Scheduler({"a": a, "b": b})
    where: list[int] = []
    a.forget = lambda key: where.append(threading.get_ident())  # type: ignore[method-assign]

    def flow() -> Flow[None]:
        yield from steps("p", [1])
        scheduler.forget("p/")
        yield from steps("q", [1])

    scheduler.run([flow(), steps("r", [1], "b")])
    assert set(where) == a.threads and b.forgotten == ["p/"]


def test_texts_are_the_same_on_one_device_and_on_two() -> None:
    def texts(*devices: str) -> dict[str, list[str]]:
        a, b = (LaneDouble(device=device) for device in devices)
        out = dict[str, list[str]]()
        assert Scheduler({"a": a, "b": b}, max_batch=2).run([talk(f"f{n}", n % 4 + 1, out, ("a", "b")) for n in range(9)])
        return out

    assert texts("cpu", "cpu") == texts("cuda:0", "cuda:1")
