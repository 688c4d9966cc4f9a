"""Pairwise judgements in both orders: through the judges' lab, in batches, against one by one with `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from expertchat.backends.base import Decoding, GenerateRequest
from expertchat.bench.kit import Kit, Way, Work, counting, fresh
from expertchat.bench.results import Column
from expertchat.judging.pairwise import ANSWER_TOKENS, ORDERS, Duel, duel_flow, request
from expertchat.lab.judge import in_turn

SINGLE, ENGINE = "one by one", "engine"


def measure_judgements(kit: Kit) -> None:
    """`judgements` pairs, each shown in both orders; the judge answers A or B."""
    count, singles = kit.settings.judgements, min(kit.settings.judgements, 10 * kit.settings.singles)
    part = kit.part(
        "judgements", f"{count} pairwise judgements in both orders", unit="judgements",
        columns=[Column("x one by one", SINGLE)], counts={"prefilled": "prefilled", "reused": "reused"},
    )  # fmt: skip
    part.notes += [
        f"{ENGINE}: as `expertchat judge` asks, the probabilities of A and B, all pairs together, equal beginnings computed once",
        f"{SINGLE}: batch 1, transformers' generate, {ANSWER_TOKENS} tokens written, every prompt from its beginning; on {singles} of them",
    ]
    duels = list(_duels(kit, count))
    ways = {SINGLE: one_by_one(kit, kit.subject.plain(1), duels[:singles]), ENGINE: together(kit, kit.subject.engine(), duels)}
    kit.rounds(part, f"N={count}", ways)


def _duels(kit: Kit, count: int) -> list[Duel]:
    """Pairs of replies to histories of real length: each turn of a dialogue against that of another one in its place."""
    written, categories, found = kit.transcripts, kit.config.judging.categories, list[Duel]()
    while len(found) < count:
        n = len(found)
        one, two = written[n % len(written)], written[(n + 1 + n // len(written)) % len(written)]
        at = max(1, (n // len(written)) % len(one.turns))
        subject, key = one.turns[at].speaker, f"d{n:04d}"
        found.append(
            Duel(key, key, f"{one.topic}, {n}", tuple(one.turns[:at]), subject, one.turns[at].text, two.turns[at].text, categories)
        )
    return found


def together(kit: Kit, backend: Any, duels: Sequence[Duel]) -> Way:
    """All duels as flows of one scheduler."""

    def way(repeat: int) -> Work:
        fresh(backend)
        expert = kit.experts(backend)["a"]
        named = [replace(duel, key=f"r{repeat}{duel.key}") for duel in duels]
        flows = [in_turn(duel_flow("a", expert, duel, backend.count_tokens)) for duel in named]
        with kit.clock() as watch, counting(backend) as counts:
            kit.run(backend, flows, len(flows))
        return Work(watch.seconds, len(duels), 0, counts)

    return way


def one_by_one(kit: Kit, backend: Any, duels: Sequence[Duel]) -> Way:
    """Each duel in each order as a request of its own, its answer written."""

    def way(repeat: int) -> Work:
        kit.subject.attend(backend)
        expert = kit.experts(backend)["a"]
        asked, decoding = (request(expert, duel, first) for duel in duels for first in ORDERS), Decoding("greedy", ANSWER_TOKENS)
        written = [GenerateRequest(one.key, one.messages, decoding, prefix=one.prefix) for one in asked]
        with kit.clock() as watch:
            for one in written:
                backend.generate([one])
        return Work(watch.seconds, len(duels))

    return way
