"""The local engine beside vLLM and llama.cpp on the same cores: dialogues at once, in turns.

    python -m tests.proofs.peers FOLDER PYTHON OUT.json [1,16,64] [ROUNDS]

FOLDER holds SmolLM2-135M-Instruct and gguf/SmolLM2-135M-Instruct.Q4_1.gguf; PYTHON is that of an environment with vllm; xllamacpp is
one of this one. Dialogues of two turns of 48 new tokens; and 16 of them whose replies end where the model ends them, at 128 at most. The
ways take turns, ROUNDS (3) times; told are medians with the range, and of each round what a way reaches of vLLM's bare client. To be run on
a quiet machine. Exit code 1 if the server backend is slower than .9 of a bare client.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from expertchat.backends.asking import Ask, Flow
from expertchat.backends.base import Backend, Completion, Decoding, GenerateRequest
from expertchat.backends.loading import connect
from expertchat.backends.local import LocalBackend
from expertchat.backends.served.address import free_port
from expertchat.backends.served.terms import Terms
from expertchat.bench.ceilings import ceilings, least_of_dialogues
from expertchat.bench.subject import Subject
from expertchat.command.compose import load
from expertchat.records import Message
from expertchat.talk.scheduler import Scheduler
from tests.proofs import restart_server
from tests.proofs.servers import NAME, started

TOPICS = ("herons", "volcanoes", "bread", "chess", "tides", "glass", "bees", "jazz")
FIXED, AT_MOST = 48, 128  # new tokens of a reply; where the model ends it
CONTEXT = 512  # a dialogue's tokens on llama.cpp
VLLM, THROUGH, LLAMACPP, LOCAL = "vLLM, bare client", "vLLM, server backend", "llama.cpp (Q4_1), bare client", "local engine"
Way = Callable[[int, int, int, bool], int]  # round, dialogues, tokens at most, whether the model ends a reply -> tokens


def first(i: int) -> tuple[Message, ...]:
    topic = TOPICS[i % len(TOPICS)]
    system = f"You are Anna, an expert on {topic}. You talk with another expert. Speak like a human expert, in a few sentences."
    return Message("system", system), Message("user", f"Let us talk about {topic}. What do you find most remarkable about it, number {i}?")


def second(i: int, reply: str) -> tuple[Message, ...]:
    return Message("system", f"You are Ben, an expert on {TOPICS[i % len(TOPICS)]}. Answer what the other said."), Message("user", reply)


def bare(url: str) -> Way:
    """A client that only sends and reads JSON, a thread for each dialogue."""

    def ask(messages: tuple[Message, ...], most: int, ends: bool) -> tuple[str, int]:
        chat = [{"role": one.role, "content": one.content} for one in messages]
        body = {"model": "m", "messages": chat, "max_tokens": most, "temperature": 1.0, "top_p": 1.0, "ignore_eos": not ends}
        request = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
        found = json.load(urllib.request.urlopen(request, timeout=600))
        return found["choices"][0]["message"]["content"], found["usage"]["completion_tokens"]

    def way(round: int, dialogues: int, most: int, ends: bool) -> int:
        def dialogue(i: int) -> int:
            text, tokens = ask(first(i), most, ends)
            return tokens + ask(second(i, text or "Go on."), most, ends)[1]

        with ThreadPoolExecutor(dialogues) as pool:
            return sum(pool.map(dialogue, range(dialogues)))

    return way


def flows(round: int, dialogues: int, most: int) -> Iterator[Flow[None]]:
    decoding = Decoding("sampling", most)

    def one(i: int) -> Flow[None]:
        (answer,) = yield [Ask("m", GenerateRequest(f"{round}/{i}/a", first(i), decoding))]
        assert isinstance(answer, Completion)
        yield [Ask("m", GenerateRequest(f"{round}/{i}/b", second(i, answer.text or "Go on."), decoding))]

    return (one(i) for i in range(dialogues))


def through(backends: dict[bool, Backend], end_ids: Sequence[int] | None = None) -> Way:
    """By a backend of this project, one for each of the two kinds of endings, or one whose end tokens are set."""

    def way(round: int, dialogues: int, most: int, ends: bool) -> int:
        backend: Any = backends[ends]
        if end_ids is not None:
            backend.end_ids = tuple(end_ids) if ends else ()
        scheduler = Scheduler({"m": backend})
        scheduler.run(flows(round, dialogues, most))
        return scheduler.tokens

    return way


def served(url: str) -> dict[bool, Backend]:
    seat = ["model@experts.a=server", f"experts.a.url={url}", "experts.a.model=m"]
    words = {True: seat, False: [*seat, "+experts.a.more.ignore_eos=true"]}
    return {ends: connect(load("converse", one).experts["a"], 0, Terms()) for ends, one in words.items()}


def vllm(python: str, folder: Path, port: int, rows: int) -> list[str]:
    return [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / NAME), "--served-model-name", "m", "--host",
            "127.0.0.1", "--port", str(port), "--max-model-len", "2048", "--enforce-eager", "--dtype", "bfloat16",
            "--max-num-seqs", str(rows), "--max-num-batched-tokens", "16384"]  # fmt: skip


def least(local: Any, dialogues: int) -> float:
    """The tokens a second that this machine allows at most, with weights in bf16."""
    subject = Subject(NAME, local.model, local.tokenizer, 0, local.info.context_length)
    lengths = [round(sum(map(local.count_tokens, part)) / dialogues) for part in (
        [first(i) for i in range(dialogues)], [second(i, "word " * FIXED) for i in range(dialogues)])]  # fmt: skip
    return 2 * FIXED * dialogues / least_of_dialogues(subject, ceilings(subject), dialogues, lengths, lengths, FIXED)


def compared(ways: dict[str, Way], name: str, dialogues: int, most: int, ends: bool, rounds: int, limit: float | None) -> dict[str, Any]:
    """Print and return what each way reached."""
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    for round in range(rounds):
        for way, run in ways.items():
            began = time.perf_counter()
            tokens = run(hash((name, round)) % 10_000, dialogues, most, ends)
            speeds[way].append(tokens / (time.perf_counter() - began))
    print(f"\n{name}", flush=True)
    told: dict[str, Any] = {}
    for way, own in speeds.items():
        shares = [a / b for a, b in zip(own, speeds[VLLM], strict=True)]
        told[way] = {"tokens_a_second": own, "of_vllm": shares} | ({"of_limit": median(own) / limit} if limit else {})
        of_limit = f", {median(own) / limit:.2f} of the limit for weights in bf16" if limit else ""
        print(f"{way:32} {_range(own, '.0f')} tokens/s, {_range(shares, '.2f')} of vLLM{of_limit}", flush=True)
    return told


def _range(values: Sequence[float], form: str) -> str:
    return f"{median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def main(folder: Path, python: str, out: Path, sizes: Sequence[int] = (1, 16, 64), rounds: int = 3) -> int:
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        port, other, rows = free_port(), free_port(), max(sizes)
        stack.enter_context(started(vllm(python, folder, port, rows), scratch, port))
        file = folder / "gguf" / f"{NAME}.Q4_1.gguf"
        stack.callback(restart_server.started(file, other, CONTEXT, Path(stack.enter_context(tempfile.TemporaryDirectory())), rows, 2).stop)
        local: Any = LocalBackend.load(folder / NAME, "local", 0, dtype="bf16")
        url = f"http://127.0.0.1:{port}/v1"
        ways = {VLLM: bare(url), THROUGH: through(served(url)), LLAMACPP: bare(f"http://127.0.0.1:{other}/v1"),
                LOCAL: through({True: local, False: local}, local.end_ids)}  # fmt: skip
        for run in ways.values():
            run(99_999, 2, 8, False)  # what is done once alone is done
        told = {}
        for n in sizes:
            name = f"{n} {'dialogue' if n == 1 else 'dialogues'} of 2 turns of {FIXED} tokens"
            told[name] = compared(ways, name, n, FIXED, False, rounds, least(local, n))
        name = f"16 dialogues of 2 turns that the model ends, of {AT_MOST} tokens at most"
        told[name] = compared(ways, name, 16, AT_MOST, True, rounds, None)
        out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        medians = [median(way[THROUGH]["of_vllm"]) for way in told.values()]
    return 0 if min(medians) >= 0.9 else 1


if __name__ == "__main__":
    more: list[Any] = [tuple(map(int, sys.argv[4].split(",")))] if len(sys.argv) > 4 else []
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), *more, *map(int, sys.argv[5:])))
