"""Does a server keep a base and its adapters apart? Tried with an adapter that says plainly that it was there.

vLLM on a CPU (0.32) does not: in a step that computes requests with and without an adapter, those without have the index -1, by which
torch takes the last slot for adapters; with the default of one slot that is the very adapter. By its code, what was computed so stays in
the cache of beginnings, under the base's name. On a GPU its kernels leave them out, and with a slot too many the last one is empty.
"""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file

from expertchat.backends.served import reading
from expertchat.backends.served.backend import ServedBackend
from expertchat.backends.served.client import wait_for
from expertchat.backends.served.trouble import Denied, Refused

WORDS = ("herons", "tides", "bread")  # asked about one each
LONG, LONGS = 48, 2  # tokens, and how many answers of so many go on beside the questions
STRONG = 0.5  # spread of what an adapter's second matrix gets
LEAST = 0.3  # that log probabilities move by it: below that nothing can be said
NOTE = (
    "the server gives the base what belongs to an adapter where it computes both at once (vLLM on a CPU does): base and adapters are "
    "asked by turns; start it with --max-loras 3 and it need not be"
)
Found = list[Mapping[str, float]]


class Saves(Protocol):
    """A learner, as far as it is tried with."""

    def save(self, folder: Path) -> None: ...


def mixes(served: ServedBackend, learner: Saves, place: Path, load: Any, unload: Any) -> bool:
    """Whether what is asked of the base is computed with an adapter that works at the same time.

    `place`: a folder that the server sees, which is removed again; `load(client, name, folder)` and `unload(client, name)` give the server
    an adapter and take it away.
    """
    name = place.name
    try:
        learner.save(place)
        _strengthen(place / "adapter_model.safetensors")
        load(served.client, name, place)
        try:
            return wait_for(_tried(served, name))
        finally:
            unload(served.client, name)
    except (Denied, Refused):
        return False  # what does not answer says so where it is needed
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _strengthen(file: Path) -> None:
    """Make a saved adapter move everything."""
    drawn = torch.Generator().manual_seed(0)
    weights = load_file(file)
    for key, weight in sorted(weights.items()):
        if "lora_B" in key:
            weights[key] = (STRONG * torch.randn(weight.shape, generator=drawn)).to(weight.dtype)
    save_file(weights, file, metadata={"format": "pt"})


async def _tried(served: ServedBackend, name: str) -> bool:
    alone, moved = await _asked(served, served.name), await _asked(served, name)
    if (far := _far(alone, moved)) < LEAST:
        return False
    beside = [asyncio.ensure_future(_long(served, name, i)) for i in range(LONGS)]
    try:
        return any([went_along(far, _far(alone, await _asked(served, served.name))) for _ in range(2)])
    finally:
        await asyncio.gather(*beside, return_exceptions=True)


async def _asked(served: ServedBackend, model: str) -> Found:
    """The likeliest first tokens of the answers."""
    answers = (_one(served, model, word, 1, logprobs=True, top_logprobs=served.can.seen) for word in WORDS)
    return [reading.likeliest(found).tokens for found in await asyncio.gather(*answers)]


async def _long(served: ServedBackend, name: str, i: int) -> None:
    await _one(served, name, f"everything, {i} times", LONG, ignore_eos=True)


async def _one(served: ServedBackend, model: str, about: str, most: int, **more: Any) -> Any:
    """An answer that leaves nothing in the server's cache that another request could find: it has a salt of its own."""
    body = {
        "model": model, "messages": [{"role": "user", "content": f"Say something about {about}."}], served.can.limit: most,
        "temperature": 0.0, "cache_salt": uuid.uuid4().hex, **more,
    }  # fmt: skip
    return (await served.client.ask("/chat/completions", body, lambda found: found)).value


def went_along(far: float, own: float) -> bool:
    """Whether the base, which moved by `own`, moved with an adapter that moves by `far`, and not as half precision makes it."""
    return own > min(far, 1.0) / 4


def _far(one: Found, two: Found) -> float:
    """The largest difference of a log probability; where no token is the same, they are far apart."""
    both = [abs(a[token] - b[token]) for a, b in zip(one, two, strict=True) for token in a if token in b]
    shared = all(set(a) & set(b) for a, b in zip(one, two, strict=True))
    return max(both) if shared and both else float("inf")
