"""Where the time of a round goes: phases that add up to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from expertchat.backends.asking import Ask
from expertchat.backends.base import Decoding, EmbedRequest, GenerateRequest, ScoreRequest
from expertchat.events import PhaseStarted
from expertchat.folder.run import Hub
from expertchat.records import Message
from expertchat.training import clock as timing
from expertchat.training.clock import Clock
from tests.scripted import Collect

ASKED = (Message("user", "?"),)
HOW = Decoding("sampling")


def talk(key: str, label: str = "a") -> Ask:
    return Ask("a", GenerateRequest(key, ASKED, HOW), label)


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock reads, one after the other."""
    left: list[float] = []
    monkeypatch.setattr(timing.time, "monotonic", lambda: left.pop(0))
    return left


@pytest.fixture
def clock() -> Iterator[Clock]:
    sink = Collect()
    with Hub(sink) as hub:
        yield Clock(hub, 3)
    assert all(event.round == 3 for event in sink.of(PhaseStarted))


def test_an_advance_is_parted_among_those_in_it(clock: Clock, times: list[float]) -> None:
    times += [100.0, 120.0, 121.0, 124.0]
    with clock("talking"):
        clock.spent([talk("c0/t01"), talk("c0/t01/k0"), talk("c0/t01/k1"), talk("c1/a-by-b", "judge")], 8.0)  # 2 s for each
        clock.spent([Ask("b", ScoreRequest("c0/score", ASKED, ("1",)), "judge")], 3.0)
        clock.spent([Ask("embedder", EmbedRequest("c0", "text"), "embedder")], 1.5)
    with clock("updating"):
        pass
    # Of 20 s, 4 went into candidates, 2 + 3 into judging, 1.5 into embedding; 2 into a turn and 7.5 into what lies between: talking.
    assert clock.seconds == {"talking": 9.5, "candidates": 4.0, "embedding": 1.5, "judging": 5.0, "updating": 3.0}


def test_devices_that_work_side_by_side_share_the_time(clock: Clock, times: list[float]) -> None:
    times += [0.0, 10.0]
    with clock("talking"):
        clock.spent([talk("c0/t01/k0")], 9.0)
        clock.spent([talk("c0/a-by-b", "judge")], 9.0)
        clock.spent([talk("c0/t02")], 2.0)
    assert clock.seconds == {"talking": 1.0, "candidates": 4.5, "judging": 4.5}  # 20 s of two devices in 10 s


def test_the_speed_is_that_of_all_rollouts(clock: Clock, times: list[float]) -> None:
    assert clock.figures([])["tokens_per_second"] is None
    times += [0.0, 4.0]
    with clock("talking"):
        clock.spent([talk("c0/t01/k0")], 3.0)
    figures = clock.figures([])
    assert (figures["seconds_talking"], figures["seconds_candidates"], figures["tokens_per_second"]) == (1.0, 3.0, 0.0)
