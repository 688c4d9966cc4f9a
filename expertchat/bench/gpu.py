"""On a GPU: tokens a second, and how near that is to what the memory's bandwidth allows."""

from __future__ import annotations

import logging
from typing import Any

from expertchat.bench.ceilings import copy_bandwidth, step_bytes
from expertchat.bench.decoded import replies
from expertchat.bench.kit import Kit, Way, Work
from expertchat.bench.results import Column, Part

PLAIN, CONTINUOUS, ENGINE = "generate", "generate_batch", "engine"
MEMORY_SHARE = 0.3  # of the free memory for the pages of generate_batch, so that the others have room too


def measure_gpu(kit: Kit) -> None:
    """One reply of each of N conversations, in all ways; only where the model lies on a GPU."""
    import torch

    part = kit.part(
        "gpu", f"On the GPU: {kit.settings.tokens} new tokens of each of N rows",
        columns=[Column("x generate", PLAIN), Column("x generate_batch", CONTINUOUS, ways=(ENGINE,))], counts={"limit": "of bandwidth"},
    )  # fmt: skip
    if kit.subject.device_type() != "cuda":
        why = "torch finds none" if not torch.cuda.is_available() else "the model does not run on it (bench.device)"
        part.notes.append(f"no GPU here: {why}")
        return
    measure_rows(kit, part)


def measure_rows(kit: Kit, part: Part) -> None:
    """Fill the part, on whatever device the model is."""
    speed = copy_bandwidth(kit.subject)
    part.facts.append(("measured copy bandwidth", f"{speed / 1e9:,.0f} GB/s"))
    part.numbers["copy_bytes_a_second"] = speed
    part.notes.append(
        "of bandwidth: the time that reading the weights and the caches once a step takes at the measured bandwidth, over the time taken "
        "(prefill included); generate_batch: transformers' continuous batching"
    )
    for rows in kit.settings.rows:
        backend, plain = kit.subject.engine(rows), kit.subject.plain(rows)
        requests = kit.requests(backend, rows, "g")
        lengths = [backend.count_tokens(request.messages) for request in requests]
        context = sum(lengths) / rows + kit.settings.tokens / 2
        floor = step_bytes(kit.subject, rows, context) / speed * kit.settings.tokens
        prompts = [backend.renderer.encode(request.messages) for request in requests]
        ways = {
            PLAIN: _against(replies(kit, plain, requests), floor),
            CONTINUOUS: _against(continuous(kit, prompts), floor),
            ENGINE: _against(replies(kit, backend, requests), floor),
        }
        for name, way in list(ways.items()):  # compiled and captured steps pay once
            kit.tell(f"gpu, N={rows}: warming up {name}")
            try:
                way(-1)
            except (RuntimeError, ValueError, TypeError, AttributeError, ImportError) as error:
                if name != CONTINUOUS:
                    raise
                del ways[name]
                part.notes.append(f"N={rows}: {name} left out, it fails here ({type(error).__name__}: {str(error).splitlines()[0][:100]})")
        try:
            kit.rounds(part, f"N={rows}", ways)
        finally:
            kit.subject.model.destroy_cached_continuous_batching_manager()


def _against(way: Way, floor: float) -> Way:
    """The way with the share of the bandwidth limit: `floor` seconds are the least possible."""

    def measured(repeat: int) -> Work:
        work = way(repeat)
        return work._replace(counts={**work.counts, "limit": floor / work.seconds})

    return measured


def continuous(kit: Kit, prompts: list[list[int]]) -> Way:
    """transformers' continuous batching over a paged cache, all prompts handed over at once; its manager stays for the next repeat."""
    model, tokens = kit.subject.model, kit.settings.tokens

    def way(repeat: int) -> Work:
        from transformers import ContinuousBatchingConfig, GenerationConfig

        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)  # it warns that the manager stays, which is wanted
        settings = GenerationConfig(
            max_new_tokens=tokens, do_sample=True, temperature=0.9, top_k=0, top_p=1.0, eos_token_id=-1,
            pad_token_id=kit.subject.tokenizer.pad_token_id,
        )  # fmt: skip
        pages = ContinuousBatchingConfig(max_memory_percent=MEMORY_SHARE, allow_block_sharing=False)
        kit.subject.attend(None)
        with kit.clock() as watch:
            done: dict[str, Any] = model.generate_batch(
                inputs=prompts, generation_config=settings, continuous_batching_config=pages, persistent_manager=True
            )
        if len(done) < len(prompts):
            raise RuntimeError(f"{len(done)} of {len(prompts)} replies came")
        return Work(watch.seconds, len(prompts), sum(len(result.generated_tokens) for result in done.values()))

    return way
