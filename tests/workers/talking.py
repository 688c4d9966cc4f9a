"""Tiny sharded models that talk: every process has other requests, of other lengths, for other models."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from expertchat.backends.adapters import Adapters
from expertchat.backends.base import Completion, Decoding, GenerateRequest, ScoreRequest
from expertchat.backends.local import LocalBackend
from expertchat.backends.weights import load_weights
from expertchat.records import Message
from expertchat.training.lockstep import Lockstep
from expertchat.training.ranks import RankLost, Ranks
from expertchat.training.sharding import shard

torch.set_num_threads(1)
METHODS = (
    Decoding(method="sampling", max_new_tokens=12),
    Decoding(method="greedy", max_new_tokens=5),
    Decoding(method="contrastive", max_new_tokens=6, top_k=3),
    Decoding(method="beam", max_new_tokens=4, beams=2),
)
Request = GenerateRequest | ScoreRequest


def backends(folders: list[str], ranks: Ranks) -> dict[str, Any]:
    """Policy and base of the first model, whose adapter is none of nothing, and the second model."""
    made: dict[str, Any] = {}
    for name, folder in zip(("actor", "judge"), folders, strict=True):
        loaded = load_weights(Path(folder), name, dtype="fp32", device="cpu")
        backend = LocalBackend(loaded.model, loaded.tokenizer, name, seed=4)
        adapters = Adapters(loaded.model)
        adapters.attach("one", ["q_proj", "v_proj"], r=4)
        generator = torch.Generator().manual_seed(1)
        for parameter in adapters.parameters("one").values():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        if ranks.world > 1:
            shard(loaded.model, ranks)
        made |= {name: backend.voice(partial(adapters.use, "one")), f"base_{name}": backend.voice(partial(adapters.use, None))}
    return made


def requests(rank: int) -> list[tuple[str, Request]]:
    """What a rank asks, and whom: rank 0 the most, rank 3 nothing."""
    asked: list[tuple[str, Request]] = []
    for i in range((5, 2, 3, 0)[rank]):
        messages = (Message("user", f"How do herons hunt, rank {rank}? " + "They wait. " * i),)
        asked.append(("actor", GenerateRequest(f"{rank}/{i}/a", messages, METHODS[(i + rank) % 4])))
        asked.append((("base_actor", "judge", "base_judge")[i % 3], GenerateRequest(f"{rank}/{i}/b", messages, METHODS[i % 2])))
        asked.append(("judge", ScoreRequest(f"{rank}/{i}/s", messages, tuple(f" {n}" for n in range(1, 11)), "Depth:")))
    return asked


def answer(backends: dict[str, Any], asked: list[tuple[str, Request]]) -> list[Any]:
    """One request after the other, so that every rank has its own order of passes."""
    found: list[Any] = []
    for who, request in asked:
        if isinstance(request, ScoreRequest):
            found.append(list(backends[who].score([request])[0].logprobs))
        else:
            done: Completion = backends[who].generate([request])[0]
            found.append(done.text)
    return found


def alone(folders: list[str]) -> list[list[Any]]:
    """What each of four ranks should get, from models that are whole."""
    with torch.no_grad():
        made = backends(folders, Ranks.alone())
    return [answer(made, requests(rank)) for rank in range(4)]


def together(folders: list[str]) -> dict[str, Any]:
    """The same by four ranks that hold the models in parts; twice, as in two rounds."""
    ranks = Ranks.start("fsdp", wait_seconds=60)
    made = backends(folders, ranks)
    lockstep = Lockstep(ranks, [backend.model for backend in made.values()])
    rounds = []
    for _ in range(2):
        with lockstep:
            rounds.append(answer(made, requests(ranks.rank)))
        for backend in made.values():
            backend.refresh()
    ranks.barrier()
    hooks = sum(len(m._forward_pre_hooks) for m in lockstep.models)  # FSDP's own, one a model
    return {"rounds": rounds, "company": lockstep.company, "models": len(lockstep.models), "hooks": hooks}


def breaks_off(folders: list[str]) -> list[str]:
    """On rank 1 a pass fails in its middle, as it does when memory runs out; what each rank says."""
    ranks = Ranks.start("fsdp", wait_seconds=4)
    made = backends(folders, ranks)
    if ranks.rank == 1:
        layer = made["actor"].model.get_decoder().layers[1]

        def fail(*_: Any) -> None:
            raise torch.OutOfMemoryError("no room")

        layer.mlp.register_forward_pre_hook(fail)
    said = []
    try:
        with Lockstep(ranks, [made["actor"].model]):
            made["actor"].generate([request for who, request in requests(0) if who == "actor"])
    except (RankLost, RuntimeError) as error:
        said.append(f"{type(error).__name__}: {error}")
    return said
