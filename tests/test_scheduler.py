"""The scheduler: full batches, a fixed order, results that do not depend on the batch size."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from expertchat.backends.asking import Ask, Flow, Place, together
from expertchat.backends.base import Completion, Decoding, EmbedRequest, GenerateRequest, Result
from expertchat.events import AnyEvent, Progress, TextStreamed
from expertchat.records import Message
from expertchat.talk.scheduler import Scheduler
from tests.scripted import BagOfWords, Double

LONG, SHORT = Decoding(max_new_tokens=100), Decoding(max_new_tokens=10)


def request(key: str, decoding: Decoding = LONG) -> GenerateRequest:
    return GenerateRequest(key, (Message("user", key),), decoding)


def talk(name: str, turns: int, out: dict[str, list[str]], who: tuple[str, ...] = ("a",)) -> Flow[None]:
    """`turns` requests, one after the other, to the backends `who` in turn."""
    for i in range(turns):
        (answer,) = yield [Ask(who[i % len(who)], request(f"{name}/{i}"))]
        assert isinstance(answer, Completion)
        out.setdefault(name, []).append(answer.text)


def test_batches_stay_full_when_flows_end_at_different_times() -> None:
    # 4 flows of 1, 2, 3 and 4 turns: 10 requests. Width 2, batch 2: 5 full batches, because an ended flow is replaced at once.
    double, out = Double(), dict[str, list[str]]()
    scheduler = Scheduler({"a": double}, max_batch=2, total=4)
    assert scheduler.run([talk(f"f{n}", n, out) for n in (1, 2, 3, 4)], width=2)
    # f0's 1 + f1's 2 + f2's 3 turns run beside the next flow's; the last flow ends alone where nobody is left to fill its batches.
    assert sum(len(b) for b in double.batches) == 10
    assert [len(b) for b in double.batches] == [2, 2, 2, 2, 1, 1]
    assert scheduler.finished == 4 and scheduler.batches == 6


def test_no_batch_is_larger_than_max_batch() -> None:
    double, out = Double(), dict[str, list[str]]()
    Scheduler({"a": double}, max_batch=3).run([talk(f"f{n}", 2, out) for n in range(8)])
    assert [len(b) for b in double.batches] == [3, 3, 3, 3, 2, 2]  # 16 requests; the last two flows start late, and have two turns each


def test_the_fullest_queue_runs_first_and_decodings_do_not_mix() -> None:
    def ask(key: str, decoding: Decoding) -> Flow[None]:
        yield [Ask("a", request(key, decoding))]

    double = Double()
    Scheduler({"a": double}, max_batch=8).run([ask("s1", SHORT), ask("l1", LONG), ask("l2", LONG), ask("s2", SHORT), ask("l3", LONG)])
    assert double.batches == [["l1", "l2", "l3"], ["s1", "s2"]]


def test_two_names_of_one_backend_share_batches() -> None:
    double, out = Double(), dict[str, list[str]]()
    Scheduler({"a": double, "b": double}, max_batch=4).run([talk("x", 2, out, ("a", "b")), talk("y", 2, out, ("b", "a"))])
    assert double.batches == [["x/0", "y/0"], ["x/1", "y/1"]]


@pytest.mark.parametrize("max_batch", [1, 2, 3, 64])
def test_results_do_not_depend_on_the_batch_size(max_batch: int) -> None:
    first, out = dict[str, list[str]](), dict[str, list[str]]()
    Scheduler({"a": Double(), "b": Double()}, 1).run([talk(f"f{n}", 3, first, ("a", "b")) for n in range(5)], width=1)
    Scheduler({"a": Double(), "b": Double()}, max_batch).run([talk(f"f{n}", 3, out, ("a", "b")) for n in range(5)])
    assert out == first and len(out) == 5 and all(len(texts) == 3 for texts in out.values())


def test_order_is_the_same_in_every_run() -> None:
    def batches() -> list[list[str]]:
        a, b, out = Double(), Double(), dict[str, list[str]]()
        Scheduler({"a": a, "b": b}, 3).run([talk(f"f{n}", n % 4 + 1, out, ("a", "b")) for n in range(9)])
        return a.batches + b.batches

    assert batches() == batches()


def test_one_flow_may_ask_several_kinds_at_once_and_gets_the_results_in_its_order() -> None:
    got: list[list[Result]] = []

    def mixed() -> Flow[None]:
        got.append((yield [Ask("e", EmbedRequest("1", "x")), Ask("a", request("2")), Ask("e", EmbedRequest("3", "y"))]))

    Scheduler({"a": Double(lambda r: "two"), "e": BagOfWords()}, 8).run([mixed()])
    assert [type(r).__name__ for r in got[0]] == ["Embedding", "Completion", "Embedding"]


def test_together_joins_asks_and_returns_in_order() -> None:
    def count(name: str, n: int) -> Flow[str]:
        texts = []
        for i in range(n):
            (answer,) = yield [Ask("a", request(f"{name}{i}"))]
            assert isinstance(answer, Completion)
            texts.append(answer.text)
        return name + ":" + ",".join(texts)

    results: list[list[str]] = []

    def outer() -> Flow[None]:
        results.append((yield from together([count("x", 1), count("y", 3), count("z", 0)])))

    double = Double(lambda r: r.key.upper())
    Scheduler({"a": double}, 8).run([outer()])
    assert results == [["x:X0", "y:Y0,Y1,Y2", "z:"]]
    assert double.batches == [["x0", "y0"], ["y1"], ["y2"]]


def test_flows_are_taken_one_by_one() -> None:
    """At most `width` flows are alive: an endless supply does not fill the memory."""
    made = 0

    def supply() -> Flow[None]:
        yield [Ask("a", request(str(made)))]

    def endless():  # type: ignore[no-untyped-def]
        nonlocal made
        while True:
            made += 1
            yield supply()

    double = Double()
    scheduler = Scheduler({"a": double}, 2)
    scheduler.stop = lambda: len(double.batches) >= 5
    assert not scheduler.run(endless(), width=4)
    assert made == 4 + 4 * 2  # 4 at first, then 2 for each batch but the last, after which nothing is started


def test_stop_finishes_the_batch_and_closes_the_flows() -> None:
    closed: list[str] = []
    out = dict[str, list[str]]()

    def flow(name: str) -> Flow[None]:
        try:
            yield from talk(name, 3, out)
        finally:
            closed.append(name)

    double = Double()
    scheduler = Scheduler({"a": double}, 2)
    scheduler.stop = lambda: len(double.batches) == 1
    assert scheduler.run([flow("x"), flow("y")]) is False
    assert {name: len(texts) for name, texts in out.items()} == {"x": 1, "y": 1}  # what the batch gave has arrived
    assert closed == ["x", "y"]


def test_streams_places_only_and_strips_what_steers_a_terminal() -> None:
    events: list[AnyEvent] = []

    def flow() -> Flow[None]:
        yield [Ask("a", request("1"), place=Place("c0000", 2, "b")), Ask("a", request("2"))]

    scheduler = Scheduler({"a": Double(lambda r: "\x1b[31mred and more" * 2)}, 4, events.append, total=1)
    scheduler.run([flow()])
    texts = [e for e in events if isinstance(e, TextStreamed)]
    assert [(e.conversation, e.turn, e.speaker, e.text) for e in texts] == [("c0000", 2, "b", "[31mred and more")]
    last = [e for e in events if isinstance(e, Progress)][-1]
    assert (last.finished, last.total, last.turns, last.tokens) == (1, 1, 1, 2 * 5)  # "...red and more...red and more": 5 words each


def test_a_short_answer_of_a_backend_is_an_error() -> None:
    double = Double()
    double.generate = lambda requests, on_text=None: []  # type: ignore[method-assign,assignment]
    with pytest.raises(RuntimeError, match="0 results for 1 requests"):
        Scheduler({"a": double}, 2).run([talk("x", 1, {})])


# -- lanes --------------------------------------------------------------------------------------------------------------


class _Lane:
    """Rows that each need as many steps as their request has words; an advance ends at the first step that ends a row."""

    def __init__(self, backend: LaneDouble, decoding: Decoding) -> None:
        self.backend, self.decoding, self.closed = backend, decoding, False
        self.rows: dict[int, list[Any]] = {}  # ticket -> [steps left, request, on_text]

    @property
    def load(self) -> int:
        return len(self.rows)

    def add(self, request: GenerateRequest, on_text: Callable[[str], None] | None = None) -> int:
        self.backend.tickets += 1
        self.rows[self.backend.tickets] = [len(request.messages[0].content.split()), request, on_text]
        return self.backend.tickets

    def advance(self) -> list[tuple[int, Completion]]:
        self.backend.work()
        done: list[tuple[int, Completion]] = []
        while not done:
            running = list(self.rows.items())[: self.backend.max_batch]
            self.backend.steps.append([row[1].key for _, row in running])
            for ticket, row in running:
                row[0] -= 1
                if row[2] is not None:
                    row[2](f"{row[1].key} so far")
                if not row[0]:
                    done.append((ticket, Completion(row[1].key.upper(), 1, 0.0, "stop")))
                    del self.rows[ticket]
        return done

    def close(self) -> None:
        self.closed = True


class LaneDouble:
    """A backend whose lanes record which rows ran in each step, and the threads in which they did."""

    def __init__(self, max_batch: int = 2, device: str = "cpu", work: Callable[[], object] = lambda: None) -> None:
        self.max_batch, self.device, self._work = max_batch, device, work
        self.steps: list[list[str]] = []
        self.lanes: list[_Lane] = []
        self.threads: set[int] = set()
        self.forgotten: list[str] = []
        self.tickets = 0
        self.computing = False

    def lane(self, decoding: Decoding) -> _Lane:
        self.lanes.append(_Lane(self, decoding))
        return self.lanes[-1]

    def work(self) -> None:
        self.threads.add(threading.get_ident())
        self.computing = True
        self._work()
        self.computing = False

    def forget(self, key: str) -> None:
        assert not self.computing
        self.forgotten.append(key)


def steps(name: str, lengths: Sequence[int], who: str = "a", decoding: Decoding = LONG, place: Place | None = None) -> Flow[None]:
    """One request after the other, which need these numbers of steps; `who` gives the backend of each in turn."""
    for i, length in enumerate(lengths):
        request = GenerateRequest(f"{name}{i}", (Message("user", "x " * length),), decoding)
        yield [Ask(who[i % len(who)], request, label=name, place=place)]


def test_the_next_request_of_a_flow_joins_the_running_batch() -> None:
    # p's first request ends after 1 step, and its second runs beside q's, which needs 3 steps in all.
    double = LaneDouble(max_batch=2)
    assert Scheduler({"a": double}).run([steps("p", [1, 3]), steps("q", [3])])
    assert double.steps == [["p0", "q0"], ["q0", "p1"], ["q0", "p1"], ["p1"]]
    assert [lane.closed for lane in double.lanes] == [True]


def test_one_lane_for_each_decoding_and_none_before_it_is_needed() -> None:
    double = LaneDouble()
    Scheduler({"a": double, "b": double}).run([steps("p", [1, 1], "ab"), steps("q", [1], "b", SHORT)])
    assert [lane.decoding for lane in double.lanes] == [LONG, SHORT]
    assert all(lane.closed for lane in double.lanes)


def test_lanes_are_closed_after_an_error_and_after_a_stop() -> None:
    def fail() -> None:
        raise ValueError("out of memory")

    broken = LaneDouble(work=fail)
    with pytest.raises(ValueError, match="out of memory"):
        Scheduler({"a": broken}).run([steps("p", [1])])
    stopped = LaneDouble()
    assert not Scheduler({"a": stopped}, stop=lambda: len(stopped.steps) > 0).run([steps("p", [1, 1])])
    assert stopped.steps == [["p0"]]
    assert [lane.closed for lane in broken.lanes + stopped.lanes] == [True, True]


def test_rows_without_max_batch_are_those_of_each_backend() -> None:
    # Width: twice the larger limit = 2 * 3 flows. Of 7 flows only 6 begin before the first advance.
    a, b = LaneDouble(max_batch=3), LaneDouble(max_batch=1)
    begun: list[str] = []
    a._work = lambda: begun and seen.append(len(begun))
    seen: list[int] = []

    def flow(name: str) -> Flow[None]:
        begun.append(name)
        yield from steps(name, [1, 1], "ab")

    Scheduler({"a": a, "b": b}).run([flow(f"f{n}") for n in range(7)])
    assert seen[0] == 6
    assert max(map(len, a.steps)) == 3 and max(map(len, b.steps)) == 1
    whole = Double()
    Scheduler({"a": whole}).run([talk(f"f{n}", 1, {}) for n in range(100)])
    assert [len(batch) for batch in whole.batches] == [64, 36]  # nobody says how many: 64


def test_a_backend_may_lower_its_rows_during_a_run() -> None:
    double = Double()
    double.max_batch = 4  # type: ignore[attr-defined]

    def lower(request: GenerateRequest) -> str:
        double.max_batch = 2  # type: ignore[attr-defined]
        return "x"

    double.reply = lower
    Scheduler({"a": double}, max_batch=8).run([talk(f"f{n}", 1, {}) for n in range(9)])
    assert [len(batch) for batch in double.batches] == [4, 2, 2, 1]


def test_a_lane_runs_empty_once_all_flows_have_begun() -> None:
    # p waits for b beside q while r still runs on a: 1 + 2 steps of a with all of them, then 1 step of b with all of them.
    a, b = LaneDouble(max_batch=4), LaneDouble(max_batch=4)
    Scheduler({"a": a, "b": b}).run([steps("p", [1, 1], "ab"), steps("q", [1, 1], "ab"), steps("r", [3, 1], "ab")])
    assert a.steps == [["p0", "q0", "r0"], ["r0"], ["r0"]]
    assert b.steps == [["p1", "q1", "r1"]]


def test_the_fullest_lane_runs_while_flows_are_left_to_begin() -> None:
    # Width 3 and five flows: after a's first step p and q wait at b, r alone at a. So b goes first, and s and t take their places at a.
    a, b = LaneDouble(max_batch=4), LaneDouble(max_batch=4)
    flows = [steps(name, [3 if name == "r" else 1, 1], "ab") for name in "pqrst"]
    Scheduler({"a": a, "b": b}).run(flows, width=3)
    assert (a.steps[0], b.steps[0]) == (["p0", "q0", "r0"], ["p1", "q1"])
    assert a.steps[1] == ["r0", "s0", "t0"]


def test_a_request_does_not_wait_for_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A WIM response is embedded, and written, while the other dialogues are still judged, not after all of them."""
    monkeypatch.setattr("expertchat.talk.scheduler.PATIENCE", 3)
    order: list[str] = []
    a, b = LaneDouble(16, work=lambda: order.append("a")), LaneDouble(16, work=lambda: order.append("b"))
    # p is done at a after 1 step and waits for b; each advance of a ends when one more of the seven others is done.
    flows = [steps("p", [1, 1], "ab"), *(steps(f"q{n}", [n]) for n in range(2, 9))]
    assert Scheduler({"a": a, "b": b}).run(flows)
    assert order == ["a", "a", "a", "a", "b", "a", "a", "a", "a"]  # passed over three times, then it is its turn


def test_progress_counts_what_waits_and_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expertchat.talk.scheduler.PROGRESS_SECONDS", 0.0)
    events: list[AnyEvent] = []
    double = LaneDouble(max_batch=1)
    Scheduler({"a": double}, announce=events.append, total=2).run([steps("p", [1]), steps("q", [1, 1])])
    counts = [event.waiting for event in events if isinstance(event, Progress)]
    # p runs first, then q's two requests, one after the other
    assert counts == [{"q": 1}, {"q": 1}, {}, {}]


def test_forget_reaches_each_backend_once_between_its_advances() -> None:
    a, b = LaneDouble(), LaneDouble()
    scheduler = Scheduler({"a": a, "b": b, "third": a, "e": BagOfWords()})

    def flow() -> Flow[None]:
        yield from steps("p", [1, 1], "ab")
        scheduler.forget("p/")

    scheduler.run([flow(), steps("q", [1, 1, 1], "ab")])
    assert a.forgotten == b.forgotten == ["p/"]


# -- several devices ----------------------------------------------------------------------------------------------------


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
