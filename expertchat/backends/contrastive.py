"""Contrastive search in a lane (Su et al. 2022, arXiv 2202.06417): fluent text without loops, and no randomness.

The next word is the one of the k likeliest that has the largest (1 - alpha) p(v) - alpha max_j cos(h_v, h_j) over all earlier tokens j.
The k candidates of every row go through the model in one pass, as k tokens that see the row but not each other; the chosen one's
keys and values stay, and its logits give the next candidates. Rows may have any lengths, and none is copied k times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from expertchat.backends.decoding import BROKEN, NotFinite, contrastive_scores, last_hidden
from expertchat.backends.engine import Filled
from expertchat.backends.lines import Branch, Line
from expertchat.backends.rows import BranchLane


class ContrastiveLane(BranchLane):
    """Rows of contrastive search; each line holds one reply."""

    hidden = True
    alone = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        words = self.engine.model.config.get_text_config().vocab_size
        self.candidates = min(self.decoding.top_k, words)

    def _width(self, line: Line) -> int:
        return self.candidates

    def _clear(self) -> None:
        super()._clear()
        self.states = torch.empty(0, 0, 0)  # [S, C, D] unit length, of all tokens so far
        self.probs = torch.empty(0, 0)  # [S, K] of the candidates

    def _draw_up(self, width: int) -> None:
        old_next, old_states, old_probs = self.next if self.lines else np.zeros((0, width)), self.states, self.probs
        super()._draw_up(width)
        assert self.slab is not None
        self.next[: len(old_next)] = old_next
        size = self.engine.model.config.get_text_config().hidden_size
        self.states = torch.zeros(self.slab.rows, self.slab.capacity, size, device=self.engine.device)
        self.probs = torch.zeros(self.slab.rows, self.candidates, device=self.engine.device)
        if old_states.numel():
            self.states[: old_states.shape[0], : old_states.shape[1]] = old_states
            self.probs[: old_probs.shape[0]] = old_probs

    def _entered(self, filled: Filled, first: int) -> None:
        assert filled.states_B_L_D is not None
        rows = slice(first, len(self.lines))
        self.states[rows, : filled.states_B_L_D.shape[1]] = filled.states_B_L_D
        self._propose(filled.logits_B_V, first)

    def _propose(self, logits_B_V: Tensor, first: int) -> None:
        """The next candidates of the rows from `first` on."""
        probs_B_K, words_B_K = torch.softmax(logits_B_V.float(), dim=-1).topk(self.candidates, dim=-1)
        rows = slice(first, first + len(logits_B_V))
        words_B_K = words_B_K.where(probs_B_K[:, :1].isfinite(), BROKEN)
        self.probs[rows], self.next[rows] = probs_B_K, words_B_K.cpu().numpy()
        if any(line is not None and word == BROKEN for line, word in zip(self.lines[rows], self.next[rows, 0], strict=True)):
            raise NotFinite
        self.next[rows].clip(min=0, out=self.next[rows])  # of holes

    def _lay(self, row: int) -> None:
        """What the candidates of a row see: all that is written. Their own places are opened in each step."""
        if self.lines[row] is not None:
            self.mask[row] = float("-inf")
            self.mask[row, :, :, : int(self.used[row])] = 0.0
            self.positions[row] = self.used[row]

    def _move(self, row: int, hole: int) -> None:
        self.states[hole], self.probs[hole], self.next[hole] = self.states[row], self.probs[row], self.next[row]
        super()._move(row, hole)

    def _step(self) -> list[Branch]:
        count, alpha, engine = len(self.lines), self.decoding.penalty_alpha, self.engine
        self._fit(count, int(self.used[:count].max()) + self.candidates, self.candidates)
        assert self.slab is not None
        used_B = self.used[:count].copy()
        with last_hidden(engine.model) as caught:
            logits_B_K_V = self._pass(used_B[:, None] + np.arange(self.candidates))
        states_B_K_D = normalize(caught[0].to(engine.device).float(), dim=-1)
        length = int(used_B.max())
        written_B_L = torch.arange(length, device=engine.device) < engine.send(used_B)[:, None]
        best_B = contrastive_scores(self.probs[:count], states_B_K_D, self.states[:count, :length], written_B_L, alpha).argmax(-1)
        rows_B, used = torch.arange(count, device=engine.device), engine.send(used_B)
        self.slab.pick(used, used + best_B)
        self.states[rows_B, used] = states_B_K_D[rows_B, best_B]
        chosen = best_B.tolist()
        words = self.next[np.arange(count), chosen].tolist()
        self._hide_candidates(used_B)
        self._propose(logits_B_K_V[rows_B, best_B], 0)
        self.used[:count] += 1
        self.positions[:count] += 1
        for row, (line, word) in enumerate(zip(self.lines, words, strict=True)):
            if line is not None:
                branch = line.branches[0]
                self._write(branch, word)
                branch.places.append(int(used_B[row]))
                branch.fed += 1
        return self._leave()

    def _hide_candidates(self, used_B: np.ndarray) -> None:
        """After a step all candidates see the chosen token, at the place of the first, and none of the others."""
        count, width, capacity = len(used_B), self.candidates, self.mask.shape[3]
        slots = (np.arange(count)[:, None] * width + np.arange(width)) * capacity
        flat = self.mask.view(-1)
        flat.index_fill_(0, self.engine.send((slots + used_B[:, None] + np.arange(width)).ravel()), float("-inf"))
        flat.index_fill_(0, self.engine.send((slots + used_B[:, None]).ravel()), 0.0)

    def _noise(self, branches: Sequence[Branch | None]) -> Tensor:
        return torch.empty(0)

    def _states(self, row: int) -> Tensor | None:
        return self.states[row]
