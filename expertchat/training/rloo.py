"""REINFORCE with the other replies as baseline: RLOO (Ahmadian et al. 2024, arXiv 2402.14740). A whole reply is one action."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from expertchat.training.policy_gradient import Batch, PolicyGradient


class Rloo(PolicyGradient):
    """Of each reply: -min(r A, clip(r, 1 - epsilon, 1 + epsilon_high) A), r the ratio of its probabilities under the policy and under the
    one that gave it, A its advantage; the mean over a history's replies, then over histories.

    `train.beta` is taken off the reward for each nat of log policy - log base, as in the paper; that is measured in every round anyway.
    """

    leave_one_out: ClassVar[bool] = True
    of_reward: ClassVar[bool] = True

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        low, high = self.config.clip
        ratio_N = ((batch.logps_N_T - batch.old_N_T) * batch.real_N_T).sum(1).exp()
        clipped_N = ratio_N.clamp(1 - low, 1 + high)
        loss_N = -torch.min(ratio_N * batch.advantages_N, clipped_N * batch.advantages_N)
        beyond_N = (loss_N > -ratio_N * batch.advantages_N).float()
        share = (beyond_N * batch.shares_N).sum() / batch.shares_N.sum().clamp(min=1e-9)
        return (loss_N * batch.shares_N).sum() / batch.rows, {"clipped": share}
