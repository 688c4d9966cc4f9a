"""What RLOO and GRPO share: rows that are the replies to one history with their advantages, computed after one copy of their prompt.

The losses are this project's own, in the words of TRL's RLOOTrainer and GRPOTrainer, and tests/test_policy_gradient.py holds them to those
on the same rows. TRL's trainers cannot be driven with rows like these: they take each reply with a prompt of its own, which is most of the
work where a dialogue is the prompt; they score a missing reply as one without an advantage, which still counts in the mean and is pulled to
the base; and their mean over replies is not the same in one process and in several where histories have different numbers of them.
Scoring the replies alone, in fp32, without keeping logits is TRL's.

Shapes: K replies of each of B rows, T tokens of the longest prompt with a reply; N = K B.
"""

from __future__ import annotations

import contextlib
import math
import random
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Trainer, TrainingArguments
from trl.trainer.utils import add_fused_lm_head

from expertchat.training.advantages import Group, Grouping, grouped
from expertchat.training.config import PolicyGradientTrain
from expertchat.training.dpo import drop, patched, place_heads
from expertchat.training.learner import Learner, LoraLearner
from expertchat.training.method import Rows, Updated
from expertchat.training.rows import Row, prompt_of, reply_of
from expertchat.training.sharding import SharedUpdate
from expertchat.training.update import Updater

NONE = -100  # the label of a token that is not trained
Loss = Callable[["Batch"], tuple[Tensor, dict[str, Tensor]]]


class Batch:
    """What a loss is made of. `weights_N_T` are what each trained token counts for, and 0 elsewhere.

    `old_N_T`: log probabilities of the policy that gave the replies; `base_N_T`: of the base, where they are asked for.
    """

    def __init__(self, inputs: Mapping[str, Tensor], logps_N_T: Tensor, known: Mapping[str, Tensor]) -> None:
        self.rows = int(inputs["shares_N"].shape[0]) // int(inputs["replies"])
        self.real_N_T = inputs["labels"][:, 1:] != NONE
        self.advantages_N, self.shares_N, self.weights_N_T = inputs["advantages_N"], inputs["shares_N"], inputs["weights_N"][:, None]
        self.weights_N_T = self.weights_N_T * self.real_N_T
        self.logps_N_T = logps_N_T
        self.old_N_T = known.get("old", logps_N_T.detach())
        self.base_N_T = known.get("base")


class PolicyGradient(Updater):
    """Every history of a round whose replies differ in worth, once an epoch. A step has `train.batch` histories with all their replies."""

    config: PolicyGradientTrain
    leave_one_out: ClassVar[bool]
    of_reward: ClassVar[bool]
    """Whether train.beta is taken off the reward (then nothing of it is in the loss)."""
    means: ClassVar[Mapping[str, str]] = {"loss": "loss", "grad_norm": "grad_norm", "clipped": "clipped"}

    @abstractmethod
    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of a batch's rows, and figures of it: `clipped`, the share of what was beyond the clip."""

    # -- rows -------------------------------------------------------------------------------------------------------

    def grouping(self, given: Rows) -> Grouping:
        config = self.config
        return grouped(
            given.choices,
            leave_one_out=self.leave_one_out,
            baseline=config.baseline,
            scale=config.scale,
            beta=config.beta if self.of_reward else 0.0,
            log_ratios=given.log_ratios,
        )

    def rows(self, given: Rows, round: int) -> list[Row]:
        self.made = self.grouping(given)
        groups = list(self.made.groups)
        random.Random(f"{self.seed} update {round}").shuffle(groups)
        return [self._row(group) for group in groups]

    def _row(self, group: Group) -> Row:
        """A history's tokens. A reply that the token limit cut is in its baseline; with train.cut=mask it is not trained."""
        renderer = self.learner.backend.renderer
        replies = [reply_of(group.choice, one, renderer) for one in group.candidates]
        masked = [one.cut and self.config.cut == "mask" for one in group.candidates]
        weights = [0.0 if mask else self.weight(len(group.candidates), len(ids)) for ids, mask in zip(replies, masked, strict=True)]
        shares = [0.0 if mask else 1 / len(replies) for mask in masked]
        row: Row = {"prompt_ids": prompt_of(group.choice, renderer), "replies": replies}
        return row | {"advantages": list(group.advantages), "weights": weights, "shares": shares}

    def weight(self, replies: int, tokens: int) -> float:
        """What a token of a reply counts for, in a group of so many replies."""
        return 1 / replies

    def update(self, rows: Rows, round: int) -> Updated:
        done = super().update(rows, round)
        done.counts = self.made.counts()
        return done

    # -- training ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def trainer(self, model: Any, arguments: Mapping[str, Any], **more: Any) -> Iterator[SharedUpdate]:
        config, learner = self.config, self.learner
        replies = max(len(row["replies"]) for row in more["train_dataset"])
        base = model.get_base_model() if isinstance(learner, LoraLearner) else model
        settings = TrainingArguments(**arguments, remove_unused_columns=False)
        with patched(model, learner, config.checkpointing, replies=replies):
            for one in (base, learner.reference()):
                if one is not None:
                    add_fused_lm_head(one, cast_lm_head_to_fp32=True)
            drop(base, getattr(learner, "name", ""), config.dropout)
            if config.checkpointing:
                base.enable_input_require_grads()
            place_heads(base, learner)
            collate = Collator(replies, self.scaled(more["train_dataset"]))
            trainer = _GroupTrainer(model=model, args=settings, data_collator=collate, **more)
            trainer.loss = self.loss
            several = len(trainer.share.batches) * config.epochs > trainer.share.accumulation
            trainer.remember(learner, old=several, base=bool(config.beta) and not self.of_reward)
            yield trainer

    def scaled(self, rows: Sequence[Row]) -> list[float]:
        """For each row, what its weights are multiplied by."""
        return [1.0] * len(rows)

    def steps(self, rows: Sequence[Row]) -> Iterator[list[Row]]:
        """The rows of each step, over all processes."""
        for start in range(0, len(rows), self.config.batch):
            yield [rows[i] for i in range(start, min(start + self.config.batch, len(rows)))]


