"""`expertchat world build`: train the embedded models again, from facts.txt and conf/prompts/world.yaml alone."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.resources import files
from pathlib import Path

from expertchat.config import WorldConfig
from expertchat.experts.prompts import Prompts
from expertchat.world.facts import World, load
from expertchat.world.simulator import Simulator

MODELS = Path(str(files("expertchat.world").joinpath("models")))
NAMES = {"a": "llama", "b": "mixtral", "embedder": "embedder"}


def source_hash(prompts: Prompts) -> str:
    """What the models depend on: if it differs from the one in models/card.json, they no longer fit their prompts or facts."""
    text = files("expertchat.world").joinpath("facts.txt").read_text(encoding="utf-8")
    return hashlib.sha256((text + prompts.model_dump_json()).encode()).hexdigest()[:16]


def build(config: WorldConfig) -> int:
    """Train what `config.experts` names, one process each, and write a card with sizes and sources."""
    out = Path(config.out) if config.out else MODELS
    out.mkdir(parents=True, exist_ok=True)
    simulator = Simulator(load(), config.prompts)
    if {"a", "b"} & set(config.experts):
        from expertchat.world.corpus import build_tokenizer

        print("tokenizer: training on the corpus", flush=True)
        build_tokenizer(simulator).save_pretrained(out / "tokenizer")
    with ProcessPoolExecutor(max_workers=min(2, len(config.experts))) as pool:
        for name in pool.map(partial(_train, config, out), [NAMES[e] for e in config.experts]):
            print(f"{name}: done, in {out / name}", flush=True)
    sizes = {p.parent.name: p.stat().st_size for p in sorted(out.glob("*/model.safetensors"))}
    card = {"sources": source_hash(config.prompts), "million_tokens": config.million_tokens, "seed": config.seed, "bytes": sizes}
    (out / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return 0


def _train(config: WorldConfig, out: Path, name: str) -> str:
    import torch
    from transformers import PreTrainedTokenizerFast

    torch.set_num_threads(config.threads)
    world: World = load()
    simulator = Simulator(world, config.prompts)
    report = partial(print, flush=True)
    if name == "embedder":
        from expertchat.world.embedder import train_embedder

        train_embedder(world, simulator, out / name, seed=config.seed, report=report)
    else:
        from expertchat.world.train import train_expert

        tokenizer = PreTrainedTokenizerFast.from_pretrained(out / "tokenizer")
        train_expert(simulator, tokenizer, name, out / name, config.million_tokens, seed=config.seed, report=report)
    return name
