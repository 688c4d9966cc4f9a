"""Models behind an address: what a server can, what it is asked, and what its faults become. The server is a stub (tests/served.py)."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from expertchat.backends.base import Decoding, EmbedRequest, GenerateRequest, ScoreRequest
from expertchat.backends.loading import client_for
from expertchat.backends.served.backend import ServedBackend
from expertchat.backends.served.config import ServerConfig
from expertchat.backends.served.embedder import ServedEmbedder
from expertchat.backends.served.level import REST, Gate, Level
from expertchat.backends.served.options import Walk
from expertchat.backends.served.terms import Terms
from expertchat.backends.served.trouble import retry_after
from expertchat.command.compose import load
from expertchat.config import ConfigError
from expertchat.folder.run import Halted
from expertchat.records import Message
from tests.scripted import BagOfWords, Collect, Double
from tests.served import Handler, Stub, Traits, is_probe, rated

KEY, HERE = "sesame-opens-3f9", "http://here:1/v1"
QUICK = ServerConfig(patience=0.3, wait=0.2, attempts=3, timeout=5.0)
SAMPLED = Decoding("sampling", 40, temperature=0.9)
TALK = (Message("system", "You are Anna."), Message("user", "Do herons nest in trees?"))
OPTIONS = tuple(f" {n}" for n in range(1, 11))


@lru_cache
def composed(*more: str) -> Any:
    """A config whose addresses are filled in afterwards: to compose one takes longer than a test."""
    served = [word for seat in "ab" for word in (f"model@experts.{seat}=server", f"experts.{seat}.url={HERE}", f"experts.{seat}.model=m")]
    return load("converse", [*served, "view=none", "topics=list", "topics.list=[bees,tides]", *more])


def config(stub: Stub, *more: str) -> Any:
    return composed(*more).experts["b"].model_copy(update={"url": stub.url})


def connected(stub: Stub, *more: str, settings: ServerConfig = QUICK, seed: int = 0) -> ServedBackend:
    found = config(stub, *more)
    return ServedBackend.connect(found, seed, client_for(found, Terms(settings)))


def asked(key: str = "k", prefix: str = "", **more: Any) -> GenerateRequest:
    return GenerateRequest(key, TALK, SAMPLED, prefix, **more)


# -- the level --------------------------------------------------------------------------------------------------------------


def test_the_level_doubles_until_it_is_too_high_and_then_loses_a_fifth_an_episode() -> None:
    now = [0.0]
    level = Level(clock=lambda: now[0])
    for _ in range(20):
        level.answered(out=20)
    assert level.limit == 40  # as many answers as there may be, while as many were out
    for _ in range(100):
        level.answered(out=39)
    assert level.limit == 40  # it was never full
    for _ in range(8):
        level.too_many(2.0)  # one episode, however many say so
    assert (level.limit, level.resumes) == (32, 2.0)
    for _ in range(32):
        level.answered(out=32)
    assert level.limit == 32  # it rests
    now[0] = REST
    level.too_many(None)
    assert level.limit == 25  # 32 * 0.8
    now[0] = 2 * REST
    for _ in range(25):
        level.answered(out=25)
    assert level.limit == 27  # no doubling any more: 25 * 1.1


def test_as_many_go_out_as_the_level_allows_and_the_first_who_came_first() -> None:
    async def work() -> tuple[list[int], int]:
        gate, order, most = Gate(Level(most=3)), list[int](), 0

        async def one(i: int) -> None:
            nonlocal most
            await gate.enter()
            most = max(most, gate.out)
            order.append(i)
            await asyncio.sleep(0)
            gate.leave()

        await asyncio.gather(*(one(i) for i in range(12)))
        return order, most

    order, most = asyncio.run(work())
    assert order == list(range(12)) and most == 3


def test_a_date_and_a_number_say_when_to_come_again() -> None:
    assert retry_after({"retry-after": "2"}) == 2.0 and retry_after({"retry-after-ms": "250"}) == 0.25
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0  # long past
    assert retry_after({"retry-after": "soon"}) is None


# -- the walk to the options ------------------------------------------------------------------------------------------------


def walked(tokens: dict[str, dict[str, float]], options: tuple[str, ...] = OPTIONS) -> tuple[list[float], list[str]]:
    """(probabilities of the options, where the walk went) over `tokens`: after a text, token -> probability."""
    walk, went = Walk(options), list[str]()
    while (begin := walk.next()) is not None:
        went.append(begin)
        walk.take(begin, {token: math.log(p) for token, p in tokens.get(begin, {}).items()})
    return [math.exp(p) for p in walk.logprobs()], went


def test_options_are_whole_tokens_or_are_walked_to() -> None:
    whole, went = walked({"": {" 7": 0.5, " 1": 0.2, " 10": 0.1, " herons": 0.2}})
    assert went == [""] and whole[6] == pytest.approx(0.5) and (whole[0], whole[9]) == (pytest.approx(0.2), pytest.approx(0.1))
    # Single digits after a space: " 1" is 0.9 * 0.4 of which a quarter goes on to " 10".
    digits, went = walked({"": {" ": 0.9, "x": 0.1}, " ": {"1": 0.4, "7": 0.5}, " 1": {"0": 0.25, ".": 0.7}})
    assert went == ["", " ", " 1"]
    assert digits[0] == pytest.approx(0.9 * 0.4 * 0.75) and digits[9] == pytest.approx(0.9 * 0.4 * 0.25)
    assert digits[6] == pytest.approx(0.45) and sum(digits) == pytest.approx(0.9 * 0.9)


def test_tokens_that_are_shown_without_their_space_are_known() -> None:
    found, _ = walked({"": {"7": 0.6, "3": 0.2}})
    assert found[6] == pytest.approx(0.6) and found[2] == pytest.approx(0.2)
    names, _ = walked({"": {" A": 0.6, "A": 0.1, " B": 0.3}}, (" A", " B"))
    assert names == [pytest.approx(0.6), pytest.approx(0.3)]  # "A" right after the colon is another answer


# -- what it can ------------------------------------------------------------------------------------------------------------


def test_what_a_server_can_is_tried() -> None:
    with Stub(Traits(adapters=True)) as stub:
        can = connected(stub).can
    assert (can.begins, can.seen, can.seeds, can.system, can.alternation) == ("flag", 20, True, True, False)
    assert (can.counts, can.context, can.adapters, can.choices, can.extras) == ("tokenize", 4096, True, True, True)


def test_what_it_cannot_is_found_too() -> None:
    lacking = Traits(system=False, alternation=True, begins=False, seen=0, strict=True, tokenize=False, context=None, seeds=False)
    with Stub(lacking) as stub:
        backend = connected(stub)
    can = backend.can
    assert (can.begins, can.seen, can.seeds, can.system, can.alternation) == ("asked", 0, False, False, True)
    assert (can.counts, can.context, can.adapters, can.choices, can.extras) == (None, None, False, False, False)
    assert not backend.capabilities.scores and backend.info.system_role is False and backend.info.alternation is True
    assert any("4096 tokens are assumed" in note for note in backend.info.notes)


def test_what_the_config_demands_and_the_server_has_not_is_refused_at_the_door() -> None:
    with Stub(Traits(strict=True)) as stub, pytest.raises(ConfigError, match=r"decoding.reply.top_k=5.*does not take top_k"):
        connected(stub, "experts.b.decoding.reply.top_k=5")
    with Stub() as stub, pytest.raises(ConfigError, match=r"server\.max_cost=1: the server does not say what m costs"):
        connected(stub, settings=QUICK.model_copy(update={"max_cost": 1.0}))


# -- answers ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as one:
        yield one


def test_texts_follow_from_seed_and_key_and_come_once(stub: Stub) -> None:
    backend = connected(stub)
    one, two = backend.generate([asked("k"), asked("l")])
    assert one.text != two.text and len(one.text.split()) == one.tokens == 11 and one.finish == "stop"
    before = len(stub.asked)
    assert backend.generate([asked("k")])[0].text == one.text and len(stub.asked) == before  # it is on the ledger
    assert connected(stub, seed=0).generate([asked("k")])[0].text == one.text
    assert connected(stub, seed=1).generate([asked("k")])[0].text != one.text


def test_a_request_is_told_whole_so_that_no_default_of_the_server_mixes_in(stub: Stub) -> None:
    backend = connected(stub, "+experts.b.more.priority=3")
    backend.generate([asked(prefix="Depth:", stop=("\n",))])
    body = stub.chats()[-1]
    assert body["messages"][-1] == {"role": "assistant", "content": "Depth:"} and body["continue_final_message"] is True
    assert (body["top_k"], body["min_p"], body["repetition_penalty"], body["stop"]) == (-1, 0.0, 1.0, ["\n"])
    assert (body["temperature"], body["max_tokens"], body["priority"]) == (0.9, 40, 3)


def test_where_an_answer_cannot_be_begun_its_beginning_is_asked_for() -> None:
    with Stub(Traits(begins=False), reply=lambda body: "Depth: 7 because") as stub:
        (done,) = connected(stub).generate([asked(prefix="Well.\nDepth:")])
        assert stub.chats()[-1]["messages"][-1]["content"].endswith("Well.\nDepth:") and done.text == " 7 because"


def test_a_text_ends_before_a_stop_string_and_at_its_limit(stub: Stub) -> None:
    stub.reply = lambda body: "one two three four"
    backend = connected(stub)
    assert backend.generate([asked(stop=(" three",))])[0].text == "one two"
    short = GenerateRequest("s", TALK, Decoding("greedy", 2))
    assert (backend.generate([short])[0].text, backend.generate([short])[0].finish) == ("one two", "length")


def test_the_probabilities_of_options_are_those_that_the_server_tells(stub: Stub) -> None:
    (scores,) = connected(stub).score([ScoreRequest("k", TALK, OPTIONS, prefix="Depth:")])
    assert [math.exp(p) for p in scores.logprobs] == pytest.approx(rated("Depth:You are Anna."))
    assert len([body for body in stub.chats() if body.get("logprobs")]) == 1


def test_an_option_that_is_not_among_the_likeliest_is_asked_for() -> None:
    with Stub(Traits(seen=5)) as stub:  # of ten options the server tells the likeliest five
        (scores,) = connected(stub).score([ScoreRequest("k", TALK, OPTIONS, prefix="Depth:")])
        assert [math.exp(p) for p in scores.logprobs] == pytest.approx(rated("Depth:You are Anna."))
        assert len([body for body in stub.chats() if body.get("structured_outputs")]) == 5


def test_a_server_that_calls_its_only_choice_certain_is_not_asked_so() -> None:
    with Stub(Traits(seen=5, masks=True)) as stub:
        (scores,) = connected(stub).score([ScoreRequest("k", TALK, OPTIONS, prefix="Depth:")])
        known = sorted(rated("Depth:You are Anna."), reverse=True)[:5]
        assert sorted((math.exp(p) for p in scores.logprobs if p > -math.inf), reverse=True) == pytest.approx(known)


def test_without_probabilities_there_is_no_score_and_a_reason() -> None:
    with Stub(Traits(seen=0)) as stub:
        (scores,) = connected(stub).score([ScoreRequest("k", TALK, OPTIONS, prefix="Depth:")])
    assert scores.problem == "the server tells no log probabilities" and all(map(math.isnan, scores.logprobs))


def test_tokens_are_counted_by_the_server_where_it_matters(stub: Stub) -> None:
    backend = connected(stub)
    before = len(stub.asked)
    assert backend.count_tokens([Message("user", "one two")]) < 100 and len(stub.asked) == before
    assert backend.count_tokens([Message("user", "word " * 1000)]) == 1005  # a frame of 3, a header of 2
    assert len(stub.asked) == before + 1


def test_embeddings_have_length_one_and_long_texts_are_cut_nowhere(stub: Stub) -> None:
    found = load("converse", ["embedder=server", f"embedder.url={stub.url}", "embedder.model=e"]).embedder
    embedder = ServedEmbedder.connect(found, client_for(found, Terms(QUICK)))
    long = "herons fish in the shallow water. " * 60
    one, two, three = embedder.embed([EmbedRequest("a", "herons fish"), EmbedRequest("b", long), EmbedRequest("c", "herons fish")])
    assert one.vector == three.vector and sum(x * x for x in two.vector) == pytest.approx(1.0)
    inputs = [body["input"] for route, body in stub.asked if route.endswith("/embeddings")]
    assert sorted(len(texts) for texts in inputs) == [1, 1, 2] and not stub.twice()


# -- keys -------------------------------------------------------------------------------------------------------------------


def test_a_key_goes_into_the_header_alone(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of-somebody-else-1")
    monkeypatch.setenv("OPENAI_ORG_ID", "an-organisation")
    connected(stub)
    assert all("Authorization" not in headers and "of-somebody" not in json.dumps(headers) for headers in stub.headers)
    assert not any(name.lower().startswith("openai-") for headers in stub.headers for name in headers)
    monkeypatch.setenv("HERE_API_KEY", KEY)
    stub.key, stub.reply = KEY, lambda body: f"my key is {KEY}"
    (done,) = connected(stub, "experts.b.key_from=HERE_API_KEY").generate([asked()])
    assert done.text == "my key is [hidden]"  # it came back


def test_a_wrong_key_is_one_message_without_the_key(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE_API_KEY", KEY)
    stub.key = "another"
    with pytest.raises(ConfigError, match="does not take the key") as caught:
        connected(stub, "experts.b.key_from=HERE_API_KEY")
    assert KEY not in str(caught.value) and len(caught.value.problems) == 1


# -- faults -----------------------------------------------------------------------------------------------------------------


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


def cut(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


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

    def slow(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.end_headers()
        for _ in range(20):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            __import__("time").sleep(0.03)

    stub.fault = first(1000, slow)
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
    backend = connected(stub)
    left = QUICK.model_copy(update={"max_requests": backend.client.sent + 3})
    backend = connected(stub, settings=left)
    with pytest.raises(Halted, match=r"server\.max_requests="):
        backend.generate([asked(str(i)) for i in range(8)])
    assert backend.client.sent == left.max_requests


# -- runs -------------------------------------------------------------------------------------------------------------------


def talk(stub: Stub, folder: Path, *more: str, sink: Collect | None = None) -> int:
    """A conversation of a double with the server, which also judges."""
    from expertchat.talk.converse import run_converse

    words = ["conversation.count=3", "conversation.turns=3", "judging.form=expected", "judging.analysis=false", "server.attempts=3"]
    found = composed(*words, *more)
    experts = {seat: model.model_copy(update={"url": stub.url}) for seat, model in found.experts.items()}
    here = {"experts": found.experts.having(**experts), "run": found.run.model_copy(update={"dir": str(folder)})}
    return run_converse(found.model_copy(update=here), ["expertchat", "converse"], sink or Collect(), embedder=BagOfWords())


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]


def test_a_conversation_is_held_and_judged_over_a_server(stub: Stub, tmp_path: Path) -> None:
    assert talk(stub, tmp_path / "run") == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))
    assert summary["rating_count"] == summary["ratings_read"] > 0 and summary["parse_failures"] == 0
    assert summary["served"]["answers"] == len(lines(tmp_path / "run", "served")) and not stub.twice()
    assert {line["experts"]["a"]["model"] for line in lines(tmp_path / "run", "transcripts")} == {"m"}


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
        kept = [{line["id"]: {**line, "turns": [turn["text"] for turn in line.get("turns", [])]} for line in lines(tmp_path / run, name)}
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
    ratings = lines(tmp_path / "run", "ratings")
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
        assert {line["value"] for line in lines(tmp_path / "both", "ratings")} == {7}


@pytest.mark.slow
def test_a_local_model_and_a_server_talk_side_by_side(stub: Stub, tmp_path: Path) -> None:
    from expertchat.talk.converse import run_converse

    loaded = config(stub)
    served = ServedBackend.connect(loaded, 0, client_for(loaded, Terms(QUICK)))
    words = [f"run.dir={tmp_path / 'run'}", "view=none", "topics=list", "topics.list=[bees]", "conversation.count=2"]
    backends = {"a": Double(), "b": served}
    assert run_converse(load("converse", words), ["expertchat"], Collect(), backends=backends, embedder=BagOfWords()) == 0
    assert stub.chats() and not stub.twice()
