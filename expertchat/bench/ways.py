"""The ways to run dialogues: one by one, batched, the engine, the bare forward pass, and the limit; precision; the kept cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from expertchat.bench.bare import bare_dialogues, fed, set_limit
from expertchat.bench.ceilings import least_of_dialogues, least_seconds
from expertchat.bench.kit import Kit, Way, Work, counting, fresh
from expertchat.bench.results import Column, Part
from expertchat.bench.subject import load_subject
from expertchat.experts.base import History
from expertchat.records import Transcript

ONE, BATCHED, ENGINE, BARE, LIMIT = "one by one", "batched", "engine", "bare forward", "limit"


def measure_ways(kit: Kit) -> None:
    """Whole dialogues, the same model on both sides, for each number of rows."""
    settings = kit.settings
    part = kit.part(
        "ways", f"Dialogues of {settings.turns} turns of {settings.tokens} new tokens",
        columns=[Column("x one by one", ONE), Column("x bare forward", BARE, ways=(ENGINE,)), Column("of the limit", LIMIT)],
        counts={"prefilled": "prefilled", "reused": "reused"},
    )  # fmt: skip
    part.notes += [
        f"{ONE}: batch 1, transformers' generate, every prompt computed from its beginning; measured on "
        f"{settings.singles} of the N conversations, its speed does not depend on N",
        f"{BATCHED}: the same on left-padded batches of N; {ENGINE}: the product's own way, through its scheduler",
        f"{BARE}: transformers' model alone on as many tokens, nothing sampled, no text, caches kept, with the faster attention of two",
        f"{LIMIT}: arithmetic, not a run: the time that reading the weights and the caches once a step, or the products, takes at least",
    ]
    top = kit.ceilings
    part.facts += [
        ("a copy moves", f"{top.bytes_a_second / 1e9:.1f} GB/s, read and written"),
        (f"a large product runs at {kit.subject.dtype}", f"{top.operations_a_second / 1e9:,.0f} GFLOP/s"),
    ]
    part.numbers |= {"bytes_a_second": top.bytes_a_second, "operations_a_second": top.operations_a_second}
    for rows in settings.rows:
        lengths: list[int] = []
        ways = {ONE: dialogues(kit, kit.subject.plain(1), min(rows, settings.singles), 1, lengths)}
        if rows > 1:
            ways[BATCHED] = dialogues(kit, kit.subject.plain(rows), rows, rows)
        ways[ENGINE] = dialogues(kit, kit.subject.engine(rows), rows, rows)
        ways[BARE] = bare_forward(kit, rows, lengths, part)
        ways[LIMIT] = limit(kit, rows, lengths)
        kit.rounds(part, f"N={rows}", ways)
        least = least_seconds(kit.subject, top, rows, 1, lengths[-1])
        part.facts.append((f"a step of N={rows} in the last turn takes at least", f"{1000 * least:.1f} ms"))


def dialogues(kit: Kit, backend: Any, count: int, width: int, lengths: list[int] | None = None) -> Way:
    """`count` dialogues, `width` at a time. Into `lengths` go the tokens of every turn's prompt."""

    def way(repeat: int) -> Work:
        fresh(backend)
        with kit.clock() as watch, counting(backend) as counts:
            transcripts = kit.talk(backend, count, f"r{repeat}") if width > 1 else one_by_one(kit, backend, count, f"r{repeat}")
        if lengths is not None:
            lengths[:] = prompt_lengths(kit, backend, transcripts)
        return Work(watch.seconds, count, count * kit.settings.turns * kit.settings.tokens, counts)

    return way


def one_by_one(kit: Kit, backend: Any, count: int, name: str) -> list[Transcript]:
    """One dialogue after the other, and so one request at a time."""
    if count == 1:
        return kit.talk(backend, 1, name)
    return [transcript for i in range(count) for transcript in kit.talk(backend, 1, f"{name}s{i}")]


def prompt_lengths(kit: Kit, backend: Any, transcripts: Sequence[Transcript]) -> list[int]:
    """Tokens of the prompt of each turn, on average."""
    experts = kit.experts(backend)

    def length(transcript: Transcript, turn: int) -> int:
        view = experts[transcript.turns[turn].speaker].view(History(transcript.topic, tuple(transcript.turns[:turn])))
        return int(backend.count_tokens(view))

    return [round(sum(length(t, turn) for t in transcripts) / len(transcripts)) for turn in range(kit.settings.turns)]


def limit(kit: Kit, rows: int, lengths: Sequence[int]) -> Way:
    """The least time of `rows` dialogues with prompts of `lengths`, which are known when the first way has run."""

    def way(repeat: int) -> Work:
        tokens = kit.settings.tokens
        seconds = least_of_dialogues(kit.subject, kit.ceilings, rows, lengths, fed(lengths, tokens), tokens)
        return Work(seconds, rows, rows * len(lengths) * tokens)

    return way


def bare_forward(kit: Kit, rows: int, lengths: Sequence[int], part: Part) -> Way:
    """`rows` dialogues as forward passes alone: `lengths` are the prompts' tokens turn by turn, known when the first way has run."""

    def way(repeat: int) -> Work:
        steps, tokens = fed(lengths, kit.settings.tokens), kit.settings.tokens
        attention = set_limit(kit.subject, rows, max(lengths))
        part.numbers[f"attention of the bare forward, N={rows}"] = attention
        with kit.clock() as watch:
            bare_dialogues(kit.subject, rows, steps, tokens)
        return Work(watch.seconds, rows, rows * len(lengths) * tokens, {"prefilled": float(rows * sum(steps))})

    return way


def measure_precision(kit: Kit) -> None:
    """The automatic number type against fp32, through the engine."""
    rows, own = kit.middle, kit.subject.dtype
    part = kit.part("precision", f"{own} against fp32, engine, {rows} dialogues", columns=[Column("x fp32", "fp32")])
    if own == "fp32":
        reasons = "".join(f" ({note})" for note in kit.subject.notes if "fp32" in note)
        part.notes.append(f"nothing to compare: the model runs in fp32 here{reasons}")
        return
    exact = Kit(kit.config, kit.settings, load_subject(kit.settings, "fp32"), kit.tell)
    backends = {name: some.subject.engine(rows) for name, some in (("fp32", exact), (own, kit))}
    kit.rounds(part, f"N={rows}", {"fp32": dialogues(exact, backends["fp32"], rows, rows), own: dialogues(kit, backends[own], rows, rows)})


def measure_prefill(kit: Kit) -> None:
    """What the cache that is kept between turns saves."""
    rows, nothing, kept = kit.middle, "nothing kept", "cache kept"
    part = kit.part(
        "prefill", f"Tokens computed as context, engine, {rows} dialogues of {kit.settings.turns} turns",
        columns=[Column("x nothing kept", nothing)], counts={"prefilled": "prefilled", "reused": "reused"},
    )  # fmt: skip
    ways = {
        nothing: dialogues(kit, kit.subject.engine(rows, cache_gib=0.0), rows, rows),
        kept: dialogues(kit, kit.subject.engine(rows), rows, rows),
    }
    kit.rounds(part, f"N={rows}", ways)
    before, after = part.counted(f"N={rows}", nothing, "prefilled"), part.counted(f"N={rows}", kept, "prefilled")
    if before and after:
        part.facts.append(("prefill saved by the kept cache", f"{1 - after[0] / before[0]:.0%} of {before[0]:,.0f} tokens"))
