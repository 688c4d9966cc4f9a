"""Models behind an address: what a server can, what it is asked, and what its faults become. The server is a stub (tests/served.py)."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator

import pytest

from expertchat.backends.base import Decoding, EmbedRequest, GenerateRequest, ScoreRequest
from expertchat.backends.loading import client_for
from expertchat.backends.served.embedder import ServedEmbedder
from expertchat.backends.served.level import REST, Gate, Level
from expertchat.backends.served.options import Walk
from expertchat.backends.served.terms import Terms
from expertchat.backends.served.trouble import retry_after
from expertchat.command.compose import load
from expertchat.config import ConfigError
from expertchat.records import Message
from tests.served import Stub, Traits, rated
from tests.served_runs import KEY, QUICK, TALK, asked, connected

OPTIONS = tuple(f" {n}" for n in range(1, 11))


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


def test_an_embedder_that_is_not_there_at_the_start_is_waited_for_as_a_model_is() -> None:
    """`server.wait`, and not the patience of a request in the middle of a run: ten minutes by default."""
    found = load("converse", ["embedder=server", "embedder.url=http://127.0.0.1:9/v1", "embedder.model=e"]).embedder
    terms = Terms(QUICK.model_copy(update={"patience": 3.0, "wait": 0.1}))
    with pytest.raises(ConfigError, match=r"embedder: .*no connection.*\(server\.wait\)"):
        ServedEmbedder.connect(found, client_for(found, terms))


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
