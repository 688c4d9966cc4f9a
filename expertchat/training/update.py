"""One DPO update (Rafailov et al. 2023, arXiv 2305.18290) of a learner on a round's pairs, through TRL's DPOTrainer.

A trainer is built for each round (it is cheap); the optimizer and the scheduler live as long as the run. TRL is kept to what is
ours: the reference that the config names, adapters in their own precision, a forward that is as it was when the update is over.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL would ask the hub who uses it

import torch
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer
from trl.trainer import utils as trl_utils

from expertchat.backends.scoring import common_prefix
from expertchat.records import Figure, Message, PreferencePair
from expertchat.training.config import TrainConfig
from expertchat.training.learner import Learner, LoraLearner
from expertchat.training.ranks import Ranks
from expertchat.training.sharding import Share, SharedUpdate, split

disable_progress_bar()
MEANS = {  # a round's figure -> what TRL calls it
    "loss": "loss",
    "grad_norm": "grad_norm",
    "entropy": "entropy",
    "accuracy": "rewards/accuracies",
    "implicit_margin": "rewards/margins",
    "reward_chosen": "rewards/chosen",
    "reward_rejected": "rewards/rejected",
}


@dataclass
class Updated:
    """What an update was: figures averaged over its steps, in the names of a round's metrics."""

    steps: int = 0
    pairs: int = 0
    too_long: int = 0
    surplus: int = 0  # pairs given up because the last batch did not divide by the processes
    figures: dict[str, float] = field(default_factory=dict)

    def all_figures(self) -> dict[str, Figure]:
        return {"steps": self.steps, "too_long": self.too_long, "surplus": self.surplus, **self.figures}


class Stopped(Exception):
    """A signal came during the update: nothing of it counts."""


