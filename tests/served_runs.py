"""What tests ask of a server (tests/served.py): its config and its backend, single answers, whole conversations; and two of its faults."""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from expertchat.backends.base import Decoding, GenerateRequest
from expertchat.backends.loading import client_for
from expertchat.backends.served.backend import ServedBackend
from expertchat.backends.served.config import ServerConfig
from expertchat.backends.served.terms import Terms
from expertchat.command.compose import load
from expertchat.records import Message
from expertchat.talk.converse import run_converse
from tests.scripted import BagOfWords, Collect
from tests.served import Handler, Stub

KEY, HERE = "sesame-opens-3f9", "http://here:1/v1"
QUICK = ServerConfig(patience=0.3, wait=0.2, attempts=3, timeout=5.0)
SAMPLED = Decoding("sampling", 40, temperature=0.9)
TALK = (Message("system", "You are Anna."), Message("user", "Do herons nest in trees?"))


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


def talk(stub: Stub, folder: Path, *more: str, sink: Collect | None = None) -> int:
    """A conversation of a double with the server, which also judges."""
    words = ["conversation.count=3", "conversation.turns=3", "judging.form=expected", "judging.analysis=false", "server.attempts=3"]
    found = composed(*words, *more)
    experts = {seat: model.model_copy(update={"url": stub.url}) for seat, model in found.experts.items()}
    here = {"experts": found.experts.having(**experts), "run": found.run.model_copy(update={"dir": str(folder)})}
    return run_converse(found.model_copy(update=here), ["expertchat", "converse"], sink or Collect(), embedder=BagOfWords())


def cut(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


def drips(handler: Handler) -> None:
    """A byte now and then, and never the end."""
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.02)
