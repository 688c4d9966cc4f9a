"""A round of online DPO in the loop's way, against TRL's experimental OnlineDPOTrainer on the same prompts with the same reward."""

from __future__ import annotations

import os
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from expertchat.backends.base import GenerateRequest
from expertchat.bench.kit import Kit, Way, Work, fresh
from expertchat.bench.results import Column, Part
from expertchat.experts.base import History
from expertchat.experts.llama3 import Llama3
from expertchat.preferences.pairs import Choice, make_pairs
from expertchat.records import Candidate
from expertchat.talk.order import by_turns

if TYPE_CHECKING:
    from expertchat.training.learner import Learner

HISTORIES, CANDIDATES, STEPS = 32, 2, 2  # the trainer knows two candidates and no other number
RANK, ALPHA, RATE = 16, 32, 1e-4
MICRO = 4  # pairs at a time on a CPU, which gains nothing from more; the peer samples with its batch, and is fastest with all of it
OURS, PEER = "our round", "OnlineDPOTrainer"
TARGET = 0.7


def measure_online_dpo(kit: Kit) -> None:
    """Sample, reward, pair, update: seconds of a round."""
    count = min(HISTORIES, 2 * max(kit.settings.rows))
    part = kit.part(
        "online_dpo",
        f"One round of online DPO: {count} histories x {CANDIDATES} candidates of {kit.settings.tokens} tokens, LoRA, {STEPS} steps",
        columns=[Column(f"time x {PEER}", PEER, "cost", (OURS,))], counts={"sampling": "s sampling", "pairs": "pairs"},
    )  # fmt: skip
    part.notes += [
        f"{OURS}: all candidates at once through the engine, pairs, an update through TRL's DPOTrainer, which is built anew every round",
        f"{PEER}: trl.experimental, key/value cache on, no checkpointing; its own setup is not counted; reward: a hash of the text",
    ]
    histories = requests(kit, count)
    ways: dict[str, Way] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            ways[PEER] = peer(kit, histories, Path(folder))
        except ImportError as error:
            part.notes.append(f"nothing to compare with: this TRL has no experimental OnlineDPOTrainer ({str(error).splitlines()[0]})")
        ways[OURS] = ours(kit, histories, Path(folder))
        for name, way in ways.items():
            kit.tell(f"online_dpo: warming up {name}")
            way(-1)
        kit.rounds(part, f"N={count}", ways)
    tell_verdict(part, f"N={count}", TARGET)


def tell_verdict(part: Part, case: str, target: float) -> None:
    """Say whether our way takes at most `target` times as long as the peer."""
    ratios = part.ratios(case, OURS, part.columns[0])
    if ratios:
        met = "met" if median(ratios) <= target else "missed"
        part.facts.append(("median of the ratios", f"{median(ratios):.2f}, target {target:g}: {met}"))


def requests(kit: Kit, count: int) -> list[GenerateRequest]:
    """What is asked at every turn of dialogues that have been held: `count` histories of all lengths."""
    backend = kit.subject.engine(8)
    experts, found = kit.experts(backend), []
    for i in range(count):
        nth, turn = divmod(i, kit.settings.turns)
        transcript = kit.transcripts[nth % len(kit.transcripts)]
        turns = transcript.turns[: turn + 1]
        expert = experts[by_turns(tuple(experts), turns[0].speaker, len(turns))]
        found.append(expert.reply_request(f"h{i:04d}", History(transcript.topic, tuple(turns)), backend.count_tokens)[0])
    return found


def reward(text: str) -> float:
    """A number from 0 to 1 that says nothing about the text; equal only for equal texts, or by a chance of one in four billion."""
    return zlib.crc32(text.encode()) / 2**32


# -- our way ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """The candidates of a round with their rewards, and what it took to sample them."""

    choices: list[Choice]
    tokens: int
    seconds: float


def drawn(learner: Learner, histories: Sequence[GenerateRequest], number: int, count: int) -> Drawn:
    """`count` replies of the policy to each history, in a round."""
    wanted = [replace(request, key=f"r{number}/{request.key}/k{k}") for request in histories for k in range(count)]
    began, choices = time.perf_counter(), []
    done = learner.policy.generate(wanted)
    seconds = time.perf_counter() - began
    for i, request in enumerate(histories):
        replies = done[i * count : (i + 1) * count]
        candidates = tuple(
            Candidate(id=f"r{number}/h{i}/k{k}", transcript=f"h{i}", round=number, turn=1, index=k, speaker="a", text=reply.text,
                      tokens=reply.tokens, cut=reply.finish == "length", ids=list(reply.ids), ended=reply.ended,
                      policy_version=learner.version)
            for k, reply in enumerate(replies)
        )  # fmt: skip
        choices.append(Choice(request.messages, candidates, tuple(reward(c.text) for c in candidates), "hash", replies[0].prompt))
    return Drawn(choices, sum(reply.tokens for reply in done), seconds)


