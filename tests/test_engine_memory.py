"""The engine's memory: what is kept stays in its budget, and running out of it loses nothing, on tiny real models."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from expertchat.backends import engine as engine_module
from expertchat.backends import plain
from expertchat.backends.attention import FEW
from expertchat.backends.base import Decoding, GenerateRequest, ScoreRequest
from expertchat.backends.budget import Budget
from expertchat.backends.kept import SIZE, Kept
from expertchat.backends.loading import _share_budgets
from expertchat.backends.local import LocalBackend
from expertchat.backends.scoring import Plan, plan
from expertchat.backends.slab import Slab
from expertchat.backends.table import Table
from expertchat.config import ConfigError
from expertchat.records import Message
from tests import tiny
from tests.test_engine import CONTRASTIVE, GREEDY, LONG, METHODS, OPTIONS, load, piece, talk

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("llama"), "llama3", context=1024)


@pytest.mark.parametrize("decoding", METHODS, ids=lambda d: d.method)
def test_out_of_memory_lowers_the_batch_and_loses_nothing(llama: Path, decoding: Decoding, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = talk(load(llama), decoding, dialogues=9)
    backend = load(llama, max_batch=8)
    said: list[str] = []
    backend.say = said.append
    forward, calls = backend.engine.forward, []

    def small(slab: Slab, ids: Any, *rest: Any, **more: Any) -> Any:
        calls.append(len(ids))
        if len(calls) > 3 and len(ids) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(slab, ids, *rest, **more)

    monkeypatch.setattr(backend.engine, "forward", small)
    assert talk(backend, decoding, dialogues=9) == wanted
    assert backend.max_batch < 8 and f"to {backend.max_batch}; nothing is lost" in said[-1]
    asked = [ScoreRequest(f"k{i}", (Message("user", f"{i} owls " * i * 7),), OPTIONS) for i in range(1, 7)]
    backend.max_batch = 8
    for mine, theirs in zip(backend.score(asked), load(llama).score(asked), strict=True):
        assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)
    assert backend.max_batch == 3


@pytest.mark.parametrize(("owner", "name"), [(Slab, "read"), (Table, "_close_holes"), (Table, "unrepeated")])
@pytest.mark.parametrize("decoding", METHODS, ids=lambda d: d.method)
def test_memory_may_run_out_as_a_reply_ends(llama: Path, decoding: Decoding, owner: Any, name: str, monkeypatch: Any) -> None:
    """As what is done is kept, as its place is given to another row, and as the others' next words are weighed."""
    chats = [(Message("user", f"{max(1, i)} herons " * 12),) for i in range(4)]  # the first two share their context
    asked = [GenerateRequest(f"k{i}", chat, replace(decoding, max_new_tokens=3 + i % 3)) for i, chat in enumerate(chats)]
    wanted = [(one.text, one.tokens) for one in load(llama).generate(asked)]
    real = getattr(owner, name)
    for bad in (2, 3, 4):
        calls = itertools.count(1)

        def scarce(*args: Any, bad: int = bad, calls: Iterator[int] = calls, **more: Any) -> Any:
            if next(calls) == bad:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(*args, **more)

        backend = load(llama, max_batch=8)
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, scarce)
            assert [(one.text, one.tokens) for one in backend.generate(asked)] == wanted
        assert backend.max_batch == 8 or name != "read"  # what is not kept costs nothing but time


