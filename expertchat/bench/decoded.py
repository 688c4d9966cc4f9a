"""Candidates of one history, and contrastive search against sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from expertchat.backends.base import Decoding, GenerateRequest
from expertchat.bench.bare import bare, new_cache, set_limit
from expertchat.bench.kit import Kit, Way, Work, counting, fresh
from expertchat.bench.results import Column, Part
from expertchat.experts.base import History
from expertchat.talk.order import by_turns

CANDIDATES = (1, 4, 8)
WARM, ROWS, COLD, BARE = "candidates", "own histories", "history not kept", "bare forward"
SAMPLING, CONTRASTIVE, SINGLE = "sampling", "contrastive", "one row at a time"


def measure_candidates(kit: Kit) -> None:
    """k replies to one history: what they cost above as many rows of decoding, and the memory they take above one history."""
    part = kit.part(
        "candidates", f"k candidates of {kit.settings.tokens} tokens from one history, engine",
        columns=[Column("x own histories", ROWS, "cost", (WARM,)), Column("x bare forward", BARE, "cost", (COLD,))],
        counts={"prefilled": "prefilled"},
    )  # fmt: skip
    part.notes += [
        f"{WARM}: k replies to one history whose cache is there; {ROWS}: one reply to each of k histories, all their caches there",
        f"{COLD}: the k candidates when their history is computed first; {BARE}: the model alone, one prefill of it and k rows of steps",
    ]
    backend = kit.subject.engine(max(CANDIDATES))
    for k in CANDIDATES:
        same, own = next_turns(kit, backend, [0] * k), next_turns(kit, backend, list(range(k)))
        ways = {
            WARM: replies(kit, backend, same, primed=same[:1]),
            ROWS: replies(kit, backend, own, primed=own),
            COLD: replies(kit, backend, same),
            BARE: bare_rows(kit, backend, same),
        }
        kit.rounds(part, f"k={k}", ways)
    _memory(kit, part)


def next_turns(kit: Kit, backend: Any, which: Sequence[int]) -> list[GenerateRequest]:
    """For each number, the request for the turn that follows that transcript; each with a key of its own."""
    found, experts = [], kit.experts(backend)
    for i, number in enumerate(which):
        transcript = kit.transcripts[number]
        expert = experts[by_turns(tuple(experts), transcript.turns[0].speaker, len(transcript.turns))]
        history = History(transcript.topic, tuple(transcript.turns))
        found.append(expert.reply_request(f"k{number}/t{len(transcript.turns):02d}/{i}", history, backend.count_tokens)[0])
    return found


def replies(kit: Kit, backend: Any, requests: Sequence[GenerateRequest], primed: Sequence[GenerateRequest] = ()) -> Way:
    """Complete the requests together; the contexts of `primed` are computed before the clock starts."""

    def way(repeat: int) -> Work:
        kit.subject.attend(backend)
        fresh(backend)
        if primed:
            backend.generate([replace(request, decoding=replace(request.decoding, max_new_tokens=1)) for request in primed])
        with kit.clock() as watch, counting(backend) as counts:
            done = backend.generate(requests)
        return Work(watch.seconds, len(requests), sum(completion.tokens for completion in done), counts)

    return way


def bare_rows(kit: Kit, backend: Any, requests: Sequence[GenerateRequest]) -> Way:
    """One prefill of the first request's context, its cache repeated, and the steps of all rows: forward passes alone."""
    length, k, tokens = backend.count_tokens(requests[0].messages), len(requests), kit.settings.tokens

    def way(repeat: int) -> Work:
        set_limit(kit.subject, k, length)
        with kit.clock() as watch:
            bare(kit.subject, new_cache(kit.subject), 1, length, tokens, copies=k)
        return Work(watch.seconds, k, k * tokens, {"prefilled": float(length)})

    return way


def _memory(kit: Kit, part: Part) -> None:
    """Caches at most, for each k, above those of one history with one reply."""
    peaks: dict[int, int] = {}
    for k in CANDIDATES:
        backend = kit.subject.engine(k)
        kit.subject.attend(backend)
        backend.generate(next_turns(kit, backend, [0] * k))
        if backend.counts is None:
            part.notes.append("memory of caches: not counted, this model is not run by the engine")
            return
        peaks[k] = backend.counts.peak_bytes
    for k in CANDIDATES[1:]:
        beyond = peaks[k] - peaks[1]
        new = (k - 1) * kit.settings.tokens * kit.subject.kv_bytes
        sizes = f"{peaks[k] / 2**20:.1f} MiB, {beyond / 2**20:.1f} MiB above k=1"
        part.facts.append((f"caches of k={k} at most", f"{sizes}: {beyond / new:.2f} x the {k - 1} further replies"))
    part.numbers = {"peak_bytes": peaks, "kv_bytes_a_token": kit.subject.kv_bytes}


def measure_contrastive(kit: Kit) -> None:
    """Contrastive search (alpha 0.6, k 4) against sampling, through the engine, and one row at a time as it is usually run."""
    rows, singles = kit.middle, min(kit.middle, kit.settings.singles)
    part = kit.part(
        "contrastive", f"Contrastive search (alpha 0.6, k 4), {rows} replies of {kit.settings.tokens} tokens, engine",
        columns=[Column("x sampling", SAMPLING), Column("x one row", SINGLE, ways=(CONTRASTIVE,))],
    )  # fmt: skip
    part.notes.append(f"{SINGLE}: batch 1, without the engine; measured on {singles} of the {rows} replies")
    backend, single = kit.subject.engine(rows), kit.subject.plain(1)
    search = Decoding(method="contrastive", penalty_alpha=0.6, top_k=4, max_new_tokens=kit.settings.tokens)
    sampled = kit.requests(backend, rows, "d")
    searched = [replace(request, decoding=search) for request in sampled]
    ways = {
        SAMPLING: replies(kit, backend, sampled),
        CONTRASTIVE: replies(kit, backend, searched),
        SINGLE: replies(kit, single, searched[:singles]),
    }
    kit.rounds(part, f"N={rows}", ways)
