"""Greedy or sampled replies: the model's probabilities after a token give the next one, by themselves or by noise that is keyed.

Each reply has its own decoding: those of speakers and those of judges run in one table.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from expertchat.backends.base import Decoding
from expertchat.backends.decoding import choose
from expertchat.backends.engine import Engine, Filled
from expertchat.backends.lines import Branch
from expertchat.backends.table import Table


class Drawing:
    """A Search that draws each next token. A line holds several branches: tokens after their shared context are fed side by side."""

    hidden, columns = False, 1

    def __init__(self, engine: Engine) -> None:
        self.device = engine.device

    def beside(self, rows: int, capacity: int) -> tuple[Tensor, ...]:
        return ()

    def enter(self, table: Table, filled: Filled) -> None:
        """Write the first token of each branch whose whole prompt is the context: the prefill gave its probabilities."""
        lines = table.lines[-len(filled.logits_B_V) :]
        ready = [(i, branch) for i, line in enumerate(lines) if line for branch in line.branches if len(branch.ids) == line.shared]
        if not ready:
            return
        picked = torch.tensor([i for i, _ in ready], device=self.device)
        branches = [branch for _, branch in ready]
        words = self._choose(table.unrepeated(filled.logits_B_V[picked], branches), branches)
        for (_, branch), word in zip(ready, words, strict=True):
            table.write(branch, word)

    def step(self, table: Table) -> None:
        count, width = len(table.lines), table.width
        table.fit(count, int(table.used[:count].max()) + width, width)
        places_B_T = table.used[:count, None] + np.arange(width)
        logits_B_T_V = table.feed(places_B_T)
        slots = [line.branches[t] if line is not None and t < len(line.branches) else None for line in table.lines for t in range(width)]
        words = self._choose(table.unrepeated(logits_B_T_V.flatten(0, 1), slots), slots)
        table.used[:count] += width
        table.positions[:count] += 1
        for slot, (branch, word) in enumerate(zip(slots, words, strict=True)):
            if branch is None:
                continue
            row, t = divmod(slot, width)
            table.fed(branch, int(places_B_T[row, t]))
            if branch.fed == len(branch.ids):
                table.write(branch, word)
            table.next[row, t] = branch.ids[branch.fed]

    def _choose(self, logits_B_V: Tensor, branches: Sequence[Branch | None]) -> list[int]:
        """The next words of branches, those of one decoding at a time; whatever there is where a row has none."""
        rows: dict[Decoding, list[int]] = {}
        for i, branch in enumerate(branches):
            if branch is not None:
                rows.setdefault(branch.decoding, []).append(i)
        if len(rows) == 1:
            (decoding,) = rows
            return choose(logits_B_V, decoding, self._noise(decoding, branches)).tolist()  # type: ignore[no-any-return]
        words_B = torch.zeros(len(branches), dtype=torch.long, device=self.device)
        for decoding, of_it in rows.items():
            picked = torch.tensor(of_it, device=self.device)
            words_B[picked] = choose(logits_B_V[picked], decoding, self._noise(decoding, [branches[i] for i in of_it]))
        return words_B.tolist()  # type: ignore[no-any-return]

    def _noise(self, decoding: Decoding, branches: Sequence[Branch | None]) -> Tensor:
        if decoding.method != "sampling":
            return torch.empty(0)
        numbers = [0.0 if branch is None else branch.noise[branch.row.tokens] for branch in branches]
        exact = torch.float32 if self.device.type == "mps" else torch.float64
        return torch.tensor(numbers, dtype=exact).to(self.device, non_blocking=True)
