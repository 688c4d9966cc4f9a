"""Contrastive search (Su et al. 2022, arXiv 2202.06417): fluent text without loops, and no randomness.

The next word is the one of the k likeliest that has the largest (1 - alpha) p(v) - alpha max_j cos(h_v, h_j) over all earlier tokens j.
The k candidates of every row go through the model in one pass, as k tokens that see the row but not each other; the chosen one's
keys and values stay, and its logits give the next candidates. Rows may have any lengths, and none is copied k times.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from expertchat.backends.base import Decoding
from expertchat.backends.decoding import BROKEN, NotFinite, contrastive_scores
from expertchat.backends.engine import Engine, Filled
from expertchat.backends.table import Table


class Contrastive:
    """A Search whose columns are the candidates of one reply. Beside a row: the states [C, D] of its tokens, of unit length, and the
    probabilities [K] of its candidates."""

    hidden = True

    def __init__(self, engine: Engine, decoding: Decoding) -> None:
        config = engine.model.config.get_text_config()
        self.engine, self.alpha, self.size = engine, decoding.penalty_alpha, config.hidden_size
        self.columns = min(decoding.top_k, config.vocab_size)

    def beside(self, rows: int, capacity: int) -> tuple[Tensor, ...]:
        states_S_C_D = torch.zeros(rows, capacity, self.size, device=self.engine.device)
        return states_S_C_D, torch.zeros(rows, self.columns, device=self.engine.device)

    def enter(self, table: Table, filled: Filled) -> None:
        """Take over the states of the contexts, and propose the first candidates."""
        assert filled.states_B_L_D is not None
        first = len(table.lines) - len(filled.logits_B_V)
        table.beside[0][first : len(table.lines), : filled.states_B_L_D.shape[1]] = filled.states_B_L_D
        self._propose(table, filled.logits_B_V, first)

    def _propose(self, table: Table, logits_B_V: Tensor, first: int) -> None:
        """The next candidates of the rows from `first` on."""
        lines = table.lines[first : first + len(logits_B_V)]
        logits_B_V = table.unrepeated(logits_B_V, [None if line is None else line.branches[0] for line in lines])
        probs_B_K, words_B_K = torch.softmax(logits_B_V.float(), dim=-1).topk(self.columns, dim=-1)
        rows = slice(first, first + len(logits_B_V))
        words_B_K = words_B_K.where(probs_B_K[:, :1].isfinite(), BROKEN)
        table.beside[1][rows], table.next[rows] = probs_B_K, words_B_K.cpu().numpy()
        if any(line is not None and word == BROKEN for line, word in zip(table.lines[rows], table.next[rows, 0], strict=True)):
            raise NotFinite
        table.next[rows].clip(min=0, out=table.next[rows])  # of holes

    def step(self, table: Table) -> None:
        """Every reply goes on with the best of its candidates."""
        count, engine = len(table.lines), self.engine
        slab = table.fit(count, int(table.used[:count].max()) + self.columns, self.columns)
        states_S_C_D, probs_S_K = table.beside
        used_B = table.used[:count].copy()
        places_B_K = used_B[:, None] + np.arange(self.columns)
        with engine.last_hidden() as caught:
            logits_B_K_V = table.feed(places_B_K)
        new_B_K_D = normalize(caught[0].to(engine.device).float(), dim=-1)
        length, used, rows_B = int(used_B.max()), engine.send(used_B), torch.arange(count, device=engine.device)
        written_B_L = torch.arange(length, device=engine.device) < used[:, None]
        best_B = contrastive_scores(probs_S_K[:count], new_B_K_D, states_S_C_D[:count, :length], written_B_L, self.alpha).argmax(-1)
        slab.pick(used, used + best_B)
        states_S_C_D[rows_B, used] = new_B_K_D[rows_B, best_B]
        words = table.next[np.arange(count), best_B.tolist()].tolist()
        # From now on all columns see the chosen token, at the place of the first candidate, and none of the others.
        table.show(places_B_K, visible=False)
        table.show(np.broadcast_to(used_B[:, None], places_B_K.shape))
        for line, word, place in zip(table.lines, words, used_B.tolist(), strict=True):
            if line is not None:
                table.write(line.branches[0], word)
                table.fed(line.branches[0], place)
        self._propose(table, logits_B_K_V[rows_B, best_B], 0)
        table.used[:count] += 1
        table.positions[:count] += 1
