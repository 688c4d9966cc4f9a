"""Small models on the GPU against the CPU: texts, scores, half precision, bits, places, and memory that runs out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata
from itertools import chain
from typing import Any

import torch

from expertchat.backends.base import Decoding, GenerateRequest, ScoreRequest
from expertchat.backends.folders import find_folder
from expertchat.backends.hardware import choose_device, choose_dtype, free_memory
from expertchat.backends.local import LocalBackend
from expertchat.config import ConfigError
from expertchat.records import Message
from tests.proofs.gpu_rows import LeftOut, Proof, clean

GIB = 2**30
MODELS = ("embedded:llama", "embedded:mixtral")
OPTIONS = tuple(f" {n}" for n in range(1, 11))
PACKAGES = ("torch", "transformers", "accelerate", "peft", "trl", "bitsandbytes", "datasets", "sentence-transformers", "triton")
METHODS = {
    "greedy": Decoding(method="greedy", max_new_tokens=32),
    "sampling": Decoding(method="sampling", max_new_tokens=32, temperature=0.9, top_p=0.95),
    "contrastive": Decoding(method="contrastive", max_new_tokens=24, penalty_alpha=0.6, top_k=4),
    "beam": Decoding(method="beam", max_new_tokens=24, beams=3),
}
THINGS = ("the Moon", "bees", "tides", "volcanoes", "coral reefs", "sleep", "chess", "bread")
MEAN, RATING = {"bf16": 0.05, "fp16": 0.01}, {"bf16": 0.1, "fp16": 0.02}  # bf16 keeps 8 bits of a number, fp16 11


def load(name: str, device: str, **more: Any) -> LocalBackend:
    return LocalBackend.load(find_folder(name), name, 3, **{"dtype": "fp32", "device": device, **more})


def histories(count: int, dialogues: Sequence[Sequence[str]] = ()) -> list[tuple[Message, ...]]:
    """Chats of different lengths, continued with the replies that are there."""
    found = []
    for i in range(count):
        thing = THINGS[i % len(THINGS)]
        chat = [Message("user", f"What do you know about {thing}?" + " Tell me more." * (i % 5))]
        for turn, text in enumerate(dialogues[i] if dialogues else ()):
            chat += [Message("assistant", text), Message("user", f"And what about {THINGS[(i + turn + 1) % len(THINGS)]}?")]
        found.append(tuple(chat))
    return found


def talk(backend: LocalBackend, decoding: Decoding, count: int, turns: int) -> list[list[str]]:
    """Dialogues that advance together, their caches kept from turn to turn."""
    texts: list[list[str]] = [[] for _ in range(count)]
    for turn in range(turns):
        chats = histories(count, texts)
        done = backend.generate([GenerateRequest(f"c{i}/t{turn}", chat, decoding) for i, chat in enumerate(chats)])
        for text, completion in zip(texts, done, strict=True):
            text.append(completion.text)
    return texts


def flat(texts: Sequence[Sequence[str]]) -> list[str]:
    return list(chain.from_iterable(texts))


def scores(backend: LocalBackend, chats: Sequence[tuple[Message, ...]]) -> torch.Tensor:
    """Log probabilities [chats, 10] of the ten ratings."""
    done = backend.score([ScoreRequest(f"s{i}", chat, OPTIONS, "Rating:") for i, chat in enumerate(chats)])
    return torch.tensor([one.logprobs for one in done], dtype=torch.float64)


def expected(logps_N_10: torch.Tensor) -> torch.Tensor:
    return logps_N_10.softmax(-1) @ torch.arange(1.0, 11.0, dtype=torch.float64)


@torch.inference_mode()
def logps(backend: LocalBackend, chats: Sequence[tuple[Message, ...]]) -> torch.Tensor:
    """Log probability of every token of some chats, one after the other, by a plain pass."""
    found = []
    for chat in chats:
        ids = torch.tensor([backend.renderer.encode(chat)], device=backend.model.device)
        of_T_V = backend.model(input_ids=ids).logits[0].float().log_softmax(-1)
        found.append(of_T_V[:-1].gather(-1, ids[0, 1:, None].to(of_T_V.device))[:, 0].double().cpu())
    return torch.cat(found)


def machine(proof: Proof) -> None:
    """What is here, what is chosen on it by itself, and whether its free memory is read rightly."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not here"
    proof.about |= {"python": sys.version.split()[0], "packages": found, "card": choose_device("auto")[1] or ""}
    proof.row("packages", " ".join(f"{name} {version}" for name, version in found.items()))
    device, note = choose_device("auto")
    proof.row("device=auto", device, proof.device, device == proof.device)
    proof.row("its reason", note)
    proof.row("dtype=auto", str(choose_dtype("auto", device)[1]))
    if not proof.cuda:
        return
    total = torch.cuda.get_device_properties(0).total_memory
    before = free_memory(device)
    block = torch.empty(2 * GIB, dtype=torch.uint8, device=device)
    during = free_memory(device)
    del block  # torch holds it now, and it is free for this program
    after = free_memory(device)
    proof.row("free memory / GiB", before / GIB, f"<= {total / GIB:.1f}", before <= total)
    proof.at_most("free memory less by a tensor of 2 GiB, error / MiB", abs(before - during - 2 * GIB) / 2**20, 4)
    proof.at_most("free memory after it is gone, error / MiB", abs(before - after) / 2**20, 4)
    for wanted, part in (("cuda:7", "torch finds"), ("warp", "is no device")):
        try:
            choose_device(wanted)
            proof.row(f"device={wanted}", "taken", "refused", False)
        except ConfigError as error:
            proof.row(f"device={wanted}", "refused", "refused", part in str(error))