class Updater:
    """Updates one learner, round by round. The learning rate is scheduled over `rounds` updates, whatever number of steps each has.

    `on_step(round, step, steps, loss)` hears of every step; `stop` is asked after each of a step's batches and raises Stopped.
    """

    def __init__(
        self,
        learner: Learner,
        config: TrainConfig,
        *,
        rounds: int,
        seed: int,
        folder: Path,
        on_step: Callable[[int, int, int, float], None] = lambda round, step, steps, loss: None,
        stop: Callable[[], bool] = lambda: False,
        ranks: Ranks | None = None,
    ) -> None:
        self.learner, self.config, self.seed, self.folder = learner, config, seed, folder
        self.on_step, self.stop, self.ranks = on_step, stop, ranks or Ranks.alone()
        split(0, config.batch, config.micro_batch, self.ranks)  # refuses now what cannot be parted, not after a round of talking
        self.scale = 1.0  # of the learning rate; a guard may lower it
        learner.model()
        weights = list(learner.parameters().values())
        self.optimizer = AdamW(weights, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.95))
        self._nth, self._first, self._steps = 0, 0, 1  # updates before this one; the scheduler's step at its beginning; its own steps
        self.scheduler = LambdaLR(self.optimizer, lambda step: self._rate(step, rounds))

    def update(self, pairs: Sequence[PreferencePair], round: int) -> Updated:
        """Train on a round's pairs; without any, nothing changes. Raises Stopped."""
        order = list(pairs)
        random.Random(f"{self.seed} update {round}").shuffle(order)
        done = Updated()
        with self.learner.training() as model:
            rows = self._alike([row for pair in order if (row := self._row(pair)) is not None])
            share = split(len(rows), self.config.batch, self.config.micro_batch, self.ranks)
            done.too_long, done.pairs, done.surplus = len(order) - len(rows), len(rows) - share.surplus, share.surplus
            if not share.batches:
                return done
            self._schedule(share)
            with _built(model, self.learner, self.config.reference) as build:
                trainer = build(
                    args=self._arguments(share),
                    train_dataset=Dataset.from_list(rows),
                    optimizers=(self.optimizer, self.scheduler),
                    callbacks=[self._callback(round)],
                    ranks=self.ranks,
                    share=share,
                )
                trainer.train()
        logs = [line for line in trainer.state.log_history if "loss" in line]
        done.steps = trainer.state.global_step
        means = self.ranks.mean({name: fmean(float(line[key]) for line in logs) for name, key in MEANS.items()})
        kl = (means.pop("reward_chosen") + means.pop("reward_rejected")) / 2 / self.config.beta
        done.figures = {**means, "kl": kl, "learning_rate": logs[-1]["learning_rate"]}
        self.learner.version += 1
        return done

    def _row(self, pair: PreferencePair) -> dict[str, Any] | None:
        """A pair as token ids; None where it is too long."""
        renderer = self.learner.backend.renderer
        prompt, *replies = ([Message(m["role"], m["content"]) for m in part] for part in (pair.prompt, pair.chosen, pair.rejected))  # type: ignore[arg-type]
        ids = renderer.encode(prompt)
        whole = [renderer.finished([*prompt, *reply]) for reply in replies]
        shared = min(common_prefix([ids, one]) for one in whole)  # a template may render the end of a prompt alone differently
        if self.config.max_tokens is not None and max(map(len, whole)) > self.config.max_tokens:
            return None
        return {"prompt_ids": ids[:shared], "chosen_ids": whole[0][shared:], "rejected_ids": whole[1][shared:]}

    def _alike(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows of each step sorted by length, so that those that are computed together have little padding."""
        size = self.config.batch
        steps = [rows[start : start + size] for start in range(0, len(rows), size)]
        return [row for step in steps for row in sorted(step, key=_length)]

    def _arguments(self, share: Share) -> DPOConfig:
        config = self.config
        arguments = DPOConfig(
            output_dir=str(self.folder),
            per_device_train_batch_size=config.micro_batch,
            gradient_accumulation_steps=share.accumulation,
            num_train_epochs=config.epochs,
            max_grad_norm=config.max_grad_norm,
            loss_type=list(config.loss),
            loss_weights=config.loss_weights,
            beta=config.beta,
            label_smoothing=config.label_smoothing,
            gradient_checkpointing=config.checkpointing,
            learning_rate=config.learning_rate,
            max_length=None,
            bf16=False,  # the model has the precision that it was loaded in
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=self.learner.backend.device == "cpu",
            seed=self.seed % 2**32,
            dataloader_pin_memory=False,
        )
        if arguments.device.type == "cuda":
            arguments._n_gpu = 1  # one process trains one model, however many GPUs it sees: else Trainer makes a copy for each
        return arguments

    def _callback(self, round: int) -> TrainerCallback:
        updater = self

        class Tell(TrainerCallback):
            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
                if logs and "loss" in logs:
                    loss = updater.ranks.mean({"loss": float(logs["loss"])})["loss"]
                    updater.on_step(round, state.global_step, state.max_steps, loss)

            def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
                if updater.stop():
                    raise Stopped

            on_substep_end = on_step_end  # a step of many small batches may take minutes

        return Tell()

    # -- the learning rate ------------------------------------------------------------------------------------------

    def _schedule(self, share: Share) -> None:
        """A new update begins: its steps share its part of the schedule."""
        self._nth, self._first = self.learner.version, self.scheduler.last_epoch
        self._steps = self.config.epochs * math.ceil(len(share.batches) / share.accumulation)
        self._apply()

    def _rate(self, step: int, rounds: int) -> float:
        begin = self._nth + (step - self._first) / self._steps
        return self.scale * rate(begin, begin + 1 / self._steps, rounds, self.config.warmup_rounds, self.config.schedule)

    def _apply(self) -> None:
        """Give the optimizer the rate of the step that comes next."""
        for group, base in zip(self.optimizer.param_groups, self.scheduler.base_lrs, strict=True):
            group["lr"] = base * self.scheduler.lr_lambdas[0](self.scheduler.last_epoch)
        self.scheduler._last_lr = [group["lr"] for group in self.optimizer.param_groups]  # what is logged; else it is the update's before

    def lower(self, lowest: float) -> float | None:
        """Halve the learning rate from the next update on, down to the share `lowest` of it; the new share, None where it was there."""
        if self.scale <= lowest:
            return None
        self.scale = max(lowest, self.scale / 2)
        return self.scale

    # -- across starts ----------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Optimizer and scheduler state into one file, whole or not at all."""
        state = {"optimizer": self.optimizer.state_dict(), "scheduler": {"last_epoch": self.scheduler.last_epoch}, "scale": self.scale}
        torch.save(state, path.with_suffix(".new"))
        os.replace(path.with_suffix(".new"), path)

    def load(self, path: Path) -> None:
        """Take over what `save` wrote: the next step is the one that would have come."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.scale = state["scale"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.last_epoch = state["scheduler"]["last_epoch"]


class _RoundTrainer(SharedUpdate, DPOTrainer):
    """DPOTrainer on rows that have token ids already, in the order in which they are given, by all processes together."""

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset

    def _move_model_to_device(self, model: Any, device: Any) -> None:
        """The model stands where the memory plan has put it."""

    def _prepare_inputs(self, inputs: Any) -> Any:
        where: torch.device = self.model.get_input_embeddings().weight.device  # type: ignore[union-attr,operator,assignment]
        prepared: dict[str, Any] = super()._prepare_inputs(inputs)
        return {name: value.to(where) if isinstance(value, torch.Tensor) else value for name, value in prepared.items()}


Build = Callable[..., DPOTrainer]


@contextlib.contextmanager
def _built(model: Any, learner: Learner, reference: str) -> Iterator[Build]:
    """A way to build the round's trainer; afterwards the model is as it was.

    TRL trains a PEFT model against a copy of its adapter "default", called "ref", where there is one, else with the adapters off. So the
    learner's adapter is called "default" while TRL builds, and "ref" is filled or taken away.
    """
    peft = model if isinstance(learner, LoraLearner) else None
    base = model.get_base_model() if peft is not None else model
    weights = learner.parameters()
    quiet = logging.getLogger("transformers.trainer")
    level = quiet.level

    def build(**more: Any) -> DPOTrainer:
        exact = {name: p.data for name, p in weights.items()}
        if peft is not None:
            peft.peft_config["default"] = peft.peft_config[learner.name]  # type: ignore[attr-defined]
        try:
            trainer = _RoundTrainer(model=model, ref_model=learner.reference(), processing_class=learner.tokenizer, **more)
        finally:
            if peft is not None:
                del peft.peft_config["default"]
        for name, parameter in weights.items():
            parameter.data = exact[name]  # TRL rounds the adapters of a 4-bit model to bf16
        if peft is not None:
            _reference(peft, learner.name, reference)  # type: ignore[attr-defined]
        trainer.remove_callback(_printer(trainer))
        for patched in (base, learner.reference()):
            if patched is not None:
                patched.forward = _results_where_asked(patched.forward)
        return trainer

    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), _only_replies():
            warnings.simplefilter("ignore", FutureWarning)  # older versions of transformers have the old names alone
            yield build
    finally:
        quiet.setLevel(level)
        if peft is not None and "ref" in peft.peft_config:
            peft.delete_adapter("ref")
            peft.set_adapter(learner.name)  # type: ignore[attr-defined]
        for patched in (base, learner.reference()):
            if patched is not None:
                vars(patched).pop("forward", None)  # TRL's fused output layer
        if learner.config.checkpointing:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                base.gradient_checkpointing_disable()
            base.disable_input_require_grads()


def _length(row: dict[str, Any]) -> int:
    return len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


def _results_where_asked(forward: Callable[..., Any]) -> Callable[..., Any]:
    """TRL's forward, its results on the device of the tokens: of a model over several GPUs the output layer stands elsewhere."""

    @functools.wraps(forward)
    def moved(*args: Any, **more: Any) -> Any:
        out = forward(*args, **more)
        if more.get("fused_lm_head"):
            for name, value in out.items():
                out[name] = value.to(more["input_ids"].device) if isinstance(value, torch.Tensor) else value
        return out

    return moved


@contextlib.contextmanager
def _only_replies() -> Iterator[None]:
    """Score the tokens of the replies alone. TRL does so on GPUs; elsewhere it also computes the logits of every prompt token.

    The switch is TRL's own but private: where it is gone, the update is slower and the same.
    """
    name = "_use_triton"
    before = getattr(trl_utils, name, None)
    if before is not None:
        setattr(trl_utils, name, lambda device: True)
    try:
        yield
    finally:
        if before is not None:
            setattr(trl_utils, name, before)


def _reference(peft: Any, name: str, reference: str) -> None:
    """The adapter "ref" as the policy is now, or none: then the base is the reference."""
    if reference == "base":
        peft.delete_adapter("ref")
        peft.set_adapter(name)
        return
    with torch.no_grad():
        for path, parameter in peft.named_parameters():
            if f".{name}." in path:
                peft.get_parameter(path.replace(f".{name}.", ".ref.")).copy_(parameter)


def _printer(trainer: Any) -> type:
    return next(type(c) for c in trainer.callback_handler.callbacks if type(c).__name__ in ("PrinterCallback", "ProgressCallback"))


def rate(begin: float, end: float, rounds: int, warmup: float, schedule: str) -> float:
    """The share of the learning rate in a step that goes from `begin` to `end`, in rounds.

    A linear rise over `warmup` rounds, then constant, linear to 0 or a cosine to 0 at `rounds`.
    """
    if end < warmup:
        return end / warmup
    done = min(1.0, max(0.0, begin - warmup) / max(1e-9, rounds - warmup))
    return {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[schedule]
