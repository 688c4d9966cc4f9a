"""Runs in child processes to which something happens: a disk that fails at the k-th call, a signal, a judge that is gone.

The models are there once, in the parent; every start is a fork. What was asked of models is counted beside the run's folder.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from expertchat.backends.base import Completion, GenerateRequest, Scores
from expertchat.command.compose import load
from expertchat.doors.guard import guarded
from expertchat.events import AnyEvent, RunFinished
from expertchat.folder.run import Hub
from expertchat.talk.cast import load_cast
from expertchat.talk.converse import run_converse
from expertchat.talk.scheduler import Scheduler
from tests.scripted import BagOfWords, Collect, Double, babble

CONVERSE = (
    "view=none", "topics.source=models", "topics.max_similarity=0.7", "conversation.count=3", "conversation.turns=2", "judging.form=both",
    "engine.max_batch=4",
)  # fmt: skip
TRAINING = (
    "view=none", "rounds=2", "conversation.count=2", "conversation.turns=3", "candidates.count=2", "evaluation.every=1",
    "evaluation.histories=1", "evaluation.final=1", "train.rank=2", "train.batch=2", "train.micro_batch=2", "pairs.min_margin=0.0",
    "keep_rounds=2", "engine.max_batch=2", "experts.a.decoding.reply.max_new_tokens=8", "learner=a",
)  # fmt: skip
CALLS = ("write", "open", "replace", "fsync")  # of os: what writes, and can fail
UNTIMED = re.compile(r'"(seconds\w*|time|tokens_per_second|memory_gib)": ?[-\d.e+]+')


@dataclass
class Stage:
    """A start before it begins: what a fault may get hold of."""

    folder: Path
    on_event: list[Callable[[AnyEvent], None]] = field(default_factory=list)
    judge: Callable[[], None] = lambda: None  # called before each answer of expert b


@dataclass
class Outcome:
    """How a start ended: exit code (below 0: the signal), what it said, what models answered."""

    code: int
    said: str
    asked: Counter[str]


Fault = Callable[[Stage], None]


class Sink(Collect):
    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def send(self, event: AnyEvent) -> None:
        if isinstance(event, RunFinished) and event.status != "done":
            print(f"{event.status}: {event.reason}", file=sys.stderr, flush=True)
        for hear in self.stage.on_event:
            hear(event)


@lru_cache
def learner() -> Any:
    """The embedded model that learns, loaded once, and every library that a training imports by and by."""
    from expertchat.training.online import run_online

    def loaded() -> Any:
        return load_cast(load("online_dpo", [*TRAINING]), Hub(Collect()), None, BagOfWords()).backends["a"]

    with tempfile.TemporaryDirectory() as scratch:
        stage = Stage(Path(scratch))
        config: Any = load("online_dpo", [*TRAINING, f"run.dir={scratch}/run"])
        assert run_online(config, [], Collect(), backends={"a": loaded(), "b": _double(stage)}, embedder=BagOfWords()) == 0
    return loaded()


def ready(command: str, folder: Path) -> Callable[[Stage], int]:
    """A start of a command in a folder, all that is slow about it done."""
    if command == "converse":
        config: Any = load("converse", [*CONVERSE, f"run.dir={folder}"])
        return lambda stage: run_converse(
            config, ["expertchat", "converse"], Sink(stage), backends=dict.fromkeys("ab", _double(stage)), embedder=BagOfWords()
        )
    from expertchat.training.online import run_online

    config, model = load("online_dpo", [*TRAINING, f"run.dir={folder}"]), learner()
    return lambda stage: run_online(
        config, ["expertchat", "online_dpo"], Sink(stage), backends={"a": model, "b": _double(stage)}, embedder=BagOfWords()
    )


def _double(stage: Stage) -> Double:
    def reply(request: GenerateRequest) -> str:
        stage.judge()
        return babble(request)

    return Double(reply)


def start(command: str, folder: Path, fault: Fault = lambda stage: None) -> Outcome:
    """Run a command in a child process, with what happens to it."""
    run, notes = ready(command, folder), folder.parent / f"{folder.name}.notes"
    for path in (notes.with_suffix(".said"), notes.with_suffix(".asked")):
        path.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            said = os.open(notes.with_suffix(".said"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(said, 1)
            os.dup2(said, 2)
            sys.stdout = sys.stderr = os.fdopen(said, "w", 1)  # under pytest they are something else
            stage = Stage(folder)
            _count(os.open(notes.with_suffix(".asked"), os.O_WRONLY | os.O_CREAT | os.O_APPEND))
            fault(stage)
            code = guarded(lambda: run(stage))
            sys.stderr.flush()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    asked = notes.with_suffix(".asked")
    keys = asked.read_text("utf-8").split("\n")[:-1] if asked.exists() else []
    said = notes.with_suffix(".said")
    return Outcome(code, said.read_text("utf-8", "replace") if said.exists() else "", Counter(keys))


def _count(log: int) -> None:
    """Write down whatever a model has answered, embeddings aside, as soon as it is there."""
    real, put = Scheduler._count, os.write

    def counted(self: Any, ask: Any, result: Any) -> None:
        if isinstance(result, Completion | Scores):
            put(log, f"{ask.who} {type(result).__name__} {ask.request.key}\n".encode())
        real(self, ask, result)

    Scheduler._count = counted  # type: ignore[method-assign]


# -- what can happen ----------------------------------------------------------------------------------------------------


def at_call(name: str, k: int, act: Callable[[], object], stays: bool = False) -> Fault:
    """`act` before the k-th call of os.NAME for something in the run's folder (`stays`: and before every later one of CALLS)."""

    def install(stage: Stage) -> None:
        state = {"seen": 0, "broken": False}

        def broken(of: str, real: Any) -> Any:
            def call(first: Any, *more: Any, **kw: Any) -> Any:
                if counts(of, first, more, stage.folder):
                    state["seen"] += of == name
                    if (of == name and state["seen"] == k) or (state["broken"] and stays):
                        state["broken"] = True
                        if of == "write" and stays and len(more[0]) > 1:
                            real(first, more[0][: len(more[0]) // 2])  # a full disk takes what it can
                        act()
                return real(first, *more, **kw)

            return call

        for one in CALLS if stays else (name,):
            setattr(os, one, broken(one, getattr(os, one)))

    return install


def counts(name: str, first: Any, more: tuple[Any, ...], folder: Path) -> bool:
    """Whether a call writes into the run's folder: not the heartbeat's, and not what is opened to be read."""
    if name == "open" and not (more and more[0] & os.O_CREAT):
        return False
    if threading.current_thread() is not threading.main_thread():
        return False
    path = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else os.fspath(first)
    return str(path).startswith(f"{folder}/")


def fails(number: int) -> Callable[[], object]:
    def act() -> None:
        raise OSError(number, os.strerror(number))

    return act


def signals(number: signal.Signals) -> Callable[[], object]:
    return lambda: os.kill(os.getpid(), number)


FULL, BROKEN, QUOTA, DENIED, READ_ONLY = (
    fails(one) for one in (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EACCES, errno.EROFS)
)  # fmt: skip


def at_event(k: int, act: Callable[[Stage], object]) -> Fault:
    """`act` at the k-th event."""

    def install(stage: Stage) -> None:
        seen = iter(range(1, 1 << 30))
        stage.on_event.append(lambda event: act(stage) if next(seen) == k else None)

    return install


def judge_gone(k: int) -> Fault:
    """From its k-th answer on expert b does not answer any more."""

    def install(stage: Stage) -> None:
        seen = iter(range(1, 1 << 30))

        def answer() -> None:
            if next(seen) >= k:
                raise ConnectionError("the judge does not answer")

        stage.judge = answer

    return install


# -- what came of it ----------------------------------------------------------------------------------------------------


def records(folder: Path) -> dict[str, set[str]]:
    """Every record by file, without times, the evaluations among them. Fails on an id, or an event of a dialogue, that is there twice."""
    found: dict[str, set[str]] = {}
    for path in sorted([*folder.glob("*.jsonl"), *folder.glob("evaluations/*.jsonl")]):
        lines = path.read_text("utf-8").splitlines()
        if path.name == "events.jsonl":
            lines = [event for line in lines if (event := _event(json.loads(line)))]
        else:
            ids = [json.loads(line)["id"] for line in lines]
            assert len(set(ids)) == len(ids), f"an id is twice in {path.name}"
            lines = [UNTIMED.sub("", line) for line in lines]
        found[path.name] = set(lines)
        assert len(found[path.name]) == len(lines), f"something is twice in {path.name}"
    return found


def _event(line: dict[str, Any]) -> str:
    if line["kind"] not in ("conversation_started", "turn_finished", "candidates_judged", "conversation_finished", "rating_given",
                            "wim_given", "reward_given", "conversation_judged", "measured", "round_finished"):  # fmt: skip
        return ""
    inner = next((line[key]["id"] for key in ("rating", "wim", "reward", "metrics") if key in line), None)
    return repr((line["kind"], line.get("conversation"), line.get("index", line.get("turn")), line.get("round"), inner))


def weights(folder: Path) -> bytes:
    """What was trained."""
    path = folder / "adapter" / "adapter_model.safetensors"
    return path.read_bytes() if path.exists() else b""
