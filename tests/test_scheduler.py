"""The scheduler: full batches, a fixed order, results that do not depend on the batch size."""

from __future__ import annotations

from typing import Any

import pytest

from expertchat.backends.asking import Ask, Flow, Place, together
from expertchat.backends.base import Completion, Decoding, EmbedRequest, GenerateRequest, Result
from expertchat.events import AnyEvent, Progress, TextStreamed
from expertchat.records import Message
from expertchat.talk.scheduler import Scheduler
from tests.lanes import LONG, SHORT, LaneDouble, request, talk
from tests.scripted import BagOfWords, Double


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


def test_what_goes_on_together_does_not_wait_for_one_another() -> None:
    """x asks thrice while y's only answer takes as long: each of x's follows as soon as the one before is there."""
    order: list[str] = []

    def one(name: str, lengths: list[int]) -> Flow[str]:
        for i, length in enumerate(lengths):
            yield [Ask("a", GenerateRequest(f"{name}{i}", (Message("user", "x " * length),), LONG))]
            order.append(f"{name}{i}")
        return name

    def outer() -> Flow[None]:
        got.append((yield from together([one("x", [1, 1, 1]), together([one("y", [5]), one("n", [])]), one("z", [2])])))

    got: list[Any] = []
    assert Scheduler({"a": LaneDouble(8)}, total=1).run([outer()])
    assert got == [["x", ["y", "n"], "z"]]
    assert order == ["x0", "z0", "x1", "x2", "y0"]  # z's two steps end with x's second


def test_what_goes_on_together_ends_with_the_flow_that_asked() -> None:
    closed: list[str] = []

    def one(name: str, asks: int) -> Flow[None]:
        try:
            for i in range(asks):
                yield [Ask("a", request(f"{name}{i}"))]
            raise ValueError(name)
        finally:
            closed.append(name)

    def outer(*asks: int) -> Flow[None]:
        try:
            yield from together([one(name, n) for name, n in zip("xy", asks, strict=True)])
        finally:
            closed.append("outer")

    with pytest.raises(ValueError, match="x"):
        Scheduler({"a": Double()}).run([outer(1, 3)])
    assert closed == ["x", "y", "outer"]
    del closed[:]
    double = Double()
    assert not Scheduler({"a": double}, stop=lambda: bool(double.batches)).run([outer(2, 3)])
    assert closed == ["x", "y", "outer"]


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
