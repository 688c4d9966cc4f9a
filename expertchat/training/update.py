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
from collections.abc import Callable, Iterator, Mapping, Sequence
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

from expertchat.backends.decoding import body
from expertchat.config import ConfigError
from expertchat.folder.writing import WriteError, saving
from expertchat.records import Figure, PreferencePair
from expertchat.text.sentences import first_line
from expertchat.training.config import TrainConfig
from expertchat.training.fused import exact_replies
from expertchat.training.gpus import anywhere, on_gpu
from expertchat.training.learner import Learner, LoraLearner
from expertchat.training.ranks import Ranks
from expertchat.training.rows import alike, arranged, length, row_of
from expertchat.training.sharding import Share, SharedUpdate, split
from expertchat.training.steady import Steady

disable_progress_bar()
MEANS = {  # a round's figure -> what TRL calls it
    "loss": "loss",
    "grad_norm": "grad_norm",
    "accuracy": "rewards/accuracies",
    "implicit_margin": "rewards/margins",
    "reward_chosen": "rewards/chosen",
    "reward_rejected": "rewards/rejected",
}


@dataclass
class Updated:
    """What an update was: figures averaged over its steps, in the names of a round's metrics.

    `log_ratio` is the mean of log pi(y|x) - log ref(y|x) over the chosen and rejected replies, nats a reply, against the reference that the
    loss has. It is no KL: for how far the policy has gone see expertchat.training.drift.
    """

    steps: int = 0
    skipped: int = 0  # steps not made: their loss or gradient was not finite
    pairs: int = 0
    too_long: int = 0
    surplus: int = 0  # pairs given up because the last batch did not divide by the processes
    figures: dict[str, float] = field(default_factory=dict)

    def all_figures(self) -> dict[str, Figure]:
        return {"steps": self.steps, "skipped": self.skipped, "too_long": self.too_long, "surplus": self.surplus, **self.figures}


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
        dtype = learner.backend.model.dtype
        self.steady = Steady(dtype == torch.float16, f"expert {learner.seat} ({str(dtype).removeprefix('torch.')})")
        self.optimizer = AdamW(weights, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.95))
        self._nth, self._first, self._steps = 0, 0, 1  # updates before this one; the scheduler's step at its beginning; its own steps
        self.scheduler = LambdaLR(self.optimizer, lambda step: self._rate(step, rounds))

    def update(self, pairs: Sequence[PreferencePair], round: int) -> Updated:
        """Train on a round's pairs; without any, nothing changes. Raises Stopped, and ConfigError on numbers that stay broken."""
        done = Updated()
        rows = [row_of(pair, self.learner.backend.renderer) for pair in arranged(pairs, self.seed, round)]
        fitting = [row for row in rows if self.config.max_tokens is None or length(row) <= self.config.max_tokens]
        share = split(len(fitting), self.config.batch, self.config.micro_batch, self.ranks)
        trained = alike(fitting, self.config.batch, share.surplus)
        done.too_long, done.pairs, done.surplus = len(rows) - len(fitting), len(trained), share.surplus
        if not share.batches:
            return done
        self._schedule(share)
        self.steady.made = []
        with self.learner.training() as model, _built(model, self.learner, self.config) as build:
            trainer = build(
                args=self._arguments(share, round),
                train_dataset=Dataset.from_list(trained),
                optimizers=(self.optimizer, self.scheduler),
                callbacks=[self._callback(round)],
                ranks=self.ranks,
                share=share,
                steady=self.steady,
            )
            trainer.train()
        made = self.steady.made
        done.steps, done.skipped = sum(made), made.count(False)
        logs = [line for line in trainer.state.log_history if "loss" in line]
        kept = [line for line, was_made in zip(logs, made, strict=True) if was_made]
        if kept:
            done.figures = self._figures(kept)
            self.learner.version += 1
        return done

    def _figures(self, logs: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Means over the steps that were made."""
        means = self.ranks.mean({name: fmean(float(line[key]) for line in logs) for name, key in MEANS.items()})
        ratio = (means.pop("reward_chosen") + means.pop("reward_rejected")) / 2 / self.config.beta
        return {**means, "log_ratio": ratio, "learning_rate": logs[-1]["learning_rate"]}

    def _arguments(self, share: Share, round: int) -> DPOConfig:
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
            seed=random.Random(f"{self.seed} dropout {round} {self.ranks.rank}").getrandbits(32),
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
            self.optimizer.load_state_dict(state["optimizer"])
            if "steady" in state:  # older folders have none
                self.steady.restore(state["steady"])
        except Exception as error:  # of an archive, a pickle, a dictionary: whatever a damaged file makes of itself
            raise ConfigError(f"{path} is damaged or missing ({first_line(error)[:200]})") from None
        self.scale, self.scheduler.last_epoch = scale, last


class _RoundTrainer(SharedUpdate, DPOTrainer):
    """DPOTrainer on rows that have token ids already, in the order in which they are given, by all processes together."""

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset

    def _move_model_to_device(self, model: Any, device: Any) -> None:
        """The model stands where the memory plan has put it."""

    def create_accelerator_and_postprocess(self) -> None:
        """accelerate moves nothing either: it would take a model that stands on the second GPU to the first."""
        super().create_accelerator_and_postprocess()
        self.accelerator.device_placement = False

    def _prepare_inputs(self, inputs: Any) -> Any:
        where: torch.device = self.model.get_input_embeddings().weight.device  # type: ignore[union-attr,operator,assignment]
        prepared: dict[str, Any] = super()._prepare_inputs(inputs)
        return {name: value.to(where) if isinstance(value, torch.Tensor) else value for name, value in prepared.items()}


Build = Callable[..., DPOTrainer]


@contextlib.contextmanager
def _built(model: Any, learner: Learner, config: TrainConfig) -> Iterator[Build]:
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
            _reference(peft, learner.name, config.reference)  # type: ignore[attr-defined]
            _drop(base, learner.name, config.dropout)  # type: ignore[attr-defined]
        trainer.remove_callback(_printer(trainer))
        for patched in (base, learner.reference()):
            if patched is not None:
                head: torch.device = patched.get_output_embeddings().weight.device
                patched.forward = _results_where_asked(on_gpu(head, patched.forward))
        return trainer

    quiet.setLevel(logging.ERROR)
    bodies = {patched: body(patched) for patched in (base, learner.reference()) if patched is not None and patched.base_model is patched}
    for patched, inner in bodies.items():  # TRL looks for the body there
        patched.base_model_prefix = next(name for name, child in patched.named_children() if child is inner)
    try:
        with warnings.catch_warnings(), exact_replies(), anywhere(base):
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
                vars(patched).pop("base_model_prefix", None)
        if config.checkpointing:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                base.gradient_checkpointing_disable()
            base.disable_input_require_grads()


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


def _drop(base: Any, name: str, dropout: float) -> None:
    """Dropout in the learner's adapter alone: TRL has switched off all that is a layer, and the reference is to stay without."""
    for module in base.modules():
        for rate in ("attention_dropout", "dropout", "activation_dropout", "hidden_dropout", "layerdrop"):
            if isinstance(getattr(module, rate, None), float):
                setattr(module, rate, 0.0)
        if name in getattr(module, "lora_dropout", ()) and dropout:
            module.lora_dropout[name].p = dropout


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
