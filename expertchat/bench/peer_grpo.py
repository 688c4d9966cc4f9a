"""A round of GRPO in the loop's way, against TRL's GRPOTrainer on the same prompts, with as many samples and steps and the same reward."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from expertchat.backends.base import GenerateRequest
from expertchat.bench.kit import Kit, Way, Work, fresh
from expertchat.bench.peer import ALPHA, HISTORIES, OURS, RANK, RATE, TRAIN, Clock, drawn, requests, reward, tell_verdict
from expertchat.bench.results import Column
from expertchat.experts.llama3 import Llama3

CANDIDATES, STEPS = 4, 2
MICRO = 4  # histories at a time on a CPU; the peer has a step's replies all at once
PEER = "GRPOTrainer"
TARGET = 0.8
OF_GROUPS: dict[str, Any] = {
    **{name: value for name, value in TRAIN.items() if name not in ("loss", "label_smoothing", "reference")},
    "update": "grpo", "baseline": "group", "scale": "group", "epsilon": 0.2, "beta": 0.0, "normalise": "reply", "cut": "no_end",
}  # fmt: skip


def measure_grpo(kit: Kit) -> None:
    """Sample, reward, update: seconds of a round."""
    count = min(HISTORIES, 2 * max(kit.settings.rows))
    part = kit.part(
        "grpo",
        f"One round of GRPO: {count} histories x {CANDIDATES} candidates of {kit.settings.tokens} tokens, LoRA, {STEPS} steps",
        columns=[Column(f"time x {PEER}", PEER, "cost", (OURS,))], counts={"sampling": "s sampling", "replies": "replies"},
    )  # fmt: skip
    part.notes += [
        f"{OURS}: all candidates at once through the engine, groups, an update on rows of a prompt with all its replies",
        f"{PEER}: TRL's, key/value cache on, no checkpointing; its own setup is not counted; reward: a hash of the text",
        "both: two steps on one round's replies, so that the log probabilities before the first are computed too; beta 0, clipped by 0.2",
    ]
    histories = requests(kit, count)
    with tempfile.TemporaryDirectory() as folder:
        ways = {PEER: _peer(kit, histories, Path(folder)), OURS: _ours(kit, histories, Path(folder))}
        for name, way in ways.items():
            kit.tell(f"grpo: warming up {name}")
            way(-1)
        kit.rounds(part, f"N={count}", ways)
    tell_verdict(part, f"N={count}", TARGET)


def _ours(kit: Kit, histories: Sequence[GenerateRequest], folder: Path) -> Way:
    """The pieces of the loop: a learner's policy speaks, rewards become advantages, the updater trains on them."""
    from expertchat.backends.adapters import Adapters
    from expertchat.training.config import PolicyGradientTrain
    from expertchat.training.grpo import Grpo
    from expertchat.training.learner import LoraLearner
    from expertchat.training.method import Rows

    subject = replace(kit.subject, model=deepcopy(kit.subject.model))
    backend = subject.engine(CANDIDATES * len(histories))
    batch = len(histories) // STEPS
    micro = MICRO if subject.device_type() == "cpu" and batch % MICRO == 0 else batch
    train = PolicyGradientTrain.model_validate(OF_GROUPS | {"batch": batch, "micro_batch": micro})
    learner = LoraLearner(
        "a", backend, train, Llama3.family.lora_targets, Adapters(subject.model), kit.subject.name, kit.settings.seed
    )  # fmt: skip
    updater = Grpo(learner, train, rounds=1000, seed=kit.settings.seed, folder=folder)

    def way(repeat: int) -> Work:
        number = repeat + 2
        fresh(learner.policy)
        with kit.clock() as watch:
            found = drawn(learner, histories, number, CANDIDATES)
            updated = updater.update(Rows([], found.choices), number)
        if updated.steps != STEPS:
            raise RuntimeError(f"{updated.steps} steps of {updated.rows} histories where {STEPS} were wanted")
        return Work(watch.seconds, 1, found.tokens, {"sampling": found.seconds, "replies": float(updated.rows * CANDIDATES)})

    return way


def _peer(kit: Kit, histories: Sequence[GenerateRequest], folder: Path) -> Way:
    """The trainer, for as many steps a round as ours takes, on as many prompts."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import GRPOConfig, GRPOTrainer

    subject = replace(kit.subject, model=deepcopy(kit.subject.model))
    subject.attend(None)
    prompts = [[{"role": m.role, "content": m.content} for m in request.messages] for request in histories]
    tokens = kit.settings.tokens
    seen: list[int] = []  # tokens of the completions of a round

    def judge(completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], **more: Any) -> list[float]:
        seen.extend(len(ids) for ids in completion_ids)
        return [reward(completion[0]["content"]) for completion in completions]

    build: Any = GRPOTrainer  # what stands in it is replaced below
    made = build(
        model=subject.model,
        reward_funcs=judge,
        args=GRPOConfig(
            output_dir=str(folder), per_device_train_batch_size=len(histories) * CANDIDATES // STEPS, steps_per_generation=STEPS,
            gradient_accumulation_steps=1, max_steps=STEPS, num_generations=CANDIDATES, max_completion_length=tokens,
            generation_kwargs={"min_new_tokens": tokens}, temperature=0.9, learning_rate=RATE, lr_scheduler_type="constant", beta=0.0,
            loss_type="grpo", gradient_checkpointing=False, bf16=False, fp16=False, logging_steps=1, save_strategy="no", report_to="none",
            disable_tqdm=True, use_cpu=subject.device_type() == "cpu", seed=kit.settings.seed % 2**32, dataloader_pin_memory=False,
        ),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=deepcopy(subject.tokenizer),
        peft_config=LoraConfig(
            r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=list(Llama3.family.lora_targets), task_type="CAUSAL_LM"
        ),
    )  # fmt: skip
    clock = Clock()
    made.add_callback(clock.callback())
    with suppress(StopIteration):  # what it prints belongs to nobody
        made.remove_callback(next(type(c) for c in made.callback_handler.callbacks if type(c).__name__ == "PrinterCallback"))
    made._generate = clock.around(made._generate)

    def way(repeat: int) -> Work:
        seen.clear()
        clock.sampling = 0.0
        with kit.clock():
            made.train()
        return Work(clock.seconds, 1, sum(seen), {"sampling": clock.sampling, "replies": float(len(seen))})

    return way