class Collator:
    """Rows as tensors: all prompts with their first reply, then all with their second, ...; where a row has no more, its prompt alone."""

    def __init__(self, replies: int, scales: Sequence[float]) -> None:
        self.replies, self.scales = replies, scales

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        whole, labels = list[Tensor](), list[Tensor]()
        numbers: dict[str, list[float]] = {"advantages": [], "weights": [], "shares": []}
        for k in range(self.replies):
            for row in rows:
                there = k < len(row["replies"])
                reply = row["replies"][k] if there else []
                trained = reply if there and row["shares"][k] else [NONE] * len(reply)
                whole.append(torch.tensor(row["prompt_ids"] + reply))
                labels.append(torch.tensor([NONE] * len(row["prompt_ids"]) + trained))
                for name, values in numbers.items():
                    values.append(row[name][k] * (self.scales[row["row"]] if name == "weights" else 1.0) if there else 0.0)
        mask_N_T = pad_sequence([torch.ones_like(ids) for ids in whole], True)
        found = {f"{name}_N": torch.tensor(values) for name, values in numbers.items()}
        tokens = {"input_ids": pad_sequence(whole, True), "attention_mask": mask_N_T, "labels": pad_sequence(labels, True, NONE)}
        return {**tokens, **found, "replies": self.replies}


class _Losses(Trainer):
    """The loss of a batch, by the method's own."""

    loss: Loss

    def __init__(self, **more: Any) -> None:
        rows = more.pop("train_dataset")
        super().__init__(train_dataset=rows.add_column("row", list(range(len(rows)))), **more)
        self.model_accepts_loss_kwargs = False  # the loss is a mean: the library divides it by the batches of a step
        self._known: list[dict[str, Tensor]] = []  # by batch: log probabilities that stay the same during the update
        self._passed = 0
        self._figures: dict[str, list[float]] = defaultdict(list)

    def logps(self, model: Any, inputs: Mapping[str, Any]) -> Tensor:
        """Log probabilities [N, T - 1] of the tokens that are trained, 0 elsewhere."""
        asked = {name: inputs[name] for name in ("input_ids", "attention_mask", "labels")}
        found: Tensor = model(**asked, fused_lm_head=True).log_probs
        return found

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
        known = self._known[self._passed % len(self._known)] if self._known else {}
        self._passed += 1
        loss, figures = self.loss(Batch(inputs, self.logps(model, inputs), known))
        for name, value in figures.items():
            self._figures[name].append(float(value.detach()))
        return loss

    def log(self, logs: dict[str, float], *args: Any, **more: Any) -> None:
        for name, values in self._figures.items():
            logs[name] = math.fsum(values) / len(values)
        self._figures.clear()
        super().log(logs, *args, **more)


class _GroupTrainer(SharedUpdate, _Losses):
    """A step over all processes on rows of replies."""

    model: Any

    def remember(self, learner: Learner, old: bool, base: bool) -> None:
        """Compute the log probabilities of the policy as it is now, and of the base, where they are needed: before the first step."""
        if not old and not base:
            return
        for batch in self.get_train_dataloader():
            inputs = self._prepare_inputs(batch)
            with torch.no_grad(), _quiet(self.model):
                known = {"old": self.logps(self.model, inputs)} if old else {}
                if base:
                    reference, policy = learner.reference(), self.model
                    with policy.disable_adapter() if reference is None else contextlib.nullcontext():
                        known["base"] = self.logps(policy if reference is None else reference, inputs)
            self._known.append(known)


@contextlib.contextmanager
def _quiet(model: Any) -> Iterator[None]:
    """Without dropout."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
