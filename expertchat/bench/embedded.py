"""Embeddings: the product's own way against sentence-transformers alone, and what half precision changes in the cosines."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expertchat.bench.kit import Kit, Way, Work
from expertchat.bench.results import Column, Part
from expertchat.config import EmbedderConfig

OURS, OURS_FP32 = "ours", "ours, fp32"
BATCHES = (1, 2, 8, 32)
TEXTS = 32
LENGTHS = (30, 400)  # words of a text's facts, about, from the shortest to the longest


def measure_embedding(kit: Kit) -> None:
    """Texts as long as replies and WIM responses; nothing is remembered."""
    import torch

    from expertchat.backends.embedding import SentenceEmbedder
    from expertchat.backends.hardware import DTYPES

    settings = kit.settings
    folder, name = embedder_folder(settings.embedder, settings.models_dir)
    kit.tell(f"loading {name}")
    ours = SentenceEmbedder.load(folder, name, settings.device)
    exact = SentenceEmbedder.load(folder, name, settings.device, dtype="fp32")
    ours.cache_size = exact.cache_size = 0
    texts = made_texts(TEXTS, settings.seed)
    tokens = sum(ours.count(text) for text in texts)
    kinds = dict.fromkeys(["fp32", next(key for key, kind in DTYPES.items() if kind == ours.dtype)])
    part = kit.part("embedding", f"{len(texts)} texts, {tokens} tokens, by {name}", columns=[Column(f"x {OURS}", OURS)])
    part.notes += [
        f"{OURS}: {list(kinds)[-1]}, at most {ours.batch_size} in a pass; alone: sentence-transformers, which sorts by length too",
        f"the texts are joined facts of the embedded world, those of {exact.limit} tokens and more in {OURS} cut into chunks",
    ]
    ways: dict[str, Way] = {OURS: by_us(kit, ours, texts, tokens)}
    if len(kinds) > 1:
        ways[OURS_FP32] = by_us(kit, exact, texts, tokens)
    for kind in kinds:
        model = alone(folder, ours.device, DTYPES[kind])
        ways |= {f"alone, {kind}, batch {batch}": by_itself(kit, model, texts, tokens, batch) for batch in BATCHES}
    with torch.inference_mode():
        kit.rounds(part, "", ways)
    best_of(part)
    changes = [abs(a - b) for a, b in zip(cosines(ours, texts), cosines(exact, texts), strict=True)]
    part.numbers |= {"cosine_change": {"pairs": len(changes), "max": max(changes), "mean": statistics.mean(changes)}}
    figures = f"at most {max(changes):.5f}, {statistics.mean(changes):.5f} in the mean of {len(changes)} pairs"
    part.facts.append(("cosines against fp32", figures))


def embedder_folder(path: str, models_dir: str | None) -> tuple[Path, str]:
    """The checked folder of an embedder, and its name. Raises ConfigError."""
    from expertchat.backends.loading import load_embedder

    found = load_embedder(EmbedderConfig(path=path, models_dir=models_dir), [])
    return found.folder, found.name


def made_texts(count: int, seed: int) -> list[str]:
    """Facts of the embedded world joined into texts, the shortest first; none is like another."""
    from expertchat.world.facts import load

    facts = sorted(load().clauses)
    rng, texts = random.Random(seed), []
    for index in range(count):
        words = LENGTHS[0] + (LENGTHS[1] - LENGTHS[0]) * index / max(1, count - 1)
        said: list[str] = []
        while sum(len(fact.split()) for fact in said) < words * 0.75:  # three words are four tokens, about
            said.append(rng.choice(facts))
        texts.append(" ".join(f"{fact[:1].upper()}{fact[1:].rstrip('.')}." for fact in said))
    return texts


def alone(folder: Path, device: str, dtype: Any) -> Any:
    """The same folder as sentence-transformers loads it."""
    from sentence_transformers import SentenceTransformer

    settings = {"use_safetensors": True, "dtype": dtype}
    return SentenceTransformer(str(folder), device=device, trust_remote_code=False, local_files_only=True, model_kwargs=settings)


def by_us(kit: Kit, embedder: Any, texts: Sequence[str], tokens: int) -> Way:
    from expertchat.backends.base import EmbedRequest

    def way(repeat: int) -> Work:
        with kit.clock() as watch:
            embedder.embed([EmbedRequest("", text) for text in texts])
        return Work(watch.seconds, len(texts), tokens)

    return way


def by_itself(kit: Kit, model: Any, texts: Sequence[str], tokens: int, batch: int) -> Way:
    def way(repeat: int) -> Work:
        with kit.clock() as watch:
            model.encode(list(texts), batch_size=batch, show_progress_bar=False)
        return Work(watch.seconds, len(texts), tokens)

    return way


def best_of(part: Part) -> None:
    """How the time of ours stands to the best way of sentence-transformers, by their medians."""
    medians = {way: statistics.median(t.seconds for t in part.of(case, way)) for case, way in part.rows}
    best = min((way for way in medians if way.startswith("alone")), key=medians.__getitem__)
    share = f"{medians[OURS] / medians[best]:.2f} of its time"
    part.facts.append((f"{OURS} against the best alone ({best.removeprefix('alone, ')})", share))


def cosines(embedder: Any, texts: Sequence[str]) -> list[float]:
    """The cosine of every two texts."""
    from expertchat.backends.base import EmbedRequest
    from expertchat.judging.wim import cosine

    vectors = [found.vector for found in embedder.embed([EmbedRequest("", text) for text in texts])]
    pairs = [cosine(one, other) for i, one in enumerate(vectors) for other in vectors[i + 1 :]]
    return [pair for pair in pairs if pair is not None]
