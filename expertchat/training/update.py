"""What the updates of all methods share: rows parted among the processes, an optimizer and a schedule that live as long as the run.

A transformers Trainer is built for each round (it is cheap); what kind of one, on which rows, is the method's (`rows`, `trainer`).
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import torch
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback

from expertchat.backends import threads
from expertchat.config import ConfigError
from expertchat.folder.writing import WriteError, saving
from expertchat.text.sentences import first_line
from expertchat.training.config import UpdateConfig
from expertchat.training.learner import Learner
from expertchat.training.method import Rows, Stopped, Updated
from expertchat.training.ranks import Ranks
from expertchat.training.rows import Row, alike, length
from expertchat.training.sharding import Share, SharedUpdate, split
from expertchat.training.steady import Steady

disable_progress_bar()


class Updater(ABC):
    """Updates one learner, round by round. The learning rate is scheduled over `rounds` updates, whatever number of steps each has.

    `on_step(round, step, steps, loss)` hears of every step; `stop` is asked after each of a step's batches and raises Stopped.
    """

    means: ClassVar[Mapping[str, str]] = {"loss": "loss", "grad_norm": "grad_norm"}
    """A round's figure -> what the trainer's log calls it."""

    def __init__(
        self,
        learner: Learner,
        config: UpdateConfig,
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
        dtype = learner.backend.model.dtype
        self.steady = Steady(dtype == torch.float16, f"{learner.who} ({str(dtype).removeprefix('torch.')})")
        self.fused = in_place(weights)
        self.optimizer = AdamW(weights, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.95), fused=self.fused)
        self._nth, self._first, self._steps = 0, 0, 1  # updates before this one; the scheduler's step at its beginning; its own steps
        self.scheduler = LambdaLR(self.optimizer, lambda step: self._rate(step, rounds))

    # -- the method's -----------------------------------------------------------------------------------------------

    @abstractmethod
    def rows(self, given: Rows, round: int) -> list[Row]:
        """The token ids to train on, in the order in which they come: no length plays a part in it."""

    @abstractmethod
    def trainer(self, model: Any, arguments: Mapping[str, Any], **more: Any) -> AbstractContextManager[SharedUpdate]:
        """A trainer of the method's own kind, to be built with a TrainingArguments of `arguments` and with `more`.

        Afterwards the model is as it was before.
        """

    def figures(self, logs: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Means over the steps that were made."""
        means = self.ranks.mean({name: fmean(float(line[key]) for line in logs) for name, key in self.means.items()})
        return {**means, "learning_rate": logs[-1]["learning_rate"]}

    # -- an update --------------------------------------------------------------------------------------------------

    def update(self, rows: Rows, round: int) -> Updated:
        """Train on a round's rows; without any, nothing changes. Raises Stopped, and ConfigError on numbers that stay broken."""
        done, every = Updated(), self.rows(rows, round)
        fitting = [row for row in every if self.config.max_tokens is None or length(row) <= self.config.max_tokens]
        share = split(len(fitting), self.config.batch, self.config.micro_batch, self.ranks)
        trained = alike(fitting, self.config.batch, share.surplus)
        done.too_long, done.rows, done.surplus = len(every) - len(fitting), len(trained), share.surplus
        if not share.batches:
            return done
        self._schedule(share)
        self.steady.made = []
        more = {
            "train_dataset": Dataset.from_list(trained),
            "optimizers": (self.optimizer, self.scheduler),
            "callbacks": [self._callback(round)],
            "ranks": self.ranks,
            "share": share,
            "steady": self.steady,
        }
        with self.learner.training() as model, _quiet(), self.trainer(model, self._arguments(share, round), **more) as trainer:
            trainer.remove_callback(_printer(trainer))
            trainer.train()
        made = self.steady.made
        done.steps, done.skipped = sum(made), made.count(False)
        logs = [line for line in trainer.state.log_history if "loss" in line]
        if kept := [line for line, was_made in zip(logs, made, strict=True) if was_made]:
            done.figures = self.figures(kept)
            self.learner.version += 1
        return done

    def _arguments(self, share: Share, round: int) -> dict[str, Any]:
        """What every method's trainer is told."""
        config = self.config
        return {
            "output_dir": str(self.folder),
            "per_device_train_batch_size": config.micro_batch,
            "gradient_accumulation_steps": share.accumulation,
            "num_train_epochs": config.epochs,
            "max_grad_norm": config.max_grad_norm,
            "gradient_checkpointing": config.checkpointing,
            "learning_rate": config.learning_rate,
            "bf16": False,  # the model has the precision that it was loaded in
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": self.learner.backend.device == "cpu",
            "seed": random.Random(f"{self.seed} dropout {round} {self.ranks.rank}").getrandbits(32),
            "dataloader_pin_memory": False,
        }

    def _callback(self, round: int) -> TrainerCallback:
        updater = self

        class Tell(TrainerCallback):
            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
                if logs and "loss" in logs:
                    loss = updater.ranks.mean({"loss": float(logs["loss"])})["loss"]
                    updater.on_step(round, state.global_step, state.max_steps, loss)

            def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
                threads.look()
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
        state["steady"] = self.steady.state()
        new = path.with_suffix(".new")
        try:
            with saving(path):
                with open(new, "wb") as file:  # by its name alone torch would not say what the disk said
                    torch.save(state, file)
                os.replace(new, path)
        except WriteError:
            new.unlink(missing_ok=True)
            raise

    def load(self, path: Path) -> None:
        """Take over what `save` wrote: the next step is the one that would have come. Raises ConfigError where the file is not whole."""
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            last, scale = int(state["scheduler"]["last_epoch"]), float(state["scale"])
            for group in state["optimizer"]["param_groups"]:
                group["fused"] = self.fused  # as this machine steps, not the one that wrote it
            self.optimizer.load_state_dict(state["optimizer"])
            if "steady" in state:  # older folders have none
                self.steady.restore(state["steady"])
        except Exception as error:  # of an archive, a pickle, a dictionary: whatever a damaged file makes of itself
            raise ConfigError(f"{path} is damaged or missing ({first_line(error)[:200]})") from None
        self.scale, self.scheduler.last_epoch = scale, last


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The trainer says nothing of its own: the screen belongs to the view."""
    quiet = logging.getLogger("transformers.trainer")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        yield
    finally:
        quiet.setLevel(level)


def in_place(weights: Sequence[Tensor]) -> bool | None:
    """AdamW's `fused`: on GPUs its default would hold as much as all the weights once more for a moment, which the memory plan leaves no
    room for. None, elsewhere: its default, which needs one weight's room and gives the same numbers as ever."""
    return True if all(weight.device.type == "cuda" for weight in weights) else None


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
