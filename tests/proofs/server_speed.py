"""How fast dialogues are through a server, beside a bare client of it and the local engine.

    python -m tests.proofs.server_speed URL MODEL [FOLDER] [DIALOGUES]

DIALOGUES (16) of two turns of 48 new tokens each, all at once; FOLDER: the same model, to be run here. Each way is measured twice, in
turns, and the better one counts. To be run on a quiet machine.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from expertchat.backends.asking import Ask, Flow
from expertchat.backends.base import Backend, Completion, Decoding, GenerateRequest
from expertchat.backends.loading import connect
from expertchat.backends.served.terms import Terms
from expertchat.command.compose import load
from expertchat.records import Message
from expertchat.talk.scheduler import Scheduler

TOPICS = ("herons", "volcanoes", "bread", "chess", "tides", "glass", "bees", "jazz")
DECODING = Decoding("sampling", 48)


def first(i: int) -> tuple[Message, ...]:
    topic = TOPICS[i % len(TOPICS)]
    system = f"You are Anna, an expert on {topic}. You talk with another expert. Speak like a human expert, in a few sentences."
    return Message("system", system), Message("user", f"Let us talk about {topic}. What do you find most remarkable about it, number {i}?")


def second(i: int, reply: str) -> tuple[Message, ...]:
    return Message("system", f"You are Ben, an expert on {TOPICS[i % len(TOPICS)]}. Answer what the other said."), Message("user", reply)


def bare(url: str, model: str, dialogues: int) -> int:
    """Tokens of a client that only sends and reads JSON, a thread for each dialogue."""

    def ask(messages: tuple[Message, ...]) -> tuple[str, int]:
        chat = [{"role": one.role, "content": one.content} for one in messages]
        body = {"model": model, "messages": chat, "max_tokens": 48, "temperature": 1.0, "top_p": 1.0, "ignore_eos": True}
        request = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
        found = json.load(urllib.request.urlopen(request, timeout=600))
        return found["choices"][0]["message"]["content"], found["usage"]["completion_tokens"]

    def dialogue(i: int) -> int:
        text, tokens = ask(first(i))
        return tokens + ask(second(i, text))[1]

    with ThreadPoolExecutor(dialogues) as pool:
        return sum(pool.map(dialogue, range(dialogues)))


def flows(round: int, dialogues: int) -> Iterator[Flow[None]]:
    def one(i: int) -> Flow[None]:
        (answer,) = yield [Ask("m", GenerateRequest(f"{round}/{i}/a", first(i), DECODING))]
        assert isinstance(answer, Completion)
        yield [Ask("m", GenerateRequest(f"{round}/{i}/b", second(i, answer.text), DECODING))]

    return (one(i) for i in range(dialogues))


def through(backend: Backend, round: int, dialogues: int) -> int:
    scheduler = Scheduler({"m": backend})
    scheduler.run(flows(round, dialogues))
    return scheduler.tokens


def main(url: str, model: str, folder: str = "", dialogues: int = 16) -> int:
    seat = ["model@experts.a=server", f"experts.a.url={url}", f"experts.a.model={model}", "+experts.a.more.ignore_eos=true"]
    served: Any = connect(load("converse", seat).experts["a"], 0, Terms())
    ways: dict[str, Callable[[int], int]] = {
        "bare client": lambda round: bare(url, model, dialogues), "through the server": lambda round: through(served, round, dialogues),
    }  # fmt: skip
    if folder:
        from expertchat.backends.local import LocalBackend

        local = LocalBackend.load(Path(folder), "local", 0, dtype="bf16")
        local.end_ids = ()
        ways["local engine"] = lambda round: through(local, round, dialogues)
    best: dict[str, float] = {}
    for round in range(2):
        for name, way in ways.items():
            began = time.perf_counter()
            tokens = way(round)
            best[name] = max(best.get(name, 0.0), tokens / (time.perf_counter() - began))
    for name, speed in best.items():
        print(f"{name:20} {speed:6.0f} tokens/s  {speed / best['bare client']:.2f} of the bare client", flush=True)
    return 0 if best["through the server"] >= 0.9 * best["bare client"] else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4], *map(int, sys.argv[4:])))