def same_texts(proof: Proof) -> None:
    """In fp32, without TF32: the texts of the CPU, word for word, in every way of decoding and of running."""
    count, turns = (2, 2) if proof.tiny else (8, 4)
    ways: dict[str, dict[str, Any]] = {"engine": {}, "nothing kept": {"cache_gib": 0.0}, "generate": {"engine": False}}
    for name in MODELS[:1] if proof.tiny else MODELS:
        cpu = load(name, "cpu")
        backends = {way: load(name, proof.device, **more) for way, more in ways.items()}
        proof.row(f"{name}: the engine takes it", backends["engine"].engine is not None, "True", backends["engine"].engine is not None)
        texts: list[list[str]] = []
        for method, decoding in METHODS.items():
            if proof.tiny and method in ("greedy", "beam"):
                continue
            texts = talk(cpu, decoding, count, turns)
            for way, backend in backends.items():
                got = talk(backend, decoding, count, turns)
                proof.equal(f"{name}, {method}, {way}: replies as on the CPU", flat(got), flat(texts))
        chats = histories(count, texts)
        wanted = scores(cpu, chats)
        for way, backend in backends.items():
            proof.at_most(f"{name}, {way}: scores, largest difference", float((scores(backend, chats) - wanted).abs().max()), 1e-3)
        reused = backends["engine"].counts.reused
        proof.row(f"{name}: context tokens taken from kept caches", reused, "> 0", reused > 0)


def half_precision(proof: Proof) -> None:
    """bf16 and fp16 against fp32 on the same device: log probabilities of the same tokens, and ratings."""
    count = 2 if proof.tiny else 16
    for name in MODELS[:1] if proof.tiny else MODELS:
        exact = load(name, proof.device)
        chats = histories(count, talk(exact, METHODS["sampling"], count, 2))
        wanted, rated = logps(exact, chats), expected(scores(exact, chats))
        for dtype in ("bf16", "fp16"):
            half = load(name, proof.device, dtype=dtype)
            proof.row(f"{name}, {dtype}: the engine takes it", half.engine is not None, "True", half.engine is not None)
            apart = (logps(half, chats) - wanted).abs()
            proof.at_most(f"{name}, {dtype}: log probability of a token, mean difference", float(apart.mean()), MEAN[dtype])
            proof.row(f"{name}, {dtype}: the same, largest", float(apart.max()))
            found = expected(scores(half, chats))
            proof.at_most(f"{name}, {dtype}: expected rating, largest difference", float((found - rated).abs().max()), RATING[dtype])
            done = talk(half, METHODS["sampling"], count, 2)
            proof.row(f"{name}, {dtype}: replies written", sum(bool(text) for texts in done for text in texts), f"{2 * count}")


def bits(proof: Proof) -> None:
    """nf4 and int8 through bitsandbytes: loaded on the GPU from a folder, against the same on the CPU."""
    count = 2 if proof.tiny else 8
    for name in MODELS[1:] if proof.tiny else MODELS:
        for kind in ("nf4",) if proof.tiny else ("nf4", "int8"):
            dtype = "fp32" if kind == "nf4" else "fp16"  # LLM.int8 computes in fp16 whatever is asked
            there = load(name, proof.device, quantization=kind, dtype=dtype)
            chats = histories(count, talk(there, METHODS["sampling"], count, 1))
            here = load(name, "cpu", quantization=kind, dtype="fp32")
            limit = 0.01 if kind == "nf4" else 0.1
            apart = (logps(there, chats) - logps(here, chats)).abs()
            proof.at_most(f"{name}, {kind}: log probability of a token as on the CPU, mean difference", float(apart.mean()), limit)
            proof.row(f"{name}, {kind}: the engine takes it", there.engine is not None, "True", there.engine is not None)
            rated = (expected(scores(there, chats)) - expected(scores(here, chats))).abs().max()
            proof.at_most(f"{name}, {kind}: expected rating as on the CPU, largest difference", float(rated), 10 * limit)


