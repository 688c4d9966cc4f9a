"""Steps on numbers that are not finite are not made; and the loss of an fp16 model is scaled, so that its small gradients are not lost.

Loss scaling: Micikevicius et al. 2018, arXiv 1710.03740. Not torch's GradScaler: the gradients of all processes are averaged between
unscaling and judging, and a step that is not made has to be counted where there is no fp16 too. The rule is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from expertchat.config import ConfigError

MOST = 4  # steps in a row that may be left out before the run stops
START, GROW_AFTER = 2.0**12, 200  # an overflow halves the scale, so many good steps in a row double it


class Steady:
    """Judges the gradients of every step of a run. `made` says of each step of this update whether it was made.

    `scaled`: whether the loss is multiplied by `scale` before its gradient is taken. `who` is trained, in which number type: for messages.
    """

    def __init__(self, scaled: bool, who: str) -> None:
        self.scaled, self.who = scaled, who
        self.scale = START if scaled else 1.0
        self.good = 0  # steps since the scale changed
        self.bad = 0  # steps in a row that were left out, those not counted that a smaller scale may mend
        self.made: list[bool] = []

    def raised(self, loss: Tensor) -> Tensor:
        """The loss whose gradient is taken."""
        return loss.float() * self.scale if self.scaled else loss

    def lowered(self, weights: Sequence[nn.Parameter], finite: bool) -> None:
        """Gradients of this process as they are without the scale; all of them not a number where its loss was not `finite`."""
        for weight in weights:
            if weight.grad is not None and self.scaled:
                weight.grad /= self.scale
        if not finite:
            weights[0].grad = torch.full_like(weights[0], torch.nan)

    def judge(self, weights: Sequence[nn.Parameter]) -> None:
        """Take the gradients away if one of them is not finite: the optimizer then leaves everything as it is. Raises ConfigError.

        Every process sees the averaged gradients, and so decides alike.
        """
        fine = all_finite([weight.grad for weight in weights if weight.grad is not None])
        self.made.append(fine)
        if fine:
            self.good, self.bad = self.good + 1, 0
            if self.scaled and self.good == GROW_AFTER:
                self.scale, self.good = 2 * self.scale, 0
            return
        for weight in weights:
            weight.grad = None
        self.good = 0
        if self.scaled and self.scale > 1.0:
            self.scale /= 2
            return
        self.bad += 1
        if self.bad >= MOST:
            raise ConfigError(
                f"the update of {self.who} had {self.bad} steps in a row whose loss or gradient is not finite, and none of them was made; "
                "lower train.learning_rate (or train.beta, where there is one), or load the model in a type with more range (dtype=bf16 or "
                "fp32), in a new run"
            )

    # -- across starts ----------------------------------------------------------------------------------------------

    def state(self) -> list[float]:
        return [self.scale, float(self.good), float(self.bad)]

    def restore(self, state: Sequence[float]) -> None:
        self.scale, self.good, self.bad = state[0], int(state[1]), int(state[2])


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all of them are finite. A model over several GPUs has them on each: one number of each GPU is waited for.

    A largest absolute value is not finite where any number is not, and takes no memory beside the tensor.
    """
    largest: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        largest.setdefault(tensor.device, []).append(torch.linalg.vector_norm(tensor, torch.inf, dtype=torch.float32))
    return all([bool(torch.stack(found).isfinite().all()) for found in largest.values()])


def check_finite(weights: dict[str, nn.Parameter], who: str) -> None:
    """Raise ConfigError where a weight that is to be saved is not finite."""
    bad = [name for name, weight in weights.items() if not bool(weight.isfinite().all())]
    if bad:
        raise ConfigError(
            f"{len(bad)} of the {len(weights)} trained weights of {who} are not finite any more (the first: {bad[0]}), so they are not "
            "saved; start again with a lower train.learning_rate"
        )
