"""Group relative policy optimisation: GRPO (Shao et al. 2024, arXiv 2402.03300). Every token is an action, with its reply's advantage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import ClassVar

import torch
from torch import Tensor

from expertchat.training.policy_gradient import Batch, PolicyGradient
from expertchat.training.rows import Row


class Grpo(PolicyGradient):
    """Of each token: -min(r A, clip(r, 1 - epsilon, 1 + epsilon_high) A) + beta r k3, r the ratio of its probabilities under the policy and
    under the one that gave it, A its reply's advantage, k3 = base/policy - 1 - log(base/policy) (Schulman 2020,
    http://joschu.net/blog/kl-approx.html). Only with r before it has k3 the gradient of the divergence (DeepSeek-V3.2, arXiv 2512.02556).

    `train.normalise`: reply, the mean over a reply's tokens, then over replies (the paper's; a short reply's tokens count more); tokens,
    the mean over all tokens of a step (DAPO, arXiv 2503.14476); constant, the sum over a reply's tokens over `train.reply_tokens`,
    whatever its length (Dr. GRPO, arXiv 2503.20783).
    """

    leave_one_out: ClassVar[bool] = False
    of_reward: ClassVar[bool] = False

    def weight(self, replies: int, tokens: int) -> float:
        how = self.config.normalise
        if how == "tokens":
            return 1.0
        return 1 / (replies * (max(1, tokens) if how == "reply" else self.config.reply_tokens))

    def scaled(self, rows: Sequence[Row]) -> list[float]:
        """normalise=tokens: a step's loss is its sum over all tokens over their number, and here it is a mean over rows."""
        if self.config.normalise != "tokens":
            return super().scaled(rows)
        found = list[float]()
        for step in self.steps(rows):
            tokens = sum(len(ids) for row in step for ids, share in zip(row["replies"], row["shares"], strict=True) if share)
            found += [len(step) / max(1, tokens)] * len(step)
        return found

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        low, high = self.config.clip
        advantages_N_1, weights_N_T = batch.advantages_N[:, None], batch.weights_N_T
        ratio_N_T = (batch.logps_N_T - batch.old_N_T).exp()
        loss_N_T = -torch.min(ratio_N_T * advantages_N_1, ratio_N_T.clamp(1 - low, 1 + high) * advantages_N_1)
        beyond_N_T = (loss_N_T > -ratio_N_T * advantages_N_1).float()
        total = weights_N_T.sum().clamp(min=1e-9)
        figures = {"clipped": (beyond_N_T * weights_N_T).sum() / total}
        if batch.base_N_T is not None:
            away_N_T = batch.base_N_T - batch.logps_N_T
            k3_N_T = ratio_N_T * (away_N_T.exp() - away_N_T - 1)
            loss_N_T = loss_N_T + self.config.beta * k3_N_T
            figures["kl_loss"] = (k3_N_T * weights_N_T).sum() / total
        return (loss_N_T * weights_N_T).sum() / batch.rows, figures

    def figures(self, logs: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """With train.beta `kl_loss` too: the divergence that is in the loss, nats a token."""
        away = self.ranks.mean({"kl_loss": fmean(line["kl_loss"] for line in logs)}) if self.config.beta else {}
        return super().figures(logs) | away
