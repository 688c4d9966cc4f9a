"""`expertchat world build`: train the embedded models again, from the topics' facts and conf/prompts/world.yaml alone."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.resources import files
from pathlib import Path

from expertchat.text.wordings import Prompts
from expertchat.world.config import WorldConfig
from expertchat.world.facts import load, sources
from expertchat.world.simulator import Simulator

MODELS = Path(str(files("expertchat.world").joinpath("models")))
FIRST_SHARE, SECOND_PEAK = 0.54, 0.6  # the share of the tokens that the Llama learns alone on, and the rate after that
Report = Callable[[str], None]
NAMES = {"a": "llama", "b": "mixtral", "embedder": "embedder"}


def source_hash(prompts: Prompts) -> str:
    """What the models depend on: if it differs from the one in models/card.json, they no longer fit their prompts or facts."""
    return hashlib.sha256(("".join(sources()) + prompts.model_dump_json(exclude_defaults=True)).encode()).hexdigest()[:16]


def build(config: WorldConfig, report: Report) -> None:
    """Train what `config.experts` names and write a card with sizes and sources.

    The Llama learns first, on FIRST_SHARE of the tokens, beside the embedder; then it goes on while the Mixtral, which begins as that
    Llama, learns the other expert's part. `report` is told how far each has come; it must be picklable.
    """
    out = Path(config.out) if config.out else MODELS
    out.mkdir(parents=True, exist_ok=True)
    wanted, first = {NAMES[e] for e in config.experts}, out / "llama.first"
    began, before = time.monotonic(), config.million_tokens * FIRST_SHARE
    with ProcessPoolExecutor(max_workers=2) as pool:
        work = []
        if "embedder" in wanted:
            work.append(pool.submit(_train_embedder, config, out, report))
        if wanted & {"llama", "mixtral"}:
            pool.submit(_train, config, report, "llama", first, before, None, 1.0).result()
        if "llama" in wanted:
            work.append(pool.submit(_train, config, report, "llama", out / "llama", config.million_tokens - before, first, SECOND_PEAK))
        if "mixtral" in wanted:
            work.append(pool.submit(_train, config, report, "mixtral", out / "mixtral", config.million_tokens - before, first, SECOND_PEAK))
        for done in work:
            done.result()
    shutil.rmtree(first, ignore_errors=True)
    write_card(config, out, round(time.monotonic() - began))


def write_card(config: WorldConfig, out: Path, seconds: int) -> None:
    """models/card.json: what the weights were made from."""
    from expertchat.folder.embedded import models_id
    from expertchat.folder.provenance import commit

    sizes = {p.parent.name: p.stat().st_size for p in sorted(out.glob("*/model.safetensors")) if p.parent.name in NAMES.values()}
    card = {
        "sources": source_hash(config.prompts),
        "seed": config.seed,
        "million_tokens": config.million_tokens,
        "commit": commit(),
        "seconds": seconds,
        "bytes": sizes,
        "weights": models_id(out),
    }
    (out / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def _simulator(config: WorldConfig) -> Simulator:
    import torch

    torch.set_num_threads(config.threads)
    return Simulator(load(), config.prompts)


def _train(
    config: WorldConfig, report: Report, name: str, out: Path, million_tokens: float, init: Path | None, peak: float
) -> None:
    from expertchat.world.corpus import build_tokenizer
    from expertchat.world.train import train_expert

    simulator = _simulator(config)
    tokenizer = build_tokenizer(simulator)  # the same one for both: it depends on the corpus alone
    train_expert(simulator, tokenizer, name, out, million_tokens, seed=config.seed, report=report, init=init, peak=peak)


def _train_embedder(config: WorldConfig, out: Path, report: Report) -> None:
    from expertchat.world.embedder import train_embedder

    simulator = _simulator(config)
    train_embedder(simulator.world, simulator, out / "embedder", seed=config.seed, report=report)
