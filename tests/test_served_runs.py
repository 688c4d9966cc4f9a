"""Whole runs with models behind an address: what is written, what goes on after an end, and where no key is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from expertchat.backends.loading import client_for
from expertchat.backends.served.backend import ServedBackend
from expertchat.backends.served.terms import Terms
from expertchat.command.compose import load
from expertchat.config import ConfigError
from tests.alike import records
from tests.scripted import BagOfWords, Collect, Double
from tests.served import Handler, Stub, Traits, is_probe
from tests.served_runs import KEY, QUICK, config, talk


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as one:
        yield one


def test_a_conversation_is_held_and_judged_over_a_server(stub: Stub, tmp_path: Path) -> None:
    assert talk(stub, tmp_path / "run") == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))
    assert summary["rating_count"] == summary["ratings_read"] > 0 and summary["parse_failures"] == 0
    assert summary["served"]["answers"] == len(records(tmp_path / "run", "served")) and not stub.twice()
    assert {line["experts"]["a"]["model"] for line in records(tmp_path / "run", "transcripts")} == {"m"}


def test_a_run_that_stops_asks_nothing_twice_and_ends_as_one_that_did_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expertchat.backends.served.client.PAUSE", 0.01)
    with Stub() as whole:
        assert talk(whole, tmp_path / "whole") == 0
    with Stub() as stub:
        for broken in (4, 9, 17):
            stub.fault = lambda h, after=broken: (
                h.body is not None and not is_probe(h.body) and len(h.served.answered) >= after and (h.say(503, {}) or True)
            )
            sink = Collect()
            assert talk(stub, tmp_path / "run", sink=sink) == 3
            assert "goes on where this one stops" in sink.events[-1].reason
        stub.fault = None
        assert talk(stub, tmp_path / "run") == 0
        assert not stub.twice() and sum(stub.answered.values()) == sum(whole.answered.values())
    for name in ("transcripts", "ratings", "wim", "rewards"):
        kept = [{line["id"]: {**line, "turns": [turn["text"] for turn in line.get("turns", [])]} for line in records(tmp_path / run, name)}
                for run in ("whole", "run")]  # fmt: skip
        assert kept[0] == kept[1], name


def test_what_is_not_answered_is_null_counted_and_told(stub: Stub, tmp_path: Path) -> None:
    """Every second request of a judge is refused: half of the batch."""
    seen = [0]

    def half(handler: Handler) -> bool:
        if "logprobs" not in (handler.body or {}) or is_probe(handler.body):
            return False
        seen[0] += 1
        return bool(seen[0] % 2 and (handler.say(400, {"error": {"message": "content filter"}}) or True))

    stub.fault = half
    assert talk(stub, tmp_path / "run", "judging.wim.enabled=false", "judging.z=0.0") == 0
    ratings = records(tmp_path / "run", "ratings")
    null = [line for line in ratings if line["expected"] is None]
    assert len(null) == len(ratings) // 2 and {line["fault"] for line in null} == {"unanswered"}
    assert "content filter" in null[0]["problem"] and null[0]["value"] is None


def test_no_key_is_in_any_file(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE_API_KEY", KEY)
    stub.key, stub.reply = KEY, lambda body: f"the key is {KEY}, says {len(body['messages'])} {body.get('seed')}."
    keys = ["experts.a.key_from=HERE_API_KEY", "experts.b.key_from=HERE_API_KEY"]
    sink = Collect()
    assert talk(stub, tmp_path / "run", *keys, sink=sink) == 0
    stub.fault = lambda h: h.say(401, {"error": {"message": f"the key {KEY} is wrong"}}) or True
    with pytest.raises(ConfigError):
        talk(stub, tmp_path / "two", *keys)
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY not in "".join(map(repr, sink.events))


def test_expected_ratings_of_a_judge_without_probabilities_are_refused_at_the_door(tmp_path: Path) -> None:
    with Stub(Traits(seen=0)) as stub:
        with pytest.raises(ConfigError, match=r"judging.form=expected.*experts\.a.*judging.form=sampled"):
            talk(stub, tmp_path / "run")
        stub.reply = lambda body: "7"
        assert talk(stub, tmp_path / "both", "judging.form=both") == 0  # what it cannot is sampled
        assert {line["value"] for line in records(tmp_path / "both", "ratings")} == {7}


@pytest.mark.slow
def test_a_local_model_and_a_server_talk_side_by_side(stub: Stub, tmp_path: Path) -> None:
    from expertchat.talk.converse import run_converse

    loaded = config(stub)
    served = ServedBackend.connect(loaded, 0, client_for(loaded, Terms(QUICK)))
    words = [f"run.dir={tmp_path / 'run'}", "view=none", "topics=list", "topics.list=[bees]", "conversation.count=2"]
    backends = {"a": Double(), "b": served}
    assert run_converse(load("converse", words), ["expertchat"], Collect(), backends=backends, embedder=BagOfWords()) == 0
    assert stub.chats() and not stub.twice()
