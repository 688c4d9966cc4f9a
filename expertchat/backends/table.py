"""Lines in the rows of a slab, and what the model's next pass needs of each: the next tokens, their positions, and what they see.

Rows of the table are rows of the slab; a line that is done leaves a hole, which a later line is moved into. How the next tokens are chosen
is a Search's affair; the table grows, moves and forgets what the search keeps beside each row.
Shapes: S rows of the slab, B those in use, T tokens of a row in a pass, C capacity, V words, D dimensions.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from expertchat.backends.decoding import BROKEN, NotFinite
from expertchat.backends.engine import Engine, Filled
from expertchat.backends.kept import Context
from expertchat.backends.lines import Branch, Line
from expertchat.backends.ngrams import without
from expertchat.backends.slab import Slab


class Search(Protocol):
    """How the rows of a table choose their next tokens."""

    hidden: bool
    """Whether next tokens are candidates, weighed by their hidden states against those of all earlier tokens. Then a line holds one branch,
    and the first of what stands beside its row is [C, D], these states."""
    columns: int
    """Tokens of a branch that are fed in a step."""

    def beside(self, rows: int, capacity: int) -> tuple[Tensor, ...]:
        """Room for what is kept beside each row: tensors whose first dimension is `rows`."""
        ...

    def enter(self, table: Table, filled: Filled) -> None:
        """Lines were filled with their contexts and stand in the last rows: write or propose their first tokens."""
        ...

    def step(self, table: Table) -> None:
        """Feed every branch its next token, and write the one that follows."""
        ...


class Table:
    """The lines that run. Whoever adds lines has made room for them with `fit`."""

    def __init__(self, engine: Engine, search: Search, end_ids: Collection[int]) -> None:
        self.engine, self.search, self.end_ids = engine, search, end_ids
        self.clear()

    def clear(self) -> None:
        """Drop every line, and free the memory."""
        self.lines: list[Line | None] = []  # None: a hole
        self.slab: Slab | None = None
        self.width = 1  # columns: tokens of a row that are fed in a step
        self.running = 0  # branches
        self.used = np.zeros(0, dtype=np.int64)  # places of each row that are written
        self.next, self.positions = (np.zeros((0, 1), dtype=np.int64) for _ in range(2))
        self.mask = torch.empty(0)  # [S, 1, T, C]
        self.beside = self.search.beside(0, 0)
        self.engine.noted(None, self)

    def unrepeated(self, logits_B_V: Tensor, branches: Sequence[Branch | None]) -> Tensor:
        """The logits after each branch, without the words that it may not repeat."""
        if not any(branch is not None and branch.request.decoding.no_repeat_ngram for branch in branches):
            return logits_B_V
        wanted = (None if branch is None or not branch.request.decoding.no_repeat_ngram else branch for branch in branches)
        return without(logits_B_V, [() if branch is None else branch.ruled_out(self.end_ids) for branch in wanted])

    @property
    def branches(self) -> list[Branch]:
        return [branch for line in self.lines if line is not None for branch in line.branches]

    def width_of(self, line: Line) -> int:
        return len(line.branches) * self.search.columns

    # -- joining ----------------------------------------------------------------------------------------------------

    def join(self, lines: Sequence[Line], ahead: int, done: list[Branch]) -> None:
        """Compute the contexts of `lines` in rows after the others, with room for `ahead` tokens of each reply; the branches that are done
        with their first token go to `done`."""
        self._close_holes(all_of_them=True)
        first = len(self.lines)
        width = max(self.width, *(self.width_of(line) for line in lines))
        # Candidates are written over those of the step before; branches stand side by side at every step.
        room = ahead + width if self.search.hidden else width * (ahead + 1)
        slab = self.fit(first + len(lines), max(line.shared for line in lines) + room, width)
        filled = self.engine.prefill(slab, first, [line.context for line in lines], self.search.hidden)
        for line in lines:
            self.used[len(self.lines)] = line.shared
            self.lines.append(line)
            self.running += len(line.branches)
            for branch in line.branches:
                branch.fed, branch.places = line.shared, []
        self.search.enter(self, filled)
        for row in range(first, len(self.lines)):
            self._lay(row)
        self.leave(done)

    # -- a step -----------------------------------------------------------------------------------------------------

    def feed(self, places_B_T: np.ndarray) -> Tensor:
        """The model's pass over the next tokens, which are written to `places_B_T` and see these; logits [B, T, V]."""
        assert self.slab is not None
        count, width = places_B_T.shape
        self.show(places_B_T)
        mask = self.mask[:count, :, :, : int(places_B_T.max()) + 1]
        return self.engine.forward(self.slab, self.next[:count], self.positions[:count], places_B_T, mask, width)

    def show(self, places_B_T: np.ndarray, visible: bool = True) -> None:
        """Let each column see the place that is named for it, or hide it."""
        count, width = places_B_T.shape
        slots = np.arange(count)[:, None] * width + np.arange(width)
        seen = self.engine.send((slots * self.mask.shape[3] + places_B_T).ravel())
        self.mask.view(-1).index_fill_(0, seen, 0.0 if visible else float("-inf"))

    def fed(self, branch: Branch, place: int) -> None:
        """Note that a branch's next token stands at `place` of its row."""
        branch.places.append(place)
        branch.fed += 1

    def write(self, branch: Branch, word: int) -> None:
        """Add a token to a reply. Raises NotFinite."""
        if word == BROKEN:
            raise NotFinite
        branch.ids.append(word)
        branch.row.add(word, word in self.end_ids)
        self.engine.counts.decoded += 1

    # -- leaving ----------------------------------------------------------------------------------------------------

    def leave(self, done: list[Branch]) -> None:
        """Move the branches that are done out of their lines to `done`; empty lines become holes, and many holes are closed.

        They have moved before anything takes memory, which may run out.
        """
        emptied: list[tuple[int, Line]] = []
        thinned: list[int] = []
        for row, line in enumerate(self.lines):
            if line is None:
                self.used[row] = 0
                continue
            gone = [branch for branch in line.branches if branch.row.finish is not None]
            if not gone:
                continue
            done += gone
            self.running -= len(gone)
            if len(gone) == len(line.branches):
                self.lines[row] = None
                emptied.append((row, line))
            else:
                line.branches = [branch for branch in line.branches if branch.row.finish is None]
                thinned.append(row)
        for row, line in emptied:
            self._keep(row, line)
        for row in thinned:
            self._lay(row)
        if emptied or thinned:
            self._close_holes()

    def _keep(self, row: int, line: Line) -> None:
        """Keep the dialogue of a line with one reply, for the next turn; the shared context of others is kept already."""
        branch = line.branches[0]
        if len(line.branches) == 1 and branch.places == list(range(line.shared, branch.fed)):
            assert self.slab is not None
            states = self.beside[0][row] if self.search.hidden else None
            self.engine.keep(Context(branch.ids[: branch.fed], branch.request.key), self.slab, row, states)

    def _close_holes(self, all_of_them: bool = False) -> None:
        """Move the last lines into the holes, when a quarter of the rows are holes, or at once; make lines narrower where they can be."""
        holes = [row for row, line in enumerate(self.lines) if line is None]
        if all_of_them or len(holes) * 4 > len(self.lines):
            for hole in holes:
                while self.lines and self.lines[-1] is None:
                    self.lines.pop()
                if hole >= len(self.lines):
                    break
                self._move(len(self.lines) - 1, hole)
        while self.lines and self.lines[-1] is None:
            self.lines.pop()
        width = max((self.width_of(line) for line in self.lines if line is not None), default=self.width)
        if width < self.width:
            self._draw_up(width)

    def _move(self, row: int, hole: int) -> None:
        assert self.slab is not None
        self.slab.copy(hole, row, int(self.used[row]))
        for tensor in self.beside:
            tensor[hole] = tensor[row]
        if self.search.hidden:
            self.next[hole] = self.next[row]
        self.lines[hole], self.lines[row] = self.lines[row], None
        self.used[hole] = self.used[row]
        self._lay(hole)

    # -- room -------------------------------------------------------------------------------------------------------

    def fit(self, rows: int, capacity: int, width: int) -> Slab:
        """Room for so many rows, tokens, and tokens a step."""
        if self.slab is None:
            self.slab = self.engine.slab(rows, capacity)
        elif not self.slab.fit(rows, capacity) and width == self.width:
            return self.slab
        self.used = np.concatenate([self.used, np.zeros(self.slab.rows - len(self.used), dtype=np.int64)])
        self._draw_up(width)
        return self.slab

    def _draw_up(self, width: int) -> None:
        """Draw up the table anew, for all rows of the slab."""
        assert self.slab is not None
        rows, capacity = self.slab.rows, self.slab.capacity
        self.engine.noted(self.slab, self)
        self.mask = torch.full((rows, 1, width, capacity), float("-inf"), dtype=self.engine.model.dtype, device=self.engine.device)
        candidates = self.next if self.search.hidden and width == self.width else np.zeros((0, width))  # which no branch's ids hold yet
        self.width = width
        self.next, self.positions = (np.zeros((rows, width), dtype=np.int64) for _ in range(2))
        self.next[: len(candidates)] = candidates
        before, self.beside = self.beside, self.search.beside(rows, capacity)
        for old, new in zip(before, self.beside, strict=True):
            new[tuple(map(slice, old.shape))] = old
        for row in range(len(self.lines)):
            self._lay(row)

    def _lay(self, row: int) -> None:
        """Enter a line: each branch sees what it shares with the others, and its own."""
        line = self.lines[row]
        if line is None:
            return
        self.mask[row] = float("-inf")
        self.mask[row, :, :, : line.shared] = 0.0
        for t, branch in enumerate(line.branches):
            own = slice(t * self.search.columns, (t + 1) * self.search.columns)
            self.positions[row, own] = branch.fed
            if branch.fed < len(branch.ids):
                self.next[row, own] = branch.ids[branch.fed]
            if branch.places:
                self.mask[row, 0, own][:, branch.places] = 0.0
