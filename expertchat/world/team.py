"""Several processes that train one model: each takes its share of a step, and their gradients are added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["Team", "join"]


class Team:
    """Process `rank` of `processes`; one alone is a team too."""

    def __init__(self, rank: int = 0, processes: int = 1) -> None:
        self.rank, self.processes = rank, processes

    @property
    def leads(self) -> bool:
        """Whether this process reports and writes."""
        return self.rank == 0

    def add(self, parameters: Sequence[torch.nn.Parameter], *numbers: float) -> list[float]:
        """Give every process the sum of all gradients, in place, and of the numbers; one message for all of them."""
        import torch
        import torch.distributed as dist

        if self.processes == 1:
            return list(numbers)
        # A parameter that this process's share did not reach has no gradient here and one elsewhere.
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([*(g.reshape(-1) for g in grads), torch.tensor(numbers, dtype=torch.float32)])
        dist.all_reduce(flat)
        for parameter, grad, part in zip(parameters, grads, flat.split([*(g.numel() for g in grads), len(numbers)]), strict=False):
            parameter.grad = part.view_as(grad).clone()
        return [float(x) for x in flat[len(flat) - len(numbers) :]] if numbers else []

    def leave(self) -> None:
        """The work is done."""
        import torch.distributed as dist

        if self.processes > 1:
            dist.destroy_process_group()


def join(rank: int, processes: int, meeting: str) -> Team:
    """Become part of a team that meets at a file that is not there yet."""
    import torch.distributed as dist

    if processes > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=processes)
    return Team(rank, processes)
