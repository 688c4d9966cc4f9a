"""A small faithful server of OpenAI's protocol: it counts what it is asked, and fails as it is told to.

Words are tokens. A message costs its words and three more, the beginning of an answer two; an answer that is begun for it costs its words
alone. Texts follow from the chat and the seed. It renders as vLLM does unless `traits` say otherwise.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

WORDS = (
    "amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "kelp", "lichen", "maple", "nectar", "otter", "pine",
    "quartz", "reed", "spruce", "tide", "wren",
)  # fmt: skip
Fault = Callable[["Handler"], bool]
"""Answers in the server's place and says so (True), or leaves it to the server."""


@dataclass(frozen=True)
class Traits:
    """What this server can."""

    system: bool = True
    alternation: bool = False
    begins: bool = True
    seen: int = 20
    strict: bool = False  # refuses fields that OpenAI does not know
    tokenize: bool = True
    adapters: bool = False  # and the ids of tokens
    context: int | None = 4096
    cost: float | None = None
    seeds: bool = True
    masks: bool = False  # what is said by choice is told as certain
    values: Literal["chat", "pair"] | None = None  # how a reward model is asked: its number is that of words, the activation a tenth of it
    mixes: bool = False  # what is asked of the base while an adapter works gets that adapter


@dataclass
class Stub:
    """`fault` is asked before every answer. `key`: what it wants to be shown. `slow`: seconds for an answer. Entered again after it was
    left, it is the same server begun again: at its address, knowing what it has answered."""

    traits: Traits = Traits()
    fault: Fault | None = None
    key: str | None = None
    slow: float = 0.0
    reply: Callable[[Mapping[str, Any]], str] | None = None
    asked: list[tuple[str, Any]] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)  # by what was asked, its stream aside
    adapters: dict[str, list[str]] = field(default_factory=dict)  # by name, what was in its folder
    texts: dict[str, str] = field(default_factory=dict)  # the same, with what was said
    headers: list[dict[str, str]] = field(default_factory=list)
    working: list[Handler] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    closed: bool = False
    port: int = 0

    def __enter__(self) -> Stub:
        stub, self.closed = self, False

        class Own(Handler):
            served = stub

        self.http = ThreadingHTTPServer(("127.0.0.1", self.port), Own)
        self.port = self.http.server_address[1]
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]  (connections that are torn off)
        self.http.daemon_threads = True
        threading.Thread(target=lambda: self.http.serve_forever(0.02), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True
        self.http.shutdown()
        self.http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def chats(self) -> list[Any]:
        """The chats that were asked for, without those that only tried what it can."""
        return [body for route, body in self.asked if route.endswith("/chat/completions") and not is_probe(body)]

    def twice(self) -> list[str]:
        """What was answered more than once, besides what only tried what it can."""
        return [digest for digest, times in self.answered.items() if times > 1]


def is_probe(body: Mapping[str, Any]) -> bool:
    return any(message["content"] == "Say one word." for message in body["messages"])


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    served: Stub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self._serve(None)

    def do_POST(self) -> None:
        self._serve(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def _serve(self, body: Any) -> None:
        stub = self.served
        self.body, self.model = body, (body or {}).get("model")
        if stub.closed:  # of a connection that was kept
            self.close_connection = True
            return
        stub.asked.append((self.path, body))
        stub.headers.append(dict(self.headers))
        stub.at_once += 1
        stub.most_at_once = max(stub.most_at_once, stub.at_once)
        stub.working.append(self)
        self._mix()
        try:
            if stub.slow:
                time.sleep(stub.slow)
            if stub.fault is not None and stub.fault(self):
                return
            if stub.key is not None and self.headers.get("authorization") != f"Bearer {stub.key}":
                self.say(401, {"error": {"message": f"Incorrect API key provided: {self.headers.get('authorization')}"}})
                return
            self._answer(body)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            stub.at_once -= 1
            stub.working.remove(self)

    def _mix(self) -> None:
        """Whatever works at once with an adapter works with it."""
        stub = self.served
        adapter = next((one.model for one in stub.working if one.model in stub.adapters), None) if stub.traits.mixes else None
        for one in stub.working if adapter else ():
            one.model = adapter if one.model == "m" else one.model

    def say(self, status: int, found: Any, **headers: str) -> None:
        """Answer with JSON, or with text as it is."""
        text = (found if isinstance(found, str) else json.dumps(found)).encode()
        self.send_response(status)
        kind = "text/html" if isinstance(found, str) and found.startswith("<") else "application/json"
        for name, value in {"content-type": kind, "content-length": str(len(text)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(text)

    def _answer(self, body: Any) -> None:
        traits = self.served.traits
        if self.path == "/v1/models":
            self.say(200, {"data": [{"id": "m", "max_model_len": traits.context}, {"id": "e"}]})
        elif self.path == "/v1/embeddings":
            rows = [{"index": i, "embedding": embedding(text)} for i, text in enumerate(body["input"])]
            self._count(body)
            self.say(200, {"data": rows, "usage": {"prompt_tokens": sum(len(text.split()) for text in body["input"])}})
        elif self.path == "/tokenize" and traits.tokenize:
            self.say(200, {"count": prompt_tokens(body["messages"], False)})
        elif self.path == "/classify" and traits.values == "chat":
            self._value(body, [message["content"] for message in body["messages"]])
        elif self.path == "/score" and traits.values == "pair":
            self._value(body, [body["text_1"], body["text_2"]])
        elif self.path.endswith("_lora_adapter") and traits.adapters:
            self._adapter(body)
        elif self.path == "/v1/chat/completions":
            self._chat(body)
        else:
            self.say(404, {"detail": "Not Found"})

    def _adapter(self, body: Mapping[str, Any]) -> None:
        names, name = self.served.adapters, body["lora_name"]
        if not name:
            self.say(400, {"error": {"message": "Both 'lora_name' and 'lora_path' must be provided."}})
        elif self.path.endswith("/unload_lora_adapter"):
            names.pop(name, None)
            self.say(200, f"Success: LoRA adapter '{name}' removed.")
        else:
            names[name] = sorted(path.name for path in Path(body["lora_path"]).iterdir())
            self.say(200, f"Success: LoRA adapter '{name}' added.")

    def _value(self, body: Mapping[str, Any], texts: list[str]) -> None:
        """The words of the reply, less a tenth of those before it."""
        words = [len(text.split()) for text in texts]
        if sum(words) > (self.served.traits.context or math.inf):
            return self.say(400, {"error": {"message": f"maximum context length is {self.served.traits.context} tokens"}})
        self._count(body)
        number = (words[-1] - sum(words[:-1]) / 10) * (0.1 if body["use_activation"] else 1.0)
        row = {"index": 0, "probs": [number], "score": number}
        self.say(200, {"data": [row], "usage": {"prompt_tokens": sum(words)}})

    def _chat(self, body: Mapping[str, Any]) -> None:
        traits, messages = self.served.traits, body["messages"]
        known = {"model", "messages", "max_tokens", "temperature", "top_p", "seed", "stop", "logprobs", "top_logprobs", "n", "stream",
                 "stream_options"}  # fmt: skip
        roles = [message["role"] for message in messages]
        if body["model"] not in ("m", *self.served.adapters):
            return self.say(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
        if traits.strict and (unknown := set(body) - known):
            return self.say(400, {"error": {"message": f"Unrecognized request argument supplied: {sorted(unknown)[0]}"}})
        if body.get("top_logprobs", 0) > traits.seen:
            return self.say(400, {"error": {"message": f"top_logprobs is at most {traits.seen}"}})
        if "system" in roles and not traits.system:
            return self.say(400, {"error": {"message": "System role not supported"}})
        if traits.alternation and any(a == b for a, b in itertools.pairwise(roles)):
            return self.say(400, {"error": {"message": "Conversation roles must alternate"}})
        begins = traits.begins and roles[-1] == "assistant" and bool(body.get("continue_final_message"))
        prompt = prompt_tokens(messages, begins)
        if traits.context and prompt >= traits.context:
            return self.say(400, {"error": {"message": f"maximum context length is {traits.context} tokens"}})
        self._count(body)
        self.say_chat(body, prompt, begins)

    def _count(self, body: Mapping[str, Any]) -> None:
        if "messages" not in body or not is_probe(body):
            self.served.answered[digest(body)] += 1

    def say_chat(self, body: Mapping[str, Any], prompt: int, begins: bool) -> None:
        """The text, and the likeliest tokens where they are asked for."""
        stub = self.served
        body = {**body, "model": self.model}
        text = (stub.reply or (lambda asked: written(asked, stub.traits.seeds)))(body)
        words, most = text.split(" "), body.get("max_tokens", 1000)
        text, finish = " ".join(words[:most]), "length" if len(words) > most else "stop"
        stub.texts[digest(body)] = text
        usage = {"prompt_tokens": prompt, "completion_tokens": min(len(words), most), "cost": stub.traits.cost}
        choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
        if body.get("logprobs") and stub.traits.seen:
            every = likeliest(body, begins)
            only = body.get("structured_outputs", {}).get("choice", [every[0]["token"]])[0]
            one = next((told for told in every if told["token"] == only), {"token": only, "logprob": -9.0})
            if stub.traits.masks and "structured_outputs" in body:
                one = {"token": only, "logprob": 0.0}
            choice["logprobs"] = {"content": [one | {"top_logprobs": every[: body["top_logprobs"]]}]}
        if stub.traits.adapters and body.get("return_token_ids"):
            choice["token_ids"] = [len(word) for word in words]
        if body.get("stream"):
            return self._stream(text, finish, usage)
        self.say(200, {"choices": [choice] * body.get("n", 1), "usage": usage})

    def _stream(self, text: str, finish: str, usage: Mapping[str, Any]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        pieces = [*text.split(" ")]
        for i, piece in enumerate(pieces):
            delta = {"choices": [{"delta": {"content": piece if i == 0 else f" {piece}"}, "finish_reason": None}]}
            self.wfile.write(f"data: {json.dumps(delta)}\n\n".encode())
        end = {"choices": [{"delta": {}, "finish_reason": finish}], "usage": usage}
        self.wfile.write(f"data: {json.dumps(end)}\n\ndata: [DONE]\n\n".encode())


def digest(body: Mapping[str, Any]) -> str:
    """What was asked, however the answer shall come."""
    return json.dumps({key: value for key, value in body.items() if key not in ("stream", "stream_options")}, sort_keys=True)


def prompt_tokens(messages: list[dict[str, str]], begins: bool) -> int:
    """Words, three for a message's frame, two for the header of the answer; of a message that is gone on with its words alone."""
    whole = messages[:-1] if begins else messages
    return sum(len(message["content"].split()) + 3 for message in whole) + 2 + (len(messages[-1]["content"].split()) if begins else 0)


def _number(*parts: Any) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()[:8], "big")


def written(body: Mapping[str, Any], seeds: bool = True) -> str:
    """Ten words, by the chat and the seed; one of the choices where there are any."""
    if "structured_outputs" in body:
        return str(body["structured_outputs"]["choice"][0])
    number = _number(body["messages"], body["model"], body.get("seed") if seeds else time.monotonic_ns())
    return " ".join(WORDS[(number >> i) % len(WORDS)] for i in range(10)) + f" {number % 1000}."


def likeliest(body: Mapping[str, Any], begins: bool) -> list[dict[str, Any]]:
    """After a colon " 1" to " 9" and, as a token of its own, " 10", as `rated` has them; after "[[" the same without a space; else words.
    """
    last = body["messages"][-1]["content"]
    if not (begins and last.endswith((":", "[["))):
        near = 0.04 if body["model"] == "m" else 0.02
        return [{"token": f" {word}", "logprob": math.log(near)} for word in WORDS]
    shares = rated(last + body["messages"][0]["content"])
    space = " " if last.endswith(":") else ""
    found = [{"token": f"{space}{n}", "logprob": math.log(p)} for n, p in enumerate(shares, 1)]
    return sorted(found, key=lambda one: -float(str(one["logprob"])))


def rated(text: str) -> list[float]:
    """The probabilities of 1 to 10 after a text: together 0.95."""
    weights = [1 + _number(text, n) % 9 for n in range(10)]
    return [0.95 * weight / sum(weights) for weight in weights]


def embedding(text: str) -> list[float]:
    """How often its words fall into each of 32 buckets."""
    counts = [0.0] * 32
    for word in text.lower().split():
        counts[_number(word) % 32] += 1
    return counts