def ours(kit: Kit, histories: Sequence[GenerateRequest], folder: Path) -> Way:
    """The pieces of the loop: a learner's policy speaks, rewards become pairs, the updater trains on them."""
    from expertchat.backends.adapters import Adapters
    from expertchat.preferences.config import PairsConfig
    from expertchat.training.config import TrainConfig
    from expertchat.training.dpo import Dpo
    from expertchat.training.learner import LoraLearner
    from expertchat.training.method import Rows

    subject = replace(kit.subject, model=deepcopy(kit.subject.model))
    backend = subject.engine(CANDIDATES * len(histories))
    batch = len(histories) // STEPS
    micro = MICRO if subject.device_type() == "cpu" and batch % MICRO == 0 else batch
    train = TrainConfig.model_validate(TRAIN | {"batch": batch, "micro_batch": micro})
    targets = Llama3.family.lora_targets
    learner = LoraLearner("a", backend, train, targets, Adapters(subject.model), kit.subject.name, kit.settings.seed)
    updater = Dpo(learner, train, rounds=1000, seed=kit.settings.seed, folder=folder)
    pairing = PairsConfig(mode="best_worst", min_margin=0.0, length_ratio=1.0, max_lag=0, cut="no_end")

    def way(repeat: int) -> Work:
        number = repeat + 2
        fresh(learner.policy)
        with kit.clock() as watch:
            found = drawn(learner, histories, number, CANDIDATES)
            made = make_pairs(found.choices, pairing, learner.version)
            updated = updater.update(Rows(made.pairs), number)
        if updated.steps != STEPS:
            raise RuntimeError(f"{updated.steps} steps of {updated.rows} pairs where {STEPS} were wanted")
        return Work(watch.seconds, 1, found.tokens, {"sampling": found.seconds, "pairs": float(updated.rows)})

    return way


TRAIN: dict[str, Any] = {
    "method": "lora", "rank": RANK, "alpha": ALPHA, "dropout": 0.0, "loss": ["sigmoid"], "beta": 0.1, "label_smoothing": 0.0,
    "reference": "base", "epochs": 1, "learning_rate": RATE, "schedule": "constant", "warmup_rounds": 0, "weight_decay": 0.0,
    "max_grad_norm": 1.0, "checkpointing": False, "sharding": "pipeline",
}  # fmt: skip


# -- the peer -----------------------------------------------------------------------------------------------------------


def peer(kit: Kit, histories: Sequence[GenerateRequest], folder: Path) -> Way:
    """The trainer, for as many steps a round as ours takes, on as many prompts. Raises ImportError where TRL has it no more."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    return _trained(kit, histories, folder, OnlineDPOConfig, OnlineDPOTrainer)


def _trained(
    kit: Kit, histories: Sequence[GenerateRequest], folder: Path, settings: Callable[..., Any], trainer: Callable[..., Any]
) -> Way:
    from datasets import Dataset
    from peft import LoraConfig

    subject = replace(kit.subject, model=deepcopy(kit.subject.model))
    subject.attend(None)
    prompts = [[{"role": m.role, "content": m.content} for m in request.messages] for request in histories]
    tokens = kit.settings.tokens
    seen: list[int] = []  # tokens of the completions of a round

    def judge(completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], **more: Any) -> list[float]:
        seen.extend(len(ids) for ids in completion_ids)
        return [reward(completion[0]["content"]) for completion in completions]

    made = trainer(
        model=subject.model,
        reward_funcs=judge,
        args=settings(
            output_dir=str(folder), per_device_train_batch_size=len(histories) // STEPS, max_steps=STEPS, max_new_tokens=tokens,
            generation_kwargs={"min_new_tokens": tokens}, max_length=subject.context_length, temperature=0.9, learning_rate=RATE,
            lr_scheduler_type="constant", beta=[TRAIN["beta"]], gradient_checkpointing=False, bf16=False, fp16=False, logging_steps=1,
            save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=subject.device_type() == "cpu", seed=kit.settings.seed % 2**32,
            dataloader_pin_memory=False,
        ),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=deepcopy(subject.tokenizer),
        peft_config=LoraConfig(
            r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=list(Llama3.family.lora_targets), task_type="CAUSAL_LM"
        ),
    )  # fmt: skip
    clock = Clock()
    made.add_callback(clock.callback())
    with suppress(AttributeError):  # what it prints belongs to nobody
        made.remove_callback(next(type(c) for c in made.callback_handler.callbacks if type(c).__name__ == "PrinterCallback"))
    made._generate = clock.around(made._generate)

    def way(repeat: int) -> Work:
        seen.clear()
        clock.sampling = 0.0
        with kit.clock():
            made.train()
        return Work(clock.seconds, 1, sum(seen), {"sampling": clock.sampling, "pairs": len(seen) / CANDIDATES})

    return way


class Clock:
    """Seconds of a trainer's steps without its setup, and of what it samples."""

    def __init__(self) -> None:
        self.seconds = self.sampling = 0.0

    def around(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **more: Any) -> Any:
            began = time.perf_counter()
            found = work(*args, **more)
            self.sampling += time.perf_counter() - began
            return found

        return timed

    def callback(self) -> Any:
        from transformers import TrainerCallback

        clock = self

        class Tell(TrainerCallback):
            began = 0.0

            def on_train_begin(self, *args: Any, **more: Any) -> None:
                self.began = time.perf_counter()

            def on_train_end(self, *args: Any, **more: Any) -> None:
                clock.seconds = time.perf_counter() - self.began

        return Tell()
