"""What published servers answer besides the plain form: parts, reasoning, errors with status 200, refusals of one text or of an account."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from expertchat.backends.base import Completion, GenerateRequest
from expertchat.backends.loading import client_for
from expertchat.backends.served.backend import ServedBackend
from expertchat.backends.served.client import IN_A_ROW, wait_for
from expertchat.backends.served.pieces import text_of
from expertchat.backends.served.reading import without
from expertchat.backends.served.terms import Terms
from expertchat.backends.served.trouble import Failed, OddAnswer, trouble_of
from expertchat.backends.template import PLACEHOLDER
from expertchat.config import ConfigError
from expertchat.folder.run import Halted
from expertchat.records import Message
from tests.served import Handler, Stub, is_probe
from tests.served_runs import KEY, QUICK, asked, config, connected


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.setattr("expertchat.backends.served.client.PAUSE", 0.01)
    with Stub() as one:
        yield one


def every(answer: Callable[[Handler], None]) -> Any:
    """A fault of all chats that are no trial."""

    def fault(handler: Handler) -> bool:
        if not handler.path.endswith("/chat/completions") or is_probe(handler.body):
            return False
        answer(handler)
        return True

    return fault


def of(message: dict[str, Any], finish: str = "stop", **more: Any) -> Any:
    """An answer, whole or in pieces of one field each, as it was asked for."""

    def answer(handler: Handler) -> None:
        if not handler.body.get("stream"):
            return handler.say(200, {"choices": [{"message": message, "finish_reason": finish, **more}], "usage": {}})
        deltas = [{"delta": {name: value}} for name, value in message.items()] + [{"delta": {}, "finish_reason": finish, **more}]
        pieces = [f"data: {json.dumps({'choices': [delta]}, ensure_ascii=False)}\n\n" for delta in deltas]
        handler.say(200, "".join(pieces) + "data: [DONE]\n\n", content_type="text/event-stream")

    return every(answer)


def both(backend: ServedBackend, request: GenerateRequest | None = None) -> list[Completion]:
    """The same answer whole and in pieces."""
    whole, pieces = (replace(request or asked(), key=key) for key in ("whole", "pieces"))
    found = wait_for(backend._answer(pieces, lambda text: None))
    assert isinstance(found, Completion)
    return [*backend.generate([whole]), found]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "One.\u2028Two.\u0085Three."}, "One.\u2028Two.\u0085Three."),  # these end no line of a stream
        ({"content": [{"type": "text", "text": "Herons "}, {"type": "text", "text": "fish."}]}, "Herons fish."),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": "Fish."}]},
         "<think>\nHm.\n</think>\n\nFish."),
        ({"reasoning": "Hm.", "content": "Fish."}, "<think>\nHm.\n</think>\n\nFish."),  # vLLM, OpenRouter, Ollama
        ({"reasoning_content": "Hm.", "content": "Fish."}, "<think>\nHm.\n</think>\n\nFish."),
    ],
)  # fmt: skip
def test_forms_of_a_text(message: dict[str, Any], text: str, stub: Stub) -> None:
    backend = connected(stub)
    stub.fault = of(message)
    for done in both(backend):
        assert (done.text, done.problem) == (text, None)
    assert len(stub.chats()) == 2


def test_a_stop_string_is_looked_for_in_what_is_said(stub: Stub) -> None:
    backend = connected(stub)
    stub.fault = of({"reasoning": "First this.\n\nThen that.", "content": "Herons fish.\n\nThey wade."})
    for done in both(backend, asked(stop=("\n\n",))):
        assert done.text == "<think>\nFirst this.\n\nThen that.\n</think>\n\nHerons fish."


def test_no_stop_string_ends_the_thoughts_of_a_server(stub: Stub) -> None:
    text = "<think> Depth: maybe 3? </think> Clear. Depth: 7"

    def cut(body: Mapping[str, Any]) -> str:  # as servers do: anywhere in what is written
        return text[: min((text.index(stop) for stop in body.get("stop", ()) if stop in text), default=len(text))]

    backend = connected(stub, "experts.b.thinking=true")
    stub.reply = cut
    (done,) = backend.generate([asked(stop=("Depth:",))])
    assert done.text == "<think> Depth: maybe 3? </think> Clear. "
    begun = backend.body(asked(prefix="Clear.", stop=("Depth:",)))  # that answer begins outside of any thoughts
    assert begun["stop"] == ["Depth:"] and backend.can.begins != "asked"


def test_what_is_no_text_is_told(stub: Stub) -> None:
    backend = connected(stub)
    stub.fault = of({"content": None})
    assert all("it answered nothing" in (done.problem or "") for done in both(backend))
    stub.fault = of({"refusal": "I will not."})
    assert all("it refused (I will not.)" in (done.problem or "") for done in both(backend, asked(stop=("|",))))
    for shape in ([{"type": "image"}], [3], 7):
        with pytest.raises(OddAnswer, match="its text is none"):
            text_of(shape)


def test_an_end_by_a_stop_string_is_no_end_of_the_model(stub: Stub) -> None:
    backend = connected(stub)
    backend.can = replace(backend.can, tokens=True)
    stub.fault = of({"content": "Fish."}, token_ids=[5, 6], stop_reason="\n")
    assert [(done.ended, done.unshown) for done in both(backend)] == [(False, "stop")] * 2  # its tokens are among the ids
    stub.fault = of({"content": "Fish."}, token_ids=[5, 6], stop_reason=128009)  # Llama 3's <|eot_id|>
    assert [(done.ended, done.unshown) for done in both(backend, asked(stop=("|",)))] == [(True, None)] * 2


@pytest.mark.parametrize("finish", ["error", "abort"])
def test_half_an_answer_is_none(finish: str, stub: Stub) -> None:
    backend = connected(stub)
    stub.fault = of({"content": "Herons nest in"}, finish)
    (done,) = backend.generate([asked()])
    assert done.text == "" and f"broke the answer off ({finish})" in (done.problem or "") and len(stub.chats()) == 3
    stub.fault = of({"content": "Herons herons herons"}, "repetition")
    assert backend.generate([asked("again")])[0].finish == "length"


def test_an_error_with_status_200_is_that_error(stub: Stub) -> None:
    backend = connected(stub)
    left = [2]

    def busy(handler: Handler) -> bool:
        if is_probe(handler.body) or not left[0]:
            return False
        left[0] -= 1
        handler.say(200, {"error": {"code": 429, "message": "slow down"}})
        return True

    stub.fault = busy
    assert backend.generate([asked()])[0].text and backend.client.terms.ledger.spent[0] == 3
    assert trouble_of(Failed({"code": "502", "message": "gone"})).kind == "down" and trouble_of(Failed("odd")).kind == "odd"
    stub.fault = every(lambda h: h.say(200, 'data: {"error": {"message": "It broke.", "code": 400}}\n\n', content_type="text/event-stream"))
    found = wait_for(backend._answer(asked("s"), lambda text: None))
    assert isinstance(found, Completion) and "400: It broke." in (found.problem or "")


# -- one request, or all of them ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "said"),
    [(402, "Insufficient credits"), (402, ""), (400, "Your credit balance is too low to use this"), (429, "insufficient_quota"),
     (403, "Insufficient balance")],
)  # fmt: skip
def test_an_account_that_is_empty_stops_the_run(status: int, said: str, stub: Stub) -> None:
    backend = connected(stub)
    stub.fault = every(lambda h: h.say(status, {"error": {"message": said}}))
    with pytest.raises(Halted, match="its quota or credit is used up"):
        backend.generate([asked()])


def test_a_text_that_is_flagged_is_one_request(stub: Stub) -> None:
    backend = connected(stub)
    stub.fault = lambda h: bool(
        h.body and "bad" in str(h.body) and (h.say(403, {"error": {"message": "Your input was flagged by moderation"}}) or True)
    )
    good, bad = backend.generate([asked("good"), replace(asked("bad"), messages=(Message("user", "bad"),))])
    assert good.text and "it keeps the answer back (403: Your input was flagged" in (bad.problem or "")
    stub.fault = every(lambda h: h.say(403, {"error": {"message": "Forbidden"}}))
    with pytest.raises(Halted, match="does not take the key"):
        backend.generate([asked("later")])


def test_refusals_without_end_stop_the_run(stub: Stub) -> None:
    backend = connected(stub)
    stub.fault = every(lambda h: h.say(400, {"error": {"message": "no such field"}}))
    with pytest.raises(Halted, match=f"so for {IN_A_ROW} requests in a row"):
        backend.generate([asked(str(i)) for i in range(IN_A_ROW + 5)])
    backend = connected(stub, settings=QUICK.model_copy(update={"failing": "null"}))
    assert all(done.problem for done in backend.generate([asked(str(i)) for i in range(IN_A_ROW + 5)]))


# -- what is sent ---------------------------------------------------------------------------------------------------------------


ALL = [f"experts.b.decoding.{stage}.top_p=1" for stage in ("topic", "reply", "judge")]


def refusing(word: Callable[[Any], bool], status: int = 400) -> Any:
    """A server that does not take requests of a kind, trials among them."""

    def fault(handler: Handler) -> bool:
        if not handler.path.endswith("/chat/completions") or not word(handler.body):
            return False
        handler.say(status, {"error": {"message": "that is not supported here"}})
        return True

    return fault


def test_what_a_server_does_not_take_is_not_sent(stub: Stub) -> None:
    stub.fault = refusing(lambda body: "stream_options" in body or "stop" in body or {"temperature", "top_p"} <= set(body))
    backend = connected(stub, *ALL)
    assert (backend.can.nucleus, backend.can.stops, backend.can.streams) == (False, False, "plain")
    assert all(done.text and not done.problem for done in both(backend, asked(stop=("\n",))))
    stub.fault = refusing(lambda body: "stream" in body, 422)
    assert connected(stub).can.streams is None
    stub.fault = None
    assert connected(stub).can.streams == "counted"
    stub.fault = refusing(lambda body: {"temperature", "top_p"} <= set(body))
    with pytest.raises(ConfigError, match=r"decoding\.reply\.top_p=0\.9: the server of m takes no top_p beside a temperature; set it to 1"):
        connected(stub, "experts.b.decoding.reply.method=sampling", "experts.b.decoding.reply.top_p=0.9")


def test_a_temperature_that_is_refused_is_told_at_the_door(stub: Stub) -> None:
    stub.fault = refusing(lambda body: body.get("temperature", 1.0) != 1.0)
    with pytest.raises(ConfigError) as told:
        connected(stub, "experts.b.decoding.reply.method=sampling", "experts.b.decoding.reply.temperature=0.7")
    assert "does not take temperature=0.7" in str(told.value) and "that is not supported here" in str(told.value)


def test_a_blank_message_is_sent_as_words(stub: Stub) -> None:
    backend = connected(stub)
    backend.generate([replace(asked(), messages=(Message("user", "Herons?"), Message("assistant", " "), Message("user", "So?")))])
    assert [message["content"] for message in stub.chats()[-1]["messages"]] == ["Herons?", PLACEHOLDER, "So?"]


# -- what it costs, and what it must not say ----------------------------------------------------------------------------------------


def test_a_server_that_counts_nothing_costs_what_its_bytes_do(stub: Stub) -> None:
    stub.fault = every(lambda h: h.say(200, {"choices": [{"message": {"content": "x" * 300}, "finish_reason": "stop"}]}))
    backend = connected(stub, "experts.b.prices=[10,30]")
    backend.generate([asked()])
    sent = sum(len(message.content) for message in asked().messages)
    assert backend.client.terms.ledger.spent == (1, pytest.approx((sent // 3 * 10 + 100 * 30) / 1e6))


def test_a_placeholder_for_a_key_is_no_secret(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, text in (("none", "There were none left."), (KEY, f"The key is {KEY}.")):
        monkeypatch.setenv("HERE_API_KEY", key)
        found = config(stub, "experts.b.key_from=HERE_API_KEY")
        backend = ServedBackend.connect(found, 0, client_for(found, Terms(QUICK)))
        stub.fault = of({"content": text})
        (done,) = backend.generate([asked(key)])
        assert done.text == ("There were none left." if key == "none" else "The key is [hidden].")


def test_a_name_with_a_suffix_is_the_model(stub: Stub) -> None:
    with pytest.raises(ConfigError, match="has no model x:floor"):
        connected(stub, "experts.b.model='x:floor'")
    with pytest.raises(ConfigError, match=r"The model `m:floor` does not exist"):  # it was asked for, and this server does not know it
        connected(stub, "experts.b.model='m:floor'")


@pytest.mark.parametrize(
    ("said", "left"),
    [("Depth: 7", " 7"), ("depths: 7", "depths: 7"), ("Missing: x\nDepth: 7", " 7"), ("Depths 7", "Depths 7"), ("  Depth 7", " 7")],
)
def test_what_was_begun_is_taken_off_where_its_word_ends(said: str, left: str) -> None:
    assert without(said, "Missing: x\nDepth:" if ":" in said else "Depth") == left
