"""`expertchat world build`: train the embedded models again, from the topics' facts and conf/prompts/world.yaml alone."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from expertchat.folder.jsonl import read_json
from expertchat.folder.writing import replace as replace_file
from expertchat.text.wordings import Prompts
from expertchat.world.config import WorldConfig
from expertchat.world.facts import load, sources
from expertchat.world.simulator import Simulator
from expertchat.world.train import SEATS, Course

MODELS = Path(str(files("expertchat.world").joinpath("models")))
# The courses: their names, shares of the tokens, highest rates, and the weight of the hints. The first is for both experts at once, the
# others each for its own. Strong hints make the reading of a judgement learnable; then their gradients are larger than those of all else,
# and little else is learnt, so they become faint.
COURSES = (
    ("first", 16 / 81, 1.0, 0.5),
    ("second", 16 / 81, 0.6, 0.5),
    ("third", 12 / 81, 0.6, 0.05),
    ("fourth", 8 / 81, 0.4, 0.05),
    ("fifth", 12 / 81, 0.5, 0.05),
    ("sixth", 10 / 81, 0.5, 0.05),
    ("", 7 / 81, 0.4, 0.05),
)
TEAM = 2  # processes of the first course
Report = Callable[[str], None]
NAMES = {"a": "llama", "b": "mixtral", "embedder": "embedder"}


def source_hash(prompts: Prompts) -> str:
    """What the models depend on: if it differs from the one in models/card.json, they no longer fit their prompts or facts."""
    return hashlib.sha256(("".join(sources()) + prompts.model_dump_json(exclude_defaults=True)).encode()).hexdigest()[:16]


def build(config: WorldConfig, report: Report) -> None:
    """Train what `config.experts` names and write a card with sizes and sources.

    In the first course one Llama learns both experts' parts, in two processes. From there each expert learns its own part, beside the
    other, in six more; the Mixtral begins as that Llama. The embedder comes when one of them has ended. What a build that was stopped
    has finished in the same place is not done again, and what it had begun goes on. `report` is told how far each has come; it must
    be picklable.
    """
    out = Path(config.out) if config.out else MODELS
    out.mkdir(parents=True, exist_ok=True)
    wanted, log, began = [NAMES[e] for e in config.experts], _Done(out / "build.json", config), time.monotonic()
    before = log.seconds
    with ProcessPoolExecutor(max_workers=TEAM) as pool, tempfile.TemporaryDirectory() as meeting:
        if set(wanted) & set(SEATS) and log.lacks("llama.first"):
            all_of_it = (config, report, "llama", out / "llama.first", _course(config, 0), f"{meeting}/first")
            team = [pool.submit(_train, *all_of_it, rank) for rank in range(TEAM)]
            [process.result() for process in team]
            log.add("llama.first", before + time.monotonic() - began)
        work: dict[Future[None], str] = {}
        for name in sorted(filter(log.lacks, wanted), key=list(NAMES.values()).index):
            own = pool.submit(_train_own, config, report, name, out) if name in SEATS else pool.submit(_train_embedder, config, out, report)
            work[own] = name
        for done in as_completed(work):
            done.result()
            log.add(work[done], before + time.monotonic() - began)
    write_card(config, out, round(before + time.monotonic() - began))
    log.end()


def _course(config: WorldConfig, number: int) -> Course:
    """A course of COURSES, for both seats and from nothing."""
    _, share, peak, hints = COURSES[number]
    compiled = shutil.which("c++") is not None
    return Course(round(config.million_tokens * share, 3), peak=peak, hints=hints, seed=config.seed, compiled=compiled)


class _Done:
    """What a build in a folder has finished, with its settings: another build's parts are not taken for this one's."""

    def __init__(self, file: Path, config: WorldConfig) -> None:
        self.file = file
        sources, courses = source_hash(config.prompts), [list(course) for course in COURSES]
        self.settings = {"seed": config.seed, "million_tokens": config.million_tokens, "sources": sources, "courses": courses}
        self.done: list[str] = []
        self.seconds = 0.0
        kept = read_json(file) or {}
        if kept.get("settings") == self.settings:
            self.done, self.seconds = kept["done"], kept["seconds"]
        else:
            self.clear()

    def lacks(self, name: str) -> bool:
        return name not in self.done

    def add(self, name: str, seconds: float) -> None:
        self.done.append(name)
        self.seconds = seconds
        replace_file(self.file, json.dumps({"settings": self.settings, "done": self.done, "seconds": round(seconds)}), sync=True)

    def clear(self) -> None:
        """Remove what stands between the courses."""
        for state in self.file.parent.glob("*.state"):
            state.unlink()
        for name in SEATS:
            for course, *_ in COURSES[:-1]:
                shutil.rmtree(self.file.with_name(f"{name}.{course}"), ignore_errors=True)

    def end(self) -> None:
        """All is done."""
        self.clear()
        self.file.unlink(missing_ok=True)


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
    replace_file(out / "card.json", json.dumps(card, indent=1) + "\n")


def _simulator(config: WorldConfig) -> Simulator:
    import torch

    torch.set_num_threads(config.threads)
    return Simulator(load(), config.prompts)


def _train(config: WorldConfig, report: Report, name: str, out: Path, course: Course, meeting: str = "", rank: int = 0) -> None:
    from expertchat.world.corpus import build_tokenizer
    from expertchat.world.team import join
    from expertchat.world.train import train_expert

    simulator = _simulator(config)
    tokenizer = build_tokenizer(simulator)  # the same one for both: it depends on the corpus alone
    team = join(rank, TEAM if meeting else 1, meeting)
    train_expert(simulator, tokenizer, name, out, course, report if team.leads else _silent, team)
    team.leave()


def _train_own(config: WorldConfig, report: Report, name: str, out: Path) -> None:
    """The courses of one expert after the first, from the last that is done."""
    init = out / "llama.first"
    for number, (course, *_) in enumerate(COURSES[1:], 1):
        folder = out / f"{name}.{course}".rstrip(".")
        if not folder.exists() or not course:
            _train(config, report, name, folder, replace(_course(config, number), seats=(SEATS[name],), init=init))
        init = folder


def _silent(line: str) -> None:
    """What the others of a team report."""


def _train_embedder(config: WorldConfig, out: Path, report: Report) -> None:
    from expertchat.world.embedder import train_embedder

    simulator = _simulator(config)
    train_embedder(simulator.world, simulator, out / "embedder", seed=config.seed, report=report)