def test_candidates_are_written_over_one_another(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expertchat.backends.rows.AHEAD", 10**9)  # room for the whole reply at once, as on a GPU
    backend = load(llama, cache_gib=0)
    backend.end_ids = ()
    asked = [GenerateRequest(f"k{i}", LONG, CONTRASTIVE) for i in range(4)]
    length = len(backend.renderer.encode(LONG))
    backend.generate(asked)
    assert backend.counts.peak_bytes == 4 * (length + 10 + 4 + 1) * backend.engine.token_bytes  # reply, candidates, the dump


@pytest.mark.parametrize("engine", [True, False])
def test_beams_are_rows_and_whole_batches_give_way_too(llama: Path, engine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    beam = Decoding("beam", max_new_tokens=4, beams=2)
    asked = [GenerateRequest(f"k{i}", (Message("user", f"{i} owls " * 3),), beam) for i in range(4)]
    rated = [ScoreRequest(f"s{i}", (Message("user", f"{i} owls " * 3),), OPTIONS) for i in range(4)]
    wanted = [one.text for one in load(llama, engine=engine, max_batch=2).generate(asked)]
    scores = [one.logprobs for one in load(llama, engine=engine, max_batch=2).score(rated)]
    passes: list[int] = []

    def scarce(real: Any) -> Any:
        def called(model: Any, rows: Any, *rest: Any) -> Any:
            passes.append(len(rows))
            if len(rows) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(model, rows, *rest)

        return called

    monkeypatch.setattr(plain, "write", scarce(plain.write))
    monkeypatch.setattr(plain, "continuations", scarce(plain.continuations))
    backend = load(llama, engine=engine, max_batch=8)
    assert [one.text for one in backend.generate(asked)] == wanted
    assert passes == [4, 2, 2] and backend.max_batch == 4  # rows: two beams each
    backend = load(llama, engine=engine, max_batch=4)
    assert [one.logprobs for one in backend.score(rated)] == [pytest.approx(one, abs=1e-5) for one in scores]
    assert passes[3:] == ([] if engine else [4, 2, 2])


def test_beam_search_says_that_one_reply_is_too_much(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(plain, "write", never)
    with pytest.raises(ConfigError, match="out of memory with a single row"):
        load(llama, max_batch=8).generate([GenerateRequest(f"k{i}", LONG, Decoding("beam", beams=4)) for i in range(3)])


@pytest.mark.parametrize("decoding", METHODS, ids=lambda d: d.method)
def test_no_pass_sees_more_than_it_has_room_for(llama: Path, decoding: Decoding, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = talk(load(llama), decoding, dialogues=4, turns=2)
    monkeypatch.setattr(engine_module, "SEEN", {"cpu": 100})
    seen: list[tuple[int, int]] = []
    aim = Slab.aim

    def aimed(self: Slab, first: int, places: torch.Tensor, length: int) -> None:
        seen.append((places.shape[1], places.shape[0] * length if len(places) > 1 else 0))
        aim(self, first, places, length)

    monkeypatch.setattr(Slab, "aim", aimed)
    assert talk(load(llama), decoding, dialogues=4, turns=2) == wanted
    assert max(tokens for queries, tokens in seen if queries > FEW) <= 100 < max(tokens for _, tokens in seen)


def test_scores_make_no_logits_that_nobody_reads(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chats = [(Message("user", f"{i} owls and herons " * 9),) for i in range(5)]
    names = ("Depth", "Accuracy", "Clarity")
    asked = [ScoreRequest(f"{i}/{name}", chat, OPTIONS, f"{name}:") for i, chat in enumerate(chats) for name in names]
    wanted = [one.logprobs for one in load(llama, engine=False).score(asked)]
    backend = load(llama)
    words = backend.model.config.vocab_size
    widths: list[tuple[int, ...]] = []
    forward = backend.engine.forward

    def seen(*args: Any, **more: Any) -> torch.Tensor:
        logits = forward(*args, **more)
        if more.get("exact"):
            widths.append(tuple(logits.shape))
        return logits

    monkeypatch.setattr(backend.engine, "forward", seen)
    read = max(sum(len(path) + 1 for _, path, _ in one.tails) for one in backend._asked([_plan(backend, r) for r in asked], [""] * 15))
    monkeypatch.setattr("expertchat.backends.local.MOST", 2 * read * words)
    found = backend.score(asked)
    assert [one.logprobs for one in found] == [pytest.approx(one, abs=1e-4) for one in wanted]
    assert [rows for rows, _, _ in widths] == [2, 2, 1] and max(columns for _, columns, _ in widths) <= read


def _plan(backend: LocalBackend, request: ScoreRequest) -> Plan:
    return plan(backend.renderer, request, "m", 1024)


def test_out_of_memory_with_one_row_is_said(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = load(llama)

    def never(*_: Any) -> Any:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(backend.engine, "forward", never)
    with pytest.raises(ConfigError, match="out of memory with a single row; shorten"):
        backend.generate([GenerateRequest("k", LONG, GREEDY)])
    monkeypatch.setattr(backend.engine, "forward", lambda *_: [][0])
    with pytest.raises(IndexError):  # other errors are not taken for lack of memory
        backend.generate([GenerateRequest("k", LONG, GREEDY)])


def test_kept_caches_stay_in_their_budget_and_are_computed_again(llama: Path) -> None:
    roomy, wanted = load(llama), talk(load(llama), GREEDY)
    budget = 10 * SIZE * roomy.engine.token_bytes
    tight = load(llama, cache_gib=budget / 2**30)
    assert talk(tight, GREEDY) == wanted
    assert 0 < tight.engine.kept.bytes <= budget
    talk(roomy, GREEDY)
    assert tight.counts.prefilled > roomy.counts.prefilled


def test_forget_frees_a_dialogue(llama: Path) -> None:
    backend = load(llama)
    for name in ("c1", "c2"):
        backend.generate([GenerateRequest(f"{name}/t0", (Message("user", f"{name} owls " * 20),), GREEDY)])
    kept = backend.engine.kept
    both = kept.bytes
    backend.forget("c1/")
    assert 0 < kept.bytes < both
    backend.forget("c2/")
    assert kept.bytes == len(kept) == 0


def test_forgetting_a_dialogue_leaves_what_others_go_on_from(llama: Path) -> None:
    """All prompts begin with the same words; the dialogue that was last to use them ends, and the others' caches are found again."""
    backend = load(llama)
    requests = [GenerateRequest(f"{name}/t0", (Message("user", "Judge the answers. " * 20 + name * 40),), GREEDY) for name in "xyz"]
    for request in requests:
        backend.generate([request])
    backend.forget("z/")
    before = backend.counts.prefilled
    for request in requests[:2]:
        backend.generate([request])
    assert backend.counts.prefilled - before <= 2 * SIZE  # the tokens of each after its last whole block
    backend.forget("x/")
    backend.forget("y/")
    assert backend.engine.kept.bytes == len(backend.engine.kept) == 0


def test_rows_and_budget_are_found_from_the_free_memory(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = load(llama)
    # 2 layers x 2 (key, value) x 2 heads x 8 dimensions x 4 bytes = 256 bytes a token; rows are counted with 1024 tokens, the context.
    assert backend.engine.token_bytes == 256
    for free, rows in ((10 * 256 * 1024, 4), (1, 1), (2**40, 64)):  # 0.4 of room for ten rows; at least one; at most 64 on a CPU
        monkeypatch.setattr("expertchat.backends.engine.free_memory", lambda _device, free=free: free)
        assert backend.engine.rows_that_fit(1024) == rows
        fresh = load(llama)
        fresh.generate([GenerateRequest("k", LONG, GREEDY)])
        assert fresh.engine.kept.budget == int(0.25 * free) // 256 * 256


def test_memory_is_freed_with_the_lane(llama: Path) -> None:
    backend = load(llama)
    lane = backend.lane(GREEDY)
    lane.add(GenerateRequest("k", LONG, GREEDY))
    lane.advance()
    assert sum(backend.counts.slabs.values()) > 0
    lane.close()
    assert lane.load == 0 and not backend.counts.slabs


# -- one budget for all engines of a device ------------------------------------------------------------------------------


def test_those_who_share_a_budget_give_up_what_was_used_longest_ago() -> None:
    budget = Budget(3 * SIZE * 8)
    one, two = Kept(budget), Kept(budget)
    one.add([1] * SIZE, piece, "c1/")
    two.add([2] * SIZE, piece, "c2/")
    one.add([3] * SIZE, piece, "c3/")
    one.touch(one.find([1] * SIZE), "c1/")
    one.add([4] * SIZE, piece, "c4/")  # full: the oldest is the other one's
    assert ([len(one.find([n] * SIZE)) for n in (1, 3, 4)], len(two)) == ([1, 1, 1], 0)
    two.add([5] * SIZE, piece, "c5/")  # now 3, since 1 was touched after it
    assert ([len(one.find([n] * SIZE)) for n in (1, 3, 4)], len(two)) == ([1, 0, 1], 1)
    assert budget.bytes == one.bytes + two.bytes == 3 * SIZE * 8


def test_who_is_gone_takes_nothing_of_the_budget() -> None:
    budget = Budget(4 * SIZE * 8)
    one = Kept(budget)
    one.add([1] * 3 * SIZE, piece, "c1/")
    del one
    two = Kept(budget)
    two.add([2] * 4 * SIZE, piece, "c2/")
    assert len(two) == 4


def test_the_voices_of_a_model_and_the_models_of_a_device_share(llama: Path) -> None:
    one, other = load(llama), load(llama)
    _share_budgets([one, other])
    voice = one.voice(lambda: None)
    assert one.engine.budget is other.engine.budget is voice.engine.budget
    for backend in (one, other, voice):
        backend.generate([GenerateRequest("k", LONG, GREEDY)])
    assert one.engine.budget.most == one.engine.kept.budget > 0
    assert one.engine.budget.bytes == sum(backend.engine.kept.bytes for backend in (one, other, voice)) > 0


def test_out_of_memory_all_engines_of_the_device_make_room(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = load(llama, max_batch=4), load(llama)
    _share_budgets([one, other])
    wanted = [c.text for c in one.generate([GenerateRequest("k", LONG, GREEDY)] * 2)]
    other.generate([GenerateRequest("k", LONG, GREEDY)])
    assert other.engine.kept.bytes
    forward, tried = one.engine.forward, list[int]()

    def scarce(*args: Any) -> torch.Tensor:
        tried.append(1)
        if len(tried) == 1:
            raise MemoryError
        return forward(*args)

    monkeypatch.setattr(one.engine, "forward", scarce)
    assert [c.text for c in one.generate([GenerateRequest("k", LONG, GREEDY)] * 2)] == wanted
    assert not other.engine.kept.bytes
