"""A step of supervised fine-tuning in the loop's way, against TRL's SFTTrainer alone on the same rows."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from expertchat.bench.kit import Kit, Way, Work
from expertchat.bench.peer import ALPHA, RANK, RATE, Clock, requests
from expertchat.bench.results import Column
from expertchat.experts.llama3 import Llama3
from expertchat.records import Message

ROWS, STEPS = 32, 4  # of an epoch; the steps alone are timed
MICRO = 4  # rows at a time on a CPU, which gains nothing from more
OURS, PEER = "our steps", "SFTTrainer"
TARGET = 1.1
Rows = Sequence[Mapping[str, list[int]]]


def measure_sft(kit: Kit) -> None:
    """Seconds of an epoch's steps, without the trainers' own setup, which is told beside them."""
    part = kit.part(
        "sft", f"Supervised fine-tuning: {ROWS} rows (dialogues with a reply of {kit.settings.tokens} tokens), LoRA, {STEPS} steps",
        columns=[Column(f"time x {PEER}", PEER, "cost", (OURS,))], counts={"setup": "s setup an epoch", "trained": "trained tokens"},
    )  # fmt: skip
    part.notes += [
        f"{OURS}: the updater of `expertchat sft` (TRL's SFTTrainer on exact tokens, replies alone through the output layer, in fp32); it "
        "builds a trainer every epoch",
        f"{PEER}: TRL alone, as it comes, on the same tokens with the same mask, optimizer and batches; built once",
    ]
    rows = taught(kit)
    with tempfile.TemporaryDirectory() as folder:
        ways = {PEER: peer(kit, rows, Path(folder)), OURS: ours(kit, rows, Path(folder))}
        for name, way in ways.items():
            kit.tell(f"sft: warming up {name}")
            way(-1)
        kit.rounds(part, f"N={ROWS}", ways)
    if ratios := part.ratios(f"N={ROWS}", OURS, part.columns[0]):
        met = "met" if median(ratios) <= TARGET else "missed"
        part.facts.append(("median of the ratios", f"{median(ratios):.2f}, target {TARGET:g}: {met}"))


def taught(kit: Kit) -> Rows:
    """Rows out of dialogues that have been held: what stands before a turn, and the turn."""
    renderer, found = kit.subject.engine(8).renderer, []
    said = [turn.text for transcript in kit.transcripts for turn in transcript.turns]
    for i, request in enumerate(requests(kit, ROWS)):
        reply = Message("assistant", said[i % len(said)])
        found.append({"prompt_ids": renderer.answered(request.messages), "completion_ids": renderer.reply(request.messages, reply)})
    return found


def _micro(kit: Kit) -> int:
    return MICRO if kit.subject.device_type() == "cpu" else ROWS // STEPS


def ours(kit: Kit, rows: Rows, folder: Path) -> Way:
    """The updater of the command."""
    from expertchat.backends.adapters import Adapters
    from expertchat.training.learner import LoraLearner
    from expertchat.training.method import Rows as Given
    from expertchat.training.sft import Sft
    from expertchat.training.sft_config import SftTrain

    subject = replace(kit.subject, model=deepcopy(kit.subject.model))
    train = SftTrain.model_validate({
        "method": "lora", "rank": RANK, "alpha": ALPHA, "dropout": 0.0, "epochs": 1, "learning_rate": RATE, "schedule": "constant",
        "warmup_rounds": 0, "weight_decay": 0.0, "max_grad_norm": 1.0, "checkpointing": False, "sharding": "pipeline",
        "batch": ROWS // STEPS, "micro_batch": _micro(kit),
    })  # fmt: skip
    clock = Clock()

    class Timed(Sft):
        @contextmanager
        def trainer(self, model: Any, arguments: Mapping[str, Any], **more: Any) -> Iterator[Any]:
            with super().trainer(model, arguments, **more) as trainer:
                trainer.add_callback(clock.callback())
                yield trainer

    learner = LoraLearner("model", subject.engine(1), train, Llama3.family.lora_targets, Adapters(subject.model), kit.subject.name, 0)
    updater = Timed(learner, train, rounds=1000, seed=kit.settings.seed, folder=folder)

    def way(repeat: int) -> Work:
        with kit.clock() as watch:
            updated = updater.update(Given(shown=rows), repeat + 2)
        if updated.steps != STEPS:
            raise RuntimeError(f"{updated.steps} steps where {STEPS} were wanted")
        return _work(rows, clock, watch.seconds)

    return way


def peer(kit: Kit, rows: Rows, folder: Path) -> Way:
    """TRL's trainer as it comes."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from expertchat.training.sft import labelled

    subject = replace(kit.subject, model=deepcopy(kit.subject.model))
    subject.attend(None)
    micro = _micro(kit)
    settings = SFTConfig(
        output_dir=str(folder), per_device_train_batch_size=micro, gradient_accumulation_steps=ROWS // STEPS // micro, num_train_epochs=1,
        learning_rate=RATE, lr_scheduler_type="constant", max_length=None, gradient_checkpointing=False, bf16=False, fp16=False,
        logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=subject.device_type() == "cpu",
        seed=kit.settings.seed % 2**32, dataloader_pin_memory=False, dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=list(Llama3.family.lora_targets), task_type="CAUSAL_LM")
    made = SFTTrainer(
        model=subject.model, args=settings, train_dataset=Dataset.from_list([labelled(dict(row)) for row in rows]),
        processing_class=deepcopy(subject.tokenizer), peft_config=lora,
    )  # fmt: skip
    clock = Clock()
    made.add_callback(clock.callback())
    with suppress(StopIteration):  # what it prints belongs to nobody
        made.remove_callback(next(type(c) for c in made.callback_handler.callbacks if type(c).__name__ == "PrinterCallback"))

    def way(repeat: int) -> Work:
        with kit.clock() as watch:
            made.train()
        return _work(rows, clock, watch.seconds)

    return way


def _work(rows: Rows, clock: Clock, seconds: float) -> Work:
    """The steps' seconds, and beside them what the trainer took around them."""
    trained = sum(len(row["completion_ids"]) for row in rows)
    return Work(clock.seconds, STEPS, trained, {"setup": seconds - clock.seconds, "trained": float(trained)})