def places(proof: Proof) -> None:
    """Where a model can be put: device names, balanced, a map of every module with its hooks."""
    from accelerate import dispatch_model

    from expertchat.backends.weights import lean_hooks

    if not proof.cuda:
        raise LeftOut("needs a GPU")
    plain = load(MODELS[0], "cuda")
    chats = histories(4)
    wanted = logps(plain, chats)
    for device in ("auto", "cuda:0", "balanced"):
        other = load(MODELS[0], device)
        proof.at_most(f"device={device}: log probabilities, largest difference", float((logps(other, chats) - wanted).abs().max()), 1e-5)
        proof.row(f"device={device}: runs on", other.device, "cuda:0", other.device == "cuda:0")
    names = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]
    spread: dict[str, Any] = dict.fromkeys([*names, *(f"model.layers.{i}" for i in range(plain.model.config.num_hidden_layers))], 0)
    mapped = load(MODELS[0], "balanced", device_map=spread)
    hooked = load(MODELS[0], "cuda")
    hooked.model.hf_device_map = spread
    dispatch_model(hooked.model, spread, force_hooks=True)
    lean_hooks(hooked.model)
    hooks = sum(hasattr(module, "_hf_hook") for module in hooked.model.modules())
    proof.row("a map of every module: hooks left", hooks, f"<= {len(spread) + 1}", 0 < hooks <= len(spread) + 1)
    texts = talk(plain, METHODS["sampling"], 4, 2)
    for title, backend in (("a map of every module", mapped), ("the same with hooks", hooked)):
        proof.equal(f"{title}: replies", flat(talk(backend, METHODS["sampling"], 4, 2)), flat(texts))
    note = next((note for note in load(MODELS[0], "auto", quantization="auto", dtype="auto").info.notes if "quantised" in note), "no note")
    proof.row("quantization=auto", note)


def memory_runs_out(proof: Proof) -> None:
    """Less memory than the rows need: fewer rows, no reply lost, the same texts."""
    from transformers import AutoTokenizer

    from expertchat.plan.memory import Shape
    from expertchat.plan.rehearsal import random_model

    if not proof.cuda:
        raise LeftOut("needs a GPU")
    clean()
    words = AutoTokenizer.from_pretrained(find_folder("embedded:llama"), trust_remote_code=False, local_files_only=True)
    torch.manual_seed(0)
    model = random_model(Shape(8, 512, 8, 8, 64, 1408, 4096, context=8192), "fp32", "none", {"": "cuda"})
    rows, tokens = 64, 1500  # keys and values: 64 x 1500 x 2 x 8 layers x 512 x 4 bytes = 2.9 GiB
    chats = [(Message("user", f"{THINGS[i % 8]} {i} " + " tide" * (tokens - 10 * (i % 7))),) for i in range(rows)]
    requests = [GenerateRequest(f"m{i}", chat, Decoding("sampling", 12)) for i, chat in enumerate(chats)]
    whole = LocalBackend(model, words, "random", cache_gib=0, max_batch=rows)
    whole.end_ids = ()
    wanted = [one.text for one in whole.generate(requests)]
    rated = whole.score([ScoreRequest(f"s{i}", chat, OPTIONS) for i, chat in enumerate(chats)])
    whole.refresh()
    total, room = torch.cuda.get_device_properties(0).total_memory, 2 * GIB
    for cache, title in ((0.0, "nothing kept"), (None, "caches kept")):
        clean()
        said: list[str] = []
        backend = LocalBackend(model, words, "random", cache_gib=cache, max_batch=rows)
        backend.end_ids, backend.say = (), said.append
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + room) / total)
        try:
            proof.equal(f"2 GiB for 2.9, {title}: replies as with enough", [one.text for one in backend.generate(requests)], wanted)
            proof.row(f"2 GiB for 2.9, {title}: it says", "; ".join(said)[:120] or "nothing", "out of memory", bool(said))
            found = backend.score([ScoreRequest(f"s{i}", chat, OPTIONS) for i, chat in enumerate(chats)])
            apart = max(abs(x - y) for one, two in zip(found, rated, strict=True) for x, y in zip(one.logprobs, two.logprobs, strict=True))
            proof.at_most(f"2 GiB for 2.9, {title}: scores, largest difference", apart, 1e-3)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        backend.refresh()
