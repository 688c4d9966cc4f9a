"""The scheduler over backends with lanes: requests join the running batch, and the fullest lane runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from expertchat.backends.asking import Ask, Flow
from expertchat.backends.base import Embedding as Embeds
from expertchat.backends.base import EmbedRequest, GenerateRequest, ScoreRequest, Scores
from expertchat.events import AnyEvent, Progress
from expertchat.records import Message
from expertchat.talk.scheduler import WAIT, Scheduler
from tests.lanes import LONG, SHORT, LaneDouble, steps, talk
from tests.scripted import BagOfWords, Double


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
    double.max_batch = 4

    def lower(request: GenerateRequest) -> str:
        double.max_batch = 2
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


class Clock:
    """Time that goes on by `tick` seconds with each advance of a lane."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 0.0, tick

    def __call__(self) -> float:
        return self.now

    def go_on(self) -> None:
        self.now += self.tick


@pytest.mark.parametrize("tick", [0.25, 3.0])
def test_a_score_and_an_embedding_do_not_wait_for_the_replies_that_others_write(tick: float) -> None:
    """Sixteen dialogues write for a hundred advances; a judgement meanwhile is scored and embedded within a second, or the next advance."""
    clock, order = Clock(tick), list[tuple[str, float]]()
    a = LaneDouble(32, work=clock.go_on)

    class Scoring(Double):
        def score(self, requests: Sequence[ScoreRequest]) -> list[Scores]:
            order.append(("score", clock.now))
            return super().score(requests)

    class Embedding(BagOfWords):
        def embed(self, requests: Sequence[EmbedRequest]) -> list[Embeds]:
            order.append(("embed", clock.now))
            return super().embed(requests)

    def judgement() -> Flow[None]:
        yield [Ask("a", GenerateRequest("wim", (Message("user", "x"),), LONG))]
        order.append(("asked", clock.now))
        yield [Ask("s", ScoreRequest("s", (Message("user", "x"),), tuple("12")))]
        yield [Ask("e", EmbedRequest("e", "x"))]

    scheduler = Scheduler({"a": a, "s": Scoring(), "e": Embedding()}, clock=clock)
    # Each of the long ones is done one advance after the one before it, so that an advance ends after each step.
    assert scheduler.run([judgement(), *(steps(f"q{n}", [n]) for n in range(2, 101))])
    assert [name for name, _ in order] == ["asked", "score", "embed"]
    (_, asked), (_, scored), (_, embedded) = order
    assert scored - asked <= max(tick, WAIT["score"]) and embedded - scored <= max(tick, WAIT["embed"])
    assert clock.now >= 99 * tick  # and all others were still writing
    assert scheduler.longest["embed"] == embedded - scored


def test_two_models_of_one_device_take_turns_by_the_clock() -> None:
    clock = Clock(6.0)
    order: list[str] = []

    def at(name: str) -> Callable[[], None]:
        return lambda: (order.append(name), clock.go_on())[0]

    a, b = LaneDouble(16, work=at("a")), LaneDouble(16, work=at("b"))
    flows = [*(steps(f"p{n}", [n]) for n in range(1, 9)), steps("q", [1], "b")]
    assert Scheduler({"a": a, "b": b}, clock=clock).run(flows)
    assert order == ["a"] * 4 + ["b"] + ["a"] * 4  # after 24 of 6 seconds each the wait of 20 is over


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
