"""`expertchat world build`: train the embedded models again, from the topics' facts and conf/prompts/world.yaml alone."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from expertchat.folder.jsonl import read_json
from expertchat.folder.writing import replace as replace_file
from expertchat.text.wordings import Prompts
from expertchat.world.config import WorldConfig
from expertchat.world.facts import load, sources
from expertchat.world.simulator import Simulator
from expertchat.world.train import SEATS, Course

MODELS = Path(str(files("expertchat.world").joinpath("models")))


class Lesson(NamedTuple):
    """A course of the recipe: its share of the tokens, the highest rate, the weight of the hints, and whether the rate falls in it."""

    name: str
    share: float
    peak: float
    hints: float
    falls: bool = False


# Those for both experts at once, then those that each has for its own. Strong hints make the reading of a judgement learnable; then their
# gradients are larger than those of all else, and little else is learnt, so they become faint. What is learnt together costs least. The
# rate falls once, in the last: after each fall the next course would first undo it, for some 5 million tokens.
TOGETHER = (Lesson("first", 16 / 72, 1.0, 0.5), Lesson("second", 20 / 72, 0.7, 0.05))
OWN = Lesson("", 36 / 72, 0.6, 0.05, falls=True)
TEAM = 2  # processes of a course for both
Report = Callable[[str], None]
NAMES = {"a": "llama", "b": "mixtral", "embedder": "embedder"}


def source_hash(prompts: Prompts) -> str:
    """What the models depend on: if it differs from the one in models/card.json, they no longer fit their prompts or facts."""
    return hashlib.sha256(("".join(sources()) + prompts.model_dump_json(exclude_defaults=True)).encode()).hexdigest()[:16]


def build(config: WorldConfig, report: Report) -> None:
    """Train what `config.experts` names and write a card with sizes and sources.

    In the first courses one Llama learns both experts' parts, in two processes. From there each expert learns its own part, beside the
    other; the Mixtral begins as that Llama. The embedder comes when one of them has ended. What a build that was stopped has finished
    in the same place is not done again, and what it had begun goes on. `report` is told how far each has come; it must be picklable.
    """
    out = Path(config.out) if config.out else MODELS
    out.mkdir(parents=True, exist_ok=True)
    wanted, log, began = [NAMES[e] for e in config.experts], _Done(out / "build.json", config), time.monotonic()
    before = log.seconds
    with ProcessPoolExecutor(max_workers=TEAM) as pool, tempfile.TemporaryDirectory() as meeting:
        for lesson, init in zip(TOGETHER, (None, *TOGETHER), strict=False):
            name = _together(lesson)
            if set(wanted) & set(SEATS) and log.lacks(name):
                course = _course(config, lesson, init=out / _together(init) if init else None)
                team = [pool.submit(_train, config, report, "llama", out / name, course, f"{meeting}/{name}", n) for n in range(TEAM)]
                [process.result() for process in team]
                log.add(name, before + time.monotonic() - began)
        work: dict[Future[None], str] = {}
        for name in sorted(filter(log.lacks, wanted), key=list(NAMES.values()).index):
            if name in SEATS:
                course = _course(config, OWN, seats=(SEATS[name],), init=out / _together(TOGETHER[-1]))
                own = pool.submit(_train, config, report, name, out / name, course)
            else:
                own = pool.submit(_train_embedder, config, out, report)
            work[own] = name
        for done in as_completed(work):
            done.result()
            log.add(work[done], before + time.monotonic() - began)
    write_card(config, out, round(before + time.monotonic() - began))
    log.end()


def _together(lesson: Lesson) -> str:
    """The folder of a course for both experts."""
    return f"llama.{lesson.name}"


def _course(config: WorldConfig, lesson: Lesson, **own: Any) -> Course:
    compiled = shutil.which("c++") is not None
    tokens = round(config.million_tokens * lesson.share, 3)
    return Course(tokens, peak=lesson.peak, falls=lesson.falls, hints=lesson.hints, seed=config.seed, compiled=compiled, **own)


class _Done:
    """What a build in a folder has finished, with its settings: another build's parts are not taken for this one's."""

    def __init__(self, file: Path, config: WorldConfig) -> None:
        self.file = file
        sources, courses = source_hash(config.prompts), [list(lesson) for lesson in (*TOGETHER, OWN)]
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
        for lesson in TOGETHER:
            shutil.rmtree(self.file.with_name(_together(lesson)), ignore_errors=True)

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


def _silent(line: str) -> None:
    """What the others of a team report."""


def _train_embedder(config: WorldConfig, out: Path, report: Report) -> None:
    from expertchat.world.embedder import train_embedder

    simulator = _simulator(config)
    train_embedder(simulator.world, simulator, out / "embedder", seed=config.seed, report=report)
