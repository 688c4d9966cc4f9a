"""What the faults of a server become: asked again, null, or the end of the run. Every one in the middle of a run: test_server_faults.py."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from expertchat.backends.base import GenerateRequest
from expertchat.backends.loading import client_for
from expertchat.backends.served.backend import ServedBackend
from expertchat.backends.served.client import Client, wait_for
from expertchat.backends.served.terms import Terms
from expertchat.config import ConfigError
from expertchat.folder.run import Halted
from expertchat.folder.served import Ledger
from expertchat.records import Message, Served
from tests.served import Handler, Stub, is_probe
from tests.served_runs import KEY, QUICK, SAMPLED, asked, config, connected, cut, drips


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as one:
        yield one


def first(times: int, answer: Any) -> Any:
    """A fault of the first `times` chats that are no trial."""
    left = [times]

    def fault(handler: Handler) -> bool:
        if not handler.path.endswith("/chat/completions") or is_probe(handler.body) or not left[0]:
            return False
        left[0] -= 1
        answer(handler)
        return True

    return fault


TRANSIENT = {
    "429": lambda h: h.say(429, {"error": {"message": "slow down"}}, retry_after="0.01"),
    "503": lambda h: h.say(503, {"error": {"message": "loading"}}),
    "html": lambda h: h.say(200, "<html>Sign in to the network</html>"),
    "shape": lambda h: h.say(200, {"result": "herons"}),
    "cut": cut,
}


SLOW = ("html", "cut")  # as the others


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in TRANSIENT])
def test_what_passes_is_asked_again(name: str, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expertchat.backends.served.client.PAUSE", 0.01)
    backend = connected(stub)
    expected = connected(stub).generate([asked()])[0].text
    stub.fault = first(2, TRANSIENT[name])
    (done,) = backend.generate([asked()])
    assert done.text == expected and backend.client.terms.ledger.spent[0] == 3


def test_waiting_is_no_failing(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its three attempts a request that came too early four times has lost none: two of the server's failures are left to it."""
    monkeypatch.setattr("expertchat.backends.served.client.PAUSE", 0.01)
    backend = connected(stub, settings=QUICK.model_copy(update={"patience": 60.0}))
    early, failing = first(4, lambda h: h.say(429, {}, retry_after="0.01")), first(2, TRANSIENT["503"])
    stub.fault = lambda handler: early(handler) or failing(handler)
    (done,) = backend.generate([asked()])
    assert done.text and not done.problem and backend.client.terms.ledger.spent[0] == 7


@pytest.mark.parametrize(
    ("name", "said"),
    [("503", "503: loading"), ("html", "a page for people"), pytest.param("shape", "another shape", marks=pytest.mark.slow)],
)
def test_what_lasts_stops_the_run_or_is_null(name: str, said: str, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expertchat.backends.served.client.PAUSE", 0.01)
    backend = connected(stub)
    stub.fault = first(1000, TRANSIENT[name])
    if name == "503":
        with pytest.raises(Halted, match=said):
            backend.generate([asked()])
        backend = connected(stub, settings=QUICK.model_copy(update={"failing": "null"}))
    (done,) = backend.generate([asked("other")])
    assert done.text == "" and said in (done.problem or "")


def test_a_refusal_is_null_and_the_others_go_on(stub: Stub) -> None:
    backend = connected(stub)
    stub.fault = lambda h: bool(h.body and "bad" in str(h.body) and (h.say(400, {"error": {"message": "content filter"}}) or True))
    good, bad = backend.generate([asked("good"), GenerateRequest("bad", (Message("user", "bad"),), SAMPLED)])
    assert good.text and not good.problem and "400: content filter" in (bad.problem or "")


@pytest.mark.slow
def test_a_slow_reply_is_cut_off_in_time(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expertchat.backends.served.client.PAUSE", 0.01)
    backend = connected(stub, settings=QUICK.model_copy(update={"timeout": 0.15, "attempts": 2, "failing": "null"}))
    stub.fault = first(1000, drips)
    (done,) = backend.generate([asked()])
    assert "no whole answer in time" in (done.problem or "")


def test_a_redirect_is_not_followed_and_the_key_stays(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE_API_KEY", KEY)
    with Stub() as other:
        stub.fault = lambda h: h.say(307, {}, location=f"{other.url}/models") or True
        with pytest.raises(ConfigError, match=rf"sends elsewhere \(307 to {other.url}/models\)"):
            connected(stub, "experts.b.key_from=HERE_API_KEY")
        assert not other.asked


def test_nobody_there_and_no_tls(stub: Stub) -> None:
    with Stub() as gone:
        pass
    with pytest.raises(ConfigError, match=r"no connection .* for 0 s \(server\.wait\)"):
        connected(gone)
    found = config(stub).model_copy(update={"url": stub.url.replace("http:", "https:")})
    with pytest.raises(ConfigError, match="its TLS is not in order"):
        ServedBackend.connect(found, 0, client_for(found, Terms(QUICK)))


def test_a_wrong_model_is_told_with_those_that_there_are(stub: Stub) -> None:
    with pytest.raises(ConfigError, match="has no model heron; it has m, e"):
        connected(stub, "experts.b.model=heron")


@pytest.mark.slow
def test_of_several_addresses_a_lost_one_is_left_out(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expertchat.backends.served.client.PAUSE", 0.01)
    with Stub() as other:
        found = config(stub).model_copy(update={"url": [stub.url, other.url]})
        told: list[str] = []
        backend = ServedBackend.connect(found, 0, client_for(found, Terms(QUICK, say=told.append)))
        backend.generate([asked(str(i)) for i in range(8)])
        assert stub.chats() and other.chats()
    done = backend.generate([asked(f"later{i}") for i in range(8)])
    assert all(one.text for one in done) and any("left out for 60 s" in text for text in told)


def test_a_budget_of_requests_stops_the_run(stub: Stub) -> None:
    backend = connected(stub)  # how many requests that takes is not always the same: some are sent side by side
    left = backend.client.settings = QUICK.model_copy(update={"max_requests": backend.client.sent + 3})
    with pytest.raises(Halted, match=r"server\.max_requests="):
        backend.generate([asked(str(i)) for i in range(8)])
    assert backend.client.sent == left.max_requests


def test_a_budget_of_requests_is_of_all_starts_and_all_servers(stub: Stub) -> None:
    """20 answers of earlier starts, which took a request each, and three more that are allowed: three are sent, by two servers together."""
    ledger = Ledger()
    for n in range(20):
        ledger.keep(Served(id=f"old{n}", key="k", model="m", tries=1, seconds=0.1, server="s", text="so"))
    with Stub() as other:
        terms = Terms(QUICK.model_copy(update={"max_requests": 23, "concurrency": 1}), ledger)
        clients = [Client([url], None, terms) for url in (stub.url, other.url)]
        for client in clients * 2:
            with contextlib.suppress(Halted):
                wait_for(client.ask("/models", {}, lambda found: found))
    assert len(stub.asked) + len(other.asked) == 3
