"""What each backend says that it can is what it can."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from expertchat.backends.base import Backend, Capabilities, Decoding, GenerateRequest, ScoreRequest
from expertchat.backends.scripted import ScriptedBackend
from expertchat.records import Message
from tests import tiny
from tests.lanes import LaneDouble
from tests.scripted import BagOfWords, Double

GREEDY = Decoding("greedy", 4)
ASKED = GenerateRequest("k", (Message("user", "Do herons nest in trees?"),), GREEDY)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Backend:
    from expertchat.backends.local import LocalBackend

    return LocalBackend.load(tiny.build(tmp_path_factory.mktemp("model"), "llama3"), "tiny", device="cpu", dtype="fp32")


@pytest.fixture(params=["local", "scripted", "double"])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "local":
        found: Backend = request.getfixturevalue("local")
        return found
    return ScriptedBackend(lambda _: "Yes, they do.") if request.param == "scripted" else Double()


def test_every_backend_has_what_all_must_have(backend: Backend) -> None:
    assert [done.tokens for done in backend.generate([ASKED])] and backend.count_tokens(ASKED.messages) > 0
    assert backend.device == "cpu" and (backend.max_batch is None or backend.max_batch > 0)
    heard: list[str] = []
    backend.say = heard.append
    backend.say("lower")
    assert heard == ["lower"]
    backend.forget("k")


def test_who_serves_requests_as_they_come_has_a_lane(backend: Backend) -> None:
    if not backend.capabilities.lanes:
        with pytest.raises(NotImplementedError, match="whole batches only"):
            backend.lane(GREEDY)
        return
    lane = backend.lane(GREEDY)
    ticket = lane.add(ASKED)
    assert lane.continuous and lane.load == 1
    done = dict(lane.advance())
    while lane.load:
        done |= dict(lane.advance())
    lane.close()
    assert done[ticket].text == backend.generate([ASKED])[0].text


def test_who_knows_tokens_gives_them(backend: Backend) -> None:
    done = backend.generate([ASKED])[0]
    assert bool(done.ids) == bool(done.prompt) == backend.capabilities.tokens
    assert not done.ids or len(done.prompt) == backend.count_tokens(ASKED.messages)


def test_who_knows_probabilities_scores(backend: Backend) -> None:
    assert backend.capabilities.scores
    options = tuple(f" {n}" for n in range(1, 11))
    (scores,) = backend.score([ScoreRequest("k", ASKED.messages, options)])
    assert len(scores.logprobs) == 10 and sum(map(math.exp, scores.logprobs)) <= 1 + 1e-6


def test_who_keeps_something_can_forget_it(local: Backend) -> None:
    from expertchat.backends.local import LocalBackend

    assert local.capabilities.keeps and isinstance(local, LocalBackend) and local.engine is not None
    long = GenerateRequest("k", (Message("user", "Do herons nest in trees? " * 8),), GREEDY)
    local.generate([long])
    assert len(local.engine.kept) > 0
    local.forget("k")
    assert len(local.engine.kept) == 0


def test_what_says_nothing_runs_whole_batches_on_the_cpu() -> None:
    assert Double.capabilities == BagOfWords.capabilities == Capabilities(lanes=False, keeps=False, tokens=False, scores=True)
    assert BagOfWords().device == Double().device == "cpu" and Double().max_batch is None
    assert LaneDouble(device="cuda:1").device == "cuda:1"


def test_a_backend_that_lacks_a_part_cannot_be_made(tmp_path: Path) -> None:
    class Half(Backend):
        def count_tokens(self, messages: object) -> int:
            return 0

    with pytest.raises(TypeError, match="generate"):
        Half()  # type: ignore[abstract]
