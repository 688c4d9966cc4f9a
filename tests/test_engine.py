"""The engine on tiny real models: kept caches, shared contexts, full batches, and that none of it changes a text."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expertchat.backends.base import Completion, Decoding, GenerateRequest, ScoreRequest
from expertchat.backends.budget import Budget
from expertchat.backends.kept import SIZE, Kept
from expertchat.backends.local import LocalBackend
from expertchat.backends.scoring import plan, share
from expertchat.backends.slab import LayerShape, Slab
from expertchat.records import Message
from tests import tiny
from tests.test_decoding import reference

torch.set_num_threads(1)
OPTIONS = tuple(f" {n}" for n in range(1, 11))
GREEDY = Decoding(method="greedy", max_new_tokens=20)
SAMPLING = Decoding(method="sampling", max_new_tokens=24, temperature=0.9, top_p=0.95)
CONTRASTIVE = Decoding(method="contrastive", max_new_tokens=10, penalty_alpha=0.6, top_k=4)
METHODS = [GREEDY, SAMPLING, CONTRASTIVE]


@pytest.fixture(scope="module", params=["llama3", "mixtral", "qwen2_5"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp(request.param), request.param, context=1024)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("llama"), "llama3", context=1024)


def load(folder: Path, **more: Any) -> LocalBackend:
    return LocalBackend.load(folder, "m", seed=3, device="cpu", dtype="fp32", **more)


def talk(backend: LocalBackend, decoding: Decoding, dialogues: int = 5, turns: int = 4, drop: int = 6) -> list[list[str]]:
    """Dialogues of different lengths, advanced together; the oldest exchange is left out once there are more than `drop` messages."""
    histories = [[Message("user", f"Dialogue {i}: " + "herons fish in shallow water. " * i)] for i in range(dialogues)]
    texts: list[list[str]] = [[] for _ in histories]
    for turn in range(turns):
        running = [i for i in range(dialogues) if turn < turns - i % 2]  # some end earlier
        shown = [histories[i][-drop + 1 :] for i in running]
        requests = [GenerateRequest(f"c{i}/t{turn}", tuple(h), decoding) for i, h in zip(running, shown, strict=True)]
        for i, done in zip(running, backend.generate(requests), strict=True):
            texts[i].append(done.text)
            histories[i] += [Message("assistant", done.text), Message("user", f"What about {turn} and owls?")]
    return texts


# -- the same texts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoding", METHODS, ids=lambda d: d.method)
def test_kept_caches_change_no_text(folder: Path, decoding: Decoding) -> None:
    kept, anew, plain = load(folder), load(folder, cache_gib=0.0), load(folder, engine=False)
    assert kept.engine is not None and plain.engine is None
    wanted = talk(plain, decoding)
    assert talk(anew, decoding) == wanted
    assert talk(kept, decoding) == wanted
    assert anew.counts.reused == 0 < kept.counts.reused
    assert kept.counts.prefilled + kept.counts.reused == anew.counts.prefilled
    # A history's replies are tokenised anew, and those of a random model seldom come out as they were written.
    assert kept.counts.prefilled < anew.counts.prefilled * 0.75


@pytest.mark.parametrize("decoding", METHODS, ids=lambda d: d.method)
def test_no_batch_size_changes_a_text(llama: Path, decoding: Decoding) -> None:
    texts = [talk(load(llama, max_batch=rows), decoding, dialogues=9, turns=2) for rows in (1, 7, 64)]
    assert texts[0] == texts[1] == texts[2]
    assert len({text for dialogue in texts[0] for text in dialogue}) > 9


@pytest.mark.parametrize("decoding", METHODS, ids=lambda d: d.method)
def test_requests_may_join_at_any_step(llama: Path, decoding: Decoding) -> None:
    backend = load(llama, max_batch=4)
    requests = [GenerateRequest(f"k{i}", (Message("user", "Herons " * (1 + 5 * i)),), decoding) for i in range(12)]
    wanted = [load(llama, engine=False).generate([request])[0] for request in requests]
    lane, results, tickets, coming = backend.lane(decoding), {}, {}, iter(enumerate(requests))
    while len(results) < len(requests):
        for i, request in [pair for _, pair in zip(range(2), coming, strict=False)]:
            tickets[lane.add(request)] = i
        results |= {tickets[t]: done for t, done in lane.advance()}
    assert [(results[i].text, results[i].tokens, results[i].finish) for i in range(12)] == [(w.text, w.tokens, w.finish) for w in wanted]
    assert lane.load == 0 and lane.advance() == []


def test_contrastive_search_equals_the_paper(folder: Path) -> None:
    """The plain reference of test_decoding: one row, no cache, every candidate run with its whole context."""
    backend = load(folder)
    backend.end_ids = ()
    requests = [GenerateRequest(f"k{i}", (Message("user", "Owls and herons. " * (1 + 3 * i)),), CONTRASTIVE) for i in range(4)]
    for request, done in zip(requests, backend.generate(requests), strict=True):
        ids = backend.renderer.encode(request.messages)
        expected = reference(backend.model, ids, 0.6, 4, 10)[len(ids) :]
        assert done.text == backend.tokenizer.decode(expected, skip_special_tokens=True)


def test_stop_strings_and_limits_end_rows_at_different_steps(llama: Path) -> None:
    long, short = (Decoding(method="sampling", max_new_tokens=n, temperature=1.4) for n in (40, 3))
    requests = [GenerateRequest(f"k{i}", (Message("user", "Owls. " * i),), long, stop=("e", "the")) for i in range(8)]
    requests += [GenerateRequest(f"s{i}", (Message("user", "Owls. " * i),), short) for i in range(4)]
    done, wanted = load(llama).generate(requests), load(llama, engine=False).generate(requests)
    assert [(d.text, d.tokens, d.finish) for d in done] == [(w.text, w.tokens, w.finish) for w in wanted]
    assert len({d.tokens for d in done}) > 3


# -- what is shared ---------------------------------------------------------------------------------------------------

LONG = (Message("user", "Judge expert A from 1 to 10. " * 8),)


def test_candidates_of_one_history_share_its_prefill_and_its_memory(llama: Path) -> None:
    backend = load(llama)
    prompt = backend.count_tokens(LONG)
    requests = [GenerateRequest(f"k{i}", LONG, SAMPLING) for i in range(4)]
    together = [done.text for done in backend.generate(requests)]
    assert backend.counts.prefilled == prompt and backend.counts.reused == 0
    assert together == [load(llama).generate([request])[0].text for request in requests]
    assert len(set(together)) == 4
    # The row holds the history once, and the four replies' tokens behind it.
    one = load(llama)
    one.generate(requests[:1])
    grown = backend.counts.peak_bytes - one.counts.peak_bytes
    assert 0 <= grown <= 3 * (24 + 1) * backend.engine.token_bytes


def test_candidates_of_several_histories_run_side_by_side(llama: Path) -> None:
    histories = [(Message("user", f"History {h}. " + "owls " * 10 * h),) for h in range(3)]
    requests = [GenerateRequest(f"{h}/k{i}", history, SAMPLING) for h, history in enumerate(histories) for i in range(4 - h)]
    assert [d.text for d in load(llama).generate(requests)] == [load(llama).generate([r])[0].text for r in requests]


def test_generated_ratings_share_their_context(llama: Path) -> None:
    backend = load(llama)
    prefixes = ["Fine.\nDepth:", "Fine.\nAccuracy:", "Fine.\nClarity:", "Fine.\nHumanness:"]
    requests = [GenerateRequest(p, LONG, Decoding(method="greedy", max_new_tokens=8), prefix=p, stop=("\n",)) for p in prefixes]
    texts = [done.text for done in backend.generate(requests)]
    assert backend.counts.prefilled < backend.count_tokens(LONG) + 2 * SIZE
    assert texts == [load(llama, engine=False).generate([request])[0].text for request in requests]


def test_scores_share_their_context_and_what_was_kept(folder: Path) -> None:
    backend, plain = load(folder), load(folder, engine=False)
    asked = [ScoreRequest(c, LONG, OPTIONS, prefix=f"Fine.\n{c}:") for c in ("Depth", "Accuracy", "Clarity", "Humanness")]
    asked += [ScoreRequest("other", (Message("user", "Owls?"),), OPTIONS)]
    passes: list[tuple[int, int]] = []
    backend.model.register_forward_pre_hook(lambda _m, _a, kw: passes.append(tuple(kw["input_ids"].shape)), with_kwargs=True)
    found = backend.score(asked)
    assert [rows for rows, _ in passes] == [2, 2]  # two contexts, then what follows each: five requests of ten options
    for mine, theirs in zip(found, plain.score(asked), strict=True):
        assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)
    before = backend.counts.prefilled
    backend.score(asked[:4])
    assert backend.counts.prefilled - before <= SIZE


def test_a_shared_beginning_is_computed_once_even_in_one_wave(llama: Path) -> None:
    backend = load(llama)
    system = Message("system", "You are a human expert on herons. " * 12)
    requests = [GenerateRequest(f"k{i}", (system, Message("user", f"{i} owls? " + "Why? " * 15 * i)), GREEDY) for i in range(4)]
    texts = [done.text for done in backend.generate(requests)]
    shared = backend.renderer.ids(backend.renderer.text([system]))
    assert backend.counts.reused >= 3 * (len(shared) // SIZE - 1) * SIZE
    assert texts == [done.text for done in load(llama, engine=False).generate(requests)]


def test_share_groups_what_differs_at_the_end_only(llama: Path) -> None:
    backend = load(llama)
    asked = [ScoreRequest(f"k{i}", LONG, OPTIONS, prefix=p) for i, p in enumerate(("Depth:", "Clarity:"))]
    asked.append(ScoreRequest("far", LONG, OPTIONS, prefix="Depth " * 60 + ":"))
    plans = [plan(backend.renderer, one, "m", 1024) for one in asked]
    groups = share(plans, ["k0", "k1", "far"])
    assert sorted(sorted(i for i, _, _ in group.tails) for group in groups) == [[0, 1], [2]]
    for group in groups:
        for i, path, tail in group.tails:
            assert (*group.context, *tail) == (*plans[i].context, *path)


@given(st.text(alphabet="ab 1\n:é", max_size=40))
@settings(max_examples=80, deadline=None)
def test_endings_are_tokenised_as_in_the_whole_text(text: str) -> None:
    from expertchat.backends.rendering import Renderer

    for kind, digits in (("llama3", "whole"), ("mixtral", "split")):
        renderer = Renderer(tiny.tokenizer(kind, digits), kind)
        assert renderer.endings(text, ["", " 1", " 10"]) == [renderer.ids(text + ending) for ending in ("", " 1", " 10")]


# -- models that the engine cannot serve ------------------------------------------------------------------------------


def test_a_sliding_window_goes_the_plain_way_and_says_so(tmp_path: Path) -> None:
    import json

    folder = tiny.build(tmp_path, "mixtral", context=256)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"sliding_window": 32}))
    backend = load(folder)
    assert backend.engine is None and any("last 32 tokens only (context_length=32" in note for note in backend.info.notes)
    assert load(folder, context_length=32).engine is not None
    assert len(backend.generate([GenerateRequest("k", LONG[:1], d) for d in METHODS])) == 3


def test_a_wrong_cache_is_noticed(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forgets(self: Slab, key: Any, value: Any, layer: int, *_: Any, **__: Any) -> Any:
        return tuple(torch.zeros_like(x) for x in self._views[layer])

    monkeypatch.setattr(Slab, "update", forgets)
    backend = load(llama)
    assert backend.engine is None and any("differ from single rows" in note for note in backend.info.notes)


# -- the parts --------------------------------------------------------------------------------------------------------


def shapes(layers: int = 2) -> list[LayerShape]:
    return [LayerShape(2, 4, torch.float32, torch.device("cpu"))] * layers


def test_a_slab_writes_where_it_is_aimed_and_grows_without_loss() -> None:
    slab = Slab(shapes(), 2, 3)
    slab.aim(0, torch.tensor([[0, 1], [2, slab.dump]]), 3)
    keys = torch.arange(32.0).view(2, 2, 2, 4)
    seen, _ = slab.update(keys, keys, 1)
    assert seen.shape == (2, 2, 3, 4)
    assert torch.equal(seen[0, :, 0], keys[0, :, 0]) and torch.equal(seen[0, :, 1], keys[0, :, 1])
    assert torch.equal(seen[1, :, 2], keys[1, :, 0]) and not seen[1, :, :2].any()
    assert not slab.fit(2, 3) and slab.fit(5, 9)
    slab.copy(4, 0, 2)
    slab.aim(4, torch.tensor([[2]]), 3)
    again, _ = slab.update(keys[:1, :, :1], keys[:1, :, :1], 1)
    assert torch.equal(again[0, :, :2], keys[0]) and torch.equal(again[0, :, 2], keys[0, :, 0])
    assert slab.bytes == slab.rows * slab.capacity * sum(shape.bytes for shape in shapes())


def test_a_slab_reads_and_writes_rows() -> None:
    slab = Slab([*shapes(1), LayerShape(1, 4, torch.float32, torch.device("cpu"))], 2, 8)  # layers of different shapes
    for part in slab.parts:
        part.kv.normal_()
    pieces = [slab.read(0, 0, 3), slab.read(0, 3, 6)]
    slab.write(1, 0, pieces)
    assert all(torch.equal(part.kv[:, :, 1, :, :6], part.kv[:, :, 0, :, :6]) for part in slab.parts)


def piece(start: int, stop: int) -> tuple[list[torch.Tensor], None]:
    return [torch.full((1, 2, 1, stop - start, 1), float(start))], None


@given(st.lists(st.lists(st.integers(0, 1), min_size=0, max_size=5 * SIZE), min_size=1, max_size=6), st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_kept_finds_exactly_the_blocks_it_has(sequences: list[list[int]], room: int) -> None:
    kept = Kept(Budget(room * SIZE * 8))  # a block of SIZE tokens x 2 x 4 bytes
    for i, ids in enumerate(sequences):
        kept.add(ids, piece, f"c{i}/")
        assert kept.bytes == 8 * SIZE * len(kept) <= kept.budget
        found = kept.find(ids)
        assert [block.kv[0][0, 0, 0, 0, 0].item() for block in found] == [SIZE * n for n in range(len(found))]
        assert tuple(ids[: SIZE * len(found)]) == sum((block.tokens for block in found), ())
        assert len(found) == len(ids) // SIZE or kept.bytes + 8 * SIZE > kept.budget
    kept.forget("c")
    assert kept.bytes == len(kept) == 0


def test_the_least_recently_used_end_goes_first() -> None:
    kept = Kept(Budget(4 * SIZE * 8))
    first, second = [1] * 3 * SIZE, [2] * SIZE
    kept.add(first, piece, "c1/")
    kept.add(second, piece, "c2/")
    kept.add([3] * SIZE, piece, "c3/")  # full: the end of the oldest goes, its beginning stays
    assert [len(kept.find(ids)) for ids in (first, second, [3] * SIZE)] == [2, 1, 1]


@pytest.fixture
def streamed() -> Iterator[list[str]]:
    yield []


def test_texts_are_told_while_they_are_written(llama: Path, streamed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expertchat.backends.rows.STREAM_SECONDS", 0.0)
    monkeypatch.setattr("expertchat.backends.rows.STREAM_ROW", 0.0)
    lane = load(llama).lane(SAMPLING)
    lane.add(GenerateRequest("k", LONG, SAMPLING), streamed.append)
    done: list[tuple[int, Completion]] = []
    while not done:
        done = lane.advance()
    assert streamed[-1] == done[0][1].text and len(streamed) > 5
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(streamed))
