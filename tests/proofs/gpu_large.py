"""Large shapes with random weights: memory as planned and as taken, a round of online DPO, speed beside the bandwidth's limit."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from pathlib import Path

import torch

from expertchat.bench.config import BenchConfig
from expertchat.bench.gpu import measure_rows
from expertchat.bench.kit import Kit
from expertchat.bench.results import Spread
from expertchat.bench.subject import Subject, load_subject
from expertchat.command.compose import load
from expertchat.plan.config import PlanConfig
from expertchat.plan.random_shapes import parse_random
from expertchat.plan.random_words import speak_in_words
from tests.proofs.gpu_rows import Proof

GIB = 2**30
LLAMA, MIXTRAL = "random:llama:8B", "random:mixtral:8x7B"
SMALL_LLAMA = "random:llama:hidden=64,layers=2,heads=4,kv_heads=2,ffn=96,context=1024"
SMALL_MIXTRAL = "random:mixtral:hidden=64,layers=2,heads=4,kv_heads=2,ffn=96,experts=4,context=1024"
CATEGORIES = ("Depth", "Accuracy", "Clarity", "Relevance", "Engagement", "Humanness")
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")


def shape_names(proof: Proof) -> tuple[str, str]:
    return (SMALL_LLAMA, SMALL_MIXTRAL) if proof.tiny else (LLAMA, MIXTRAL)


# -- planned against measured -------------------------------------------------------------------------------------------


def plan_both(proof: Proof) -> None:
    """Llama 3 8B in fp16 beside Mixtral 8x7B in nf4: a reply, a judgement and a training step of each."""
    llama, mixtral = shape_names(proof)
    _plan(proof, [f"experts.a.path='{llama}'", "experts.a.dtype=fp16", f"experts.b.path='{mixtral}'", "experts.b.dtype=fp16"])


def plan_nf4(proof: Proof) -> None:
    """Llama 3 8B in nf4 in both seats."""
    llama, _ = shape_names(proof)
    both = [f"experts.{seat}.{key}" for seat in "ab" for key in (f"path='{llama}'", "quantization=nf4")]
    _plan(proof, ["model@experts.b=llama3_8b", *both])


def plan_int8(proof: Proof) -> None:
    """A small shape in int8 in both seats: bitsandbytes quantises it another way than nf4."""
    both = [
        f"experts.{seat}.{key}"
        for seat in "ab"
        for key in (f"path='{SMALL_LLAMA if proof.tiny else 'random:llama:110M'}'", "quantization=int8")
    ]
    _plan(proof, ["model@experts.b=llama3_8b", *both])


def _plan(proof: Proof, overrides: list[str]) -> None:
    from expertchat.plan.measure import measure

    job = ["conversations=2", "tokens=192", "train.tokens=128"] if proof.tiny else ["conversations=16", "tokens=3072", "train.tokens=1024"]
    config = load("plan", [*overrides, *job])
    assert isinstance(config, PlanConfig)
    rows, notes = measure(config)
    for row in rows:
        planned, measured = row["planned"], row["measured"]
        model = row["model"].split("=")[0]
        wanted = f"planned {planned / GIB:.2f}"
        whole = row["part"].startswith("all")
        # What is planned must be enough (the context of CUDA and lost pieces are planned on top), and not half as much again.
        fine = planned / 1.5 <= measured <= planned * 1.02 if whole and not proof.tiny else None
        proof.row(f"{model}: {row['part']} / GiB", f"{measured / GIB:.2f}", wanted, fine)
    for note in notes:
        proof.row(note, "")


# -- a round of online DPO ----------------------------------------------------------------------------------------------


def random_subject(name: str, dtype: str, kind: str, device: str) -> Subject:
    """A random model of a shape by its name, quantised matrix by matrix, that speaks in words of one token."""
    from transformers import AutoTokenizer

    from expertchat.backends.folders import find_folder
    from expertchat.plan.job import random_shape
    from expertchat.plan.rehearsal import random_model

    torch.manual_seed(0)
    shape = random_shape(parse_random(name))
    tokenizer = AutoTokenizer.from_pretrained(find_folder("embedded:llama"), trust_remote_code=False, local_files_only=True)
    model = random_model(shape, dtype, kind, {"": device})
    speak_in_words(model, tokenizer)
    return Subject(f"{name} {kind}", model, tokenizer, 0, min(8192, shape.context))


def round_mixtral(proof: Proof) -> None:
    """Mixtral 8x7B, linear experts in nf4: built, it talks, judges, and learns one round with an adapter on every expert."""
    _round(proof, shape_names(proof)[1], "fp16" if proof.cuda else "fp32", "nf4")


def round_llama(proof: Proof) -> None:
    """Llama 3 8B in fp16 with an fp32 adapter, and in nf4."""
    for kind in ("none", "nf4"):
        _round(proof, shape_names(proof)[0], "fp16" if proof.cuda else "fp32", kind)
        if proof.cuda:
            torch.cuda.empty_cache()


def _round(proof: Proof, name: str, dtype: str, kind: str) -> None:
    from expertchat.backends.adapters import Adapters
    from expertchat.backends.base import ScoreRequest
    from expertchat.backends.local import LocalBackend
    from expertchat.records import Message
    from expertchat.training.config import TrainConfig
    from expertchat.training.learner import LoraLearner
    from tests.proofs.gpu_same import OPTIONS
    from tests.test_qlora_round import TRAIN, one_round

    title = f"{name.split(':')[1]} {kind} {dtype}"
    subject = random_subject(name, dtype, kind, "cuda" if proof.cuda else "cpu")
    if proof.cuda:
        proof.row(f"{title}: built, GiB of the GPU", torch.cuda.memory_allocated() / GIB)
        torch.cuda.reset_peak_memory_stats()
    backend = LocalBackend(subject.model, subject.tokenizer, name, 0, context_length=subject.context_length)
    proof.row(f"{title}: the engine takes it", backend.engine is not None, "True", backend.engine is not None)
    notes = [note for note in backend.info.notes if "no kept" in note]
    if notes:
        proof.row(notes[0], "")
    config = TrainConfig.model_validate({**TRAIN, "learning_rate": 1e-4, "rank": 4 if proof.tiny else 16})
    learner = LoraLearner("a", backend, config, TARGETS, Adapters(backend.model), name, 0)
    chats = [(Message("user", f"What do you know about the tides of place {i}?"),) for i in range(4)]
    rated = backend.score([ScoreRequest(f"j{i}", chat, OPTIONS, "Rating:") for i, chat in enumerate(chats)])
    finite = all(math.isfinite(value) for one in rated for value in one.logprobs)
    proof.row(f"{title}: ten ratings of each of 4 judged, all finite", finite, "True", finite)
    losses: list[float] = []
    updated = one_round(learner, Path(proof.out), losses, histories=4, tokens=8 if proof.tiny else 64)
    proof.row(f"{title}: pairs trained", updated.rows, "4", updated.rows == 4)
    proof.at_most(f"{title}: first loss from ln 2", abs(losses[0] - math.log(2)), 5e-3)
    proof.row(f"{title}: the loss of the second step", losses[-1], f"< {losses[0]:.4f}", losses[-1] < losses[0])
    weights = learner.parameters().values()
    fine = all(bool(p.isfinite().all()) and p.dtype == torch.float32 for p in weights)
    proof.row(f"{title}: adapter of {sum(p.numel() for p in weights) / 1e6:.0f} M weights finite and in fp32", fine, "True", fine)
    moved = max(float(p.detach().abs().max()) for key, p in learner.parameters().items() if ".lora_B." in key)
    proof.row(f"{title}: the adapter moved by", moved, "> 0", moved > 0)
    if proof.cuda:
        proof.row(f"{title}: at most, GiB of the GPU", torch.cuda.max_memory_allocated() / GIB)


def judge_memory(proof: Proof) -> None:
    """Six categories of many dialogues scored at once: what that takes beside the contexts."""
    from expertchat.backends.base import ScoreRequest
    from expertchat.backends.local import LocalBackend
    from expertchat.backends.measuring import Memory
    from expertchat.records import Message
    from tests.proofs.gpu_same import OPTIONS

    subject = random_subject(shape_names(proof)[0], "fp16" if proof.cuda else "fp32", "none", "cuda" if proof.cuda else "cpu")
    backend = LocalBackend(subject.model, subject.tokenizer, subject.name, 0, context_length=subject.context_length, cache_gib=0)
    for dialogues in (2,) if proof.tiny else (16, 64):
        chats = [(Message("user", f"Dialogue {i}:" + " tide" * (50 if proof.tiny else 800)),) for i in range(dialogues)]
        asked = [
            ScoreRequest(f"d{i}/{name}", chat, OPTIONS, f"{name} of 10:") for i, chat in enumerate(chats) for name in CATEGORIES
        ]  # fmt: skip
        with Memory(subject.model) as memory:
            done = backend.score(asked)
        caches = backend.counts.peak_bytes if backend.counts else 0
        proof.row(f"{dialogues} dialogues x 6 ratings: GiB at most, caches of {caches / GIB:.2f} among them", memory.peak / GIB)
        proof.row(f"{dialogues} dialogues x 6 ratings / s", done[0].seconds)
        proof.row(f"{dialogues} dialogues x 6 ratings: rows at once afterwards", backend.max_batch)


def attention(proof: Proof) -> None:
    """A token's attention over a cache that grows, by each of torch's kernels: one that is planned anew for every length would be slow."""
    import time

    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    rows, steps = (2, 3) if proof.tiny else (64, 24)
    device, dtype = ("cuda", torch.bfloat16) if proof.cuda else ("cpu", torch.float32)
    keys = torch.randn(rows, 8, 1024, 128, device=device, dtype=dtype)
    query, mask = torch.randn(rows, 8, 4, 128, device=device, dtype=dtype), torch.zeros(rows, 1, 1, 1024, device=device, dtype=dtype)
    kinds = {
        "torch's choice": None,
        "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
        "cuDNN": SDPBackend.CUDNN_ATTENTION,
        "plain": SDPBackend.MATH,
    }
    for name, kind in kinds.items() if proof.cuda else [("torch's choice", None)]:
        for title, start in (("every length new", 500), ("lengths seen before", 500)):
            try:
                with sdpa_kernel(kind) if kind else contextlib.nullcontext():
                    _synced(device)
                    began = time.perf_counter()
                    for length in range(start, start + steps):
                        seen = keys[:, :, :length]
                        scaled_dot_product_attention(query, seen, seen, attn_mask=mask[..., :length])
                    _synced(device)
            except RuntimeError as error:
                proof.row(f"attention, {name}", "cannot", str(error).splitlines()[0][:60])
                break
            proof.row(f"attention, {name}, {title}: ms a call", (time.perf_counter() - began) / steps * 1e3)


def _synced(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


# -- speed --------------------------------------------------------------------------------------------------------------


def bench_bf16(proof: Proof) -> None:
    _bench(proof, shape_names(proof)[0], "bf16", "none", [1, 16, 64, 256])


def bench_fp16(proof: Proof) -> None:
    _bench(proof, shape_names(proof)[0], "fp16", "none", [16, 64])


def bench_nf4(proof: Proof) -> None:
    _bench(proof, shape_names(proof)[0], "bf16", "nf4", [1, 16, 64, 256])


def bench_mixtral(proof: Proof) -> None:
    _bench(proof, shape_names(proof)[1], "bf16", "nf4", [1, 16, 64])


def _bench(proof: Proof, name: str, dtype: str, kind: str, rows: list[int]) -> None:
    """Tokens a second of `generate`, `generate_batch` and the engine, and their shares of the bandwidth's limit."""
    if proof.tiny:
        rows = [2]
    tokens, repeats = (2, 1) if proof.tiny else (48, 2)
    device = "cuda" if proof.cuda else "cpu"
    config = load("bench", [
        f"bench.model='{name}'", f"bench.rows={rows}", f"bench.tokens={tokens}", f"bench.repeats={repeats}", "bench.parts=[gpu]",
        f"bench.device={device}", f"bench.dtype={dtype}",
    ])  # fmt: skip
    assert isinstance(config, BenchConfig)
    subject = load_subject(config.bench) if kind == "none" else random_subject(name, dtype, kind, device)
    for width in rows:  # each by itself: what fails at one width does not take the others along
        kit = Kit(config, config.bench.model_copy(update={"rows": [width]}), replace(subject))
        part = kit.part("gpu", name)
        try:
            measure_rows(kit, part)
        except torch.cuda.OutOfMemoryError as error:
            proof.row(f"{dtype} {kind} N={width}", "out of memory", str(error)[:60], False)
            continue
        if width == rows[0]:
            proof.row(f"{dtype} {kind}: copy bandwidth / GB/s", part.numbers["copy_bytes_a_second"] / 1e9)
        for case, way in part.rows:
            speed, share = Spread.of(part.speeds(case, way)).median, Spread.of(part.counted(case, way, "limit")).median
            proof.row(f"{dtype} {kind} {case}, {way}: tokens/s", f"{speed:,.0f}", f"{share:.1%} of limit")
        for note in part.notes:
            if "left out" in note:
                proof.row(note, "")
