"""`expertchat plan measure=true`: the planned shapes with random weights, a reply, a judgement and a training step, on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from expertchat.config import ConfigError
from expertchat.plan.config import PlanConfig
from expertchat.plan.job import Job, Model, Training, machine_gpus, units
from expertchat.plan.memory import GIB, Adapter, Lora, adapter, weights
from expertchat.plan.placement import Load
from expertchat.plan.planner import choose_bits, make_plan, plan_job

TOKENIZER = "embedded:llama"  # speaks for every random model
NEW = 16  # tokens of a reply
CPU_PASS = 4096  # tokens of one prefill pass on a CPU at most, as the engine does it
Row = dict[str, Any]
Places = Mapping[str, int | str]
Say = Callable[[str], None]


@dataclass
class Rehearsal:
    """A model in its place, and the rows of the table that it gives."""

    model: Model
    job: Job
    places: Places
    built: Any
    rows: list[Row]
    notes: list[str]

    def row(self, part: str, planned: int, measured: int) -> None:
        self.rows.append({"model": f"{self.model.owner} {self.model.name}", "part": part, "planned": planned, "measured": measured})

    def together(self, name: str, parts: Sequence[str]) -> None:
        """The sum of some rows, where all of them are there."""
        rows = [row for row in self.rows if row["part"] in parts]
        if len(rows) == len(parts):
            self.row(name, sum(row["planned"] for row in rows), sum(row["measured"] for row in rows))


def measure(config: PlanConfig) -> tuple[list[Row], list[str]]:
    """(rows of planned and measured bytes, notes). Raises ConfigError where the shapes do not fit on this machine."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    from expertchat.backends.folders import find_folder
    from expertchat.backends.measuring import model_bytes
    from expertchat.plan.rehearsal import random_model

    logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(find_folder(TOKENIZER), trust_remote_code=False, local_files_only=True)
    job, places, notes = _where(config)
    small = [m for m in job.models if m.shape.vocab < len(tokenizer)]
    if small:
        known, vocab = len(tokenizer), small[0].shape.vocab
        raise ConfigError(f"{small[0].name}: measure=true speaks with a tokenizer of {known} words, but this shape has {vocab}")
    rehearsals = []
    for model in job.models:  # all stand in memory at once, as in a run
        built = random_model(model.shape, model.dtype, model.quantization, places[model.owner])
        rehearsal = Rehearsal(model, job, places[model.owner], built, [], [])
        rehearsal.row("weights", weights(model.shape, model.dtype, model.quantization).total, model_bytes(built))
        rehearsals.append(rehearsal)
    words = _words(tokenizer)
    for rehearsal in rehearsals:
        _talk(rehearsal, tokenizer, words)
        _train(rehearsal, config)
        rehearsal.together("all, while talking", ("weights", "KV cache", "reply and judgement"))
        rehearsal.together("all, while training", ("weights", "LoRA", "gradients", "optimizer", "training step"))
    return [row for r in rehearsals for row in r.rows], [*notes, *(note for r in rehearsals for note in r.notes)]


def _where(config: PlanConfig) -> tuple[Job, dict[str, Places], list[str]]:
    """The job on this machine, where its models go, and what is to be said of that."""
    gpus, job = machine_gpus(), plan_job(config)
    automatic = [seat for seat, m in config.experts.items() if m.quantization == "auto"]
    if gpus:
        plan = make_plan(choose_bits(job, gpus, automatic), gpus)
        if not plan.fits:
            raise ConfigError(plan.problems())
        places: dict[str, Places] = {m.owner: dict(plan.device_map(m.owner)) or {"": "cpu"} for m in plan.job.models}
        return plan.job, places, [f"measured on {', '.join(sorted({gpu.name for gpu in gpus}))}"]
    from expertchat.backends.hardware import free_memory

    job = replace(job, pass_tokens=CPU_PASS, pass_seen=job.conversations * job.tokens)
    need, free = sum(_sum(units(model, job)).need for model in job.models), free_memory("cpu")
    if need > 0.8 * free:
        smaller = " ".join(f"experts.{seat}.path=random:llama:28M" for seat in config.experts.seats)
        raise ConfigError(
            f"measure=true: this machine has no GPU, and the shapes take {need / GIB:.1f} GiB of its {free / GIB:.1f} GiB of free memory; "
            f"name smaller ones, e.g. {smaller}"
        )
    nowhere: Places = {"": "cpu"}
    return job, {model.owner: nowhere for model in job.models}, ["measured on the CPU by counting the bytes of tensors: no GPU is here"]


def _sum(parts: Sequence[Any]) -> Load:
    load = Load()
    for unit in parts:
        load.add(unit)
    return load


def _loads(rehearsal: Rehearsal, job: Job) -> list[Load]:
    """What the plan puts on each device of the model."""
    devices: dict[Any, Load] = {}
    for unit in units(rehearsal.model, job):
        place = rehearsal.places.get(unit.module, next(iter(rehearsal.places.values())))
        devices.setdefault(place, Load()).add(unit)
    return list(devices.values())


def _words(tokenizer: Any) -> list[str]:
    """Words that are one token each."""
    from expertchat.plan.random_words import word_ids

    return [str(tokenizer.decode([i])) for i in word_ids(tokenizer)[1]]


def _talk(rehearsal: Rehearsal, tokenizer: Any, words: Sequence[str]) -> None:
    from expertchat.backends.rehearsal import talk

    job, model = rehearsal.job, rehearsal.model
    tokens = min(job.tokens, model.shape.context or job.tokens)
    new = min(NEW, tokens // 4)
    loads = _loads(rehearsal, job)
    done = talk(rehearsal.built, tokenizer, words, job.conversations, tokens, model.candidates, new)
    states = sum(u.cache for load in loads for u in load.units if u.module == "model.embed_tokens")
    keys = sum(u.cache for load in loads for u in load.units if u.module != "model.embed_tokens")
    rehearsal.row("KV cache", keys, done.cache)
    rehearsal.row("reply and judgement", sum(load.talk_moment for load in loads) + states, done.moment)
    speed = f"{done.tokens / done.reply_seconds:.1f} new tokens/s with a prefill of {tokens} tokens each"
    rehearsal.notes.append(
        f"{model.owner}: replies of {job.conversations} conversations {done.reply_seconds:.2f} s ({speed}), "
        f"six ratings of each {done.judge_seconds:.2f} s"
    )


def _train(rehearsal: Rehearsal, config: PlanConfig) -> None:
    """A step of the model that trains; of each model where the config names none."""
    from expertchat.plan.rehearsal import train

    model, wanted = rehearsal.model, config.train
    training = rehearsal.job.training
    if training is not None and training.owner != model.owner:
        return
    if training is None:
        lora = Lora(wanted.rank, wanted.targets)
        training = Training(model.owner, lora, wanted.pairs, wanted.tokens, wanted.checkpointing, wanted.head_chunk)
    job = replace(rehearsal.job, training=training)
    loads, planned = _loads(rehearsal, job), adapter(model.shape, training.lora)
    done = train(rehearsal.built, model.shape, training.lora, training.step)
    found = Adapter(done.weights, done.gradients, done.optimizer)
    for part, want, got in zip(("LoRA", "gradients", "optimizer"), planned, found, strict=True):
        rehearsal.row(part, want, got)
    rehearsal.row("training step", sum(load.saved + load.train_moment for load in loads), done.moment)
    texts = f"{training.step.rows} texts of {training.tokens} tokens"
    rehearsal.notes.append(f"{model.owner}: a DPO step on {texts} {done.seconds:.2f} s")
