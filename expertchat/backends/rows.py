"""Rows that decode together: requests join when there is room, leave when they are done, and the batch stays full.

A line is a row of the slab. It holds one reply, or several that share a beginning (candidates of one history, ratings after one
analysis): their common context stands there once, and each is a branch with tokens of its own.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from expertchat.backends.base import Completion, Decoding, GenerateRequest
from expertchat.backends.decoding import BROKEN, NotFinite, choose
from expertchat.backends.engine import Engine, Filled
from expertchat.backends.kept import Context
from expertchat.backends.lines import Branch, Line, even_batches, first_of, grouped
from expertchat.backends.slab import Slab
from expertchat.backends.streaming import Row
from expertchat.backends.unloadable import out_of_memory
from expertchat.config import ConfigError

SECONDS = 0.25  # of steps between two looks of the scheduler
STREAM_SECONDS = 0.125  # texts are announced at most so often, and less often where there are many
STREAM_ROW = 0.01  # seconds more for each row
JOIN = 8  # new requests wait until they are at least 1 / JOIN of the running ones: a small prefill costs a step of all
AHEAD = 64  # tokens of a reply that a CPU makes room for at first

OnText = Callable[[str], None]
Begin = Callable[[GenerateRequest], tuple[list[int], Row, Sequence[float]]]
"""What a request begins with: the tokens of its prompt, its empty reply, and a number in [0, 1) for each new token."""
MEMORY_ERRORS = (torch.OutOfMemoryError, MemoryError, RuntimeError)  # the CPU's allocator raises a RuntimeError


class BranchLane:
    """Greedy or sampled rows of one decoding.

    `begin` reads a request. `rows` says how many branches may run at once and is asked at every step; `shrink` is told when memory ran out
    and lowers it, or raises. `broken` is the message where the model's logits are not finite.
    """

    continuous = True
    hidden = False  # whether the last hidden states of the context are needed
    alone = False  # whether each branch has a line to itself

    def __init__(
        self,
        engine: Engine,
        decoding: Decoding,
        end_ids: Sequence[int],
        begin: Begin,
        rows: Callable[[], int],
        shrink: Callable[[int, Exception], None],
        broken: str = "the model's logits are not finite",
    ) -> None:
        self.engine, self.decoding, self.end_ids = engine, decoding, frozenset(end_ids)
        self.begin, self.rows, self.shrink, self.broken = begin, rows, shrink, broken
        self.waiting: deque[Branch] = deque()
        self._tickets = itertools.count()
        self._announced = 0.0
        self._early: list[Branch] = []  # done before memory ran out in the same step
        self._clear()

    # -- what the scheduler sees ------------------------------------------------------------------------------------

    @property
    def load(self) -> int:
        return self.running + len(self.waiting)

    def add(self, request: GenerateRequest, on_text: OnText | None = None) -> int:
        """Take a request; returns its ticket. Raises ConfigError if its prompt does not fit."""
        ids, row, noise = self.begin(request)
        ticket = next(self._tickets)
        self.waiting.append(Branch(ticket, request, ids, row, noise, on_text, began=time.perf_counter()))
        return ticket

    @torch.inference_mode()
    def advance(self) -> list[tuple[int, Completion]]:
        """Steps until a request is done or a short while has passed; the finished ones by ticket. Raises ConfigError on broken logits."""
        done: list[Branch] = []
        began = time.monotonic()
        while self.load and not done:
            try:
                done += self._admit()
                if self.running:
                    done += self._step()
            except NotFinite:
                raise ConfigError(self.broken) from None
            except MEMORY_ERRORS as error:
                self._give_way(error)
            now = time.monotonic()
            if now - self._announced >= STREAM_SECONDS + STREAM_ROW * self.running:
                self._announced = now
                self._announce()
            if now - began >= SECONDS:
                break
        done, self._early = [*self._early, *done], []
        return [(branch.ticket, self._completion(branch)) for branch in done]

    def close(self) -> None:
        self.waiting.clear()
        self._clear()

    def _announce(self) -> None:
        for line in self.lines:
            for branch in line.branches if line is not None else ():
                if branch.on_text is not None:
                    branch.announce()

    def _completion(self, branch: Branch) -> Completion:
        branch.announce(last=True)
        return branch.row.completion(branch.ids[: -branch.row.tokens or None], time.perf_counter() - branch.began)

    def _give_way(self, error: Exception) -> None:
        """Out of memory: fewer rows from now on; those that ran wait again with what they have written. Raises what else went wrong."""
        if not out_of_memory(error):
            raise error
        running = [branch for line in self.lines if line is not None for branch in line.branches]
        self.waiting.extendleft(sorted(running, key=lambda branch: -branch.ticket))
        self._clear()
        self.engine.free()
        self.shrink(min(self.rows(), self.load), error)

    # -- joining ----------------------------------------------------------------------------------------------------

    def _admit(self) -> list[Branch]:
        """Let waiting requests join; returns those that are done with their first token."""
        running = self.running
        free = self.rows() - running
        if free <= 0 or not self.waiting or len(self.waiting) * JOIN < running:
            return []
        wave = [self.waiting.popleft() for _ in range(min(free, len(self.waiting)))]
        done: list[Branch] = []
        try:
            left = grouped(wave, self.alone)
            while left:
                now, left = first_of(left, self._new_tokens)
                for batch in even_batches(now, self._new_tokens):
                    done += self._join(batch)
        except MEMORY_ERRORS:
            joined = {branch.ticket for line in self.lines if line is not None for branch in line.branches}
            back = [branch for branch in wave if branch.ticket not in joined and branch.row.finish is None]
            self.waiting.extendleft(reversed(back))
            self._early += done
            raise
        return done

    def _new_tokens(self, line: Line) -> int:
        return self.engine.new_tokens(line.context, self.hidden)

    def _join(self, lines: Sequence[Line]) -> list[Branch]:
        """Compute the contexts of `lines` in rows after the others; returns the branches that are done with their first token."""
        self._close_holes(all_of_them=True)
        first = len(self.lines)
        width = max(self.width, *(self._width(line) for line in lines))
        ahead = max(branch.row.limit for line in lines for branch in line.branches)
        if self.engine.device.type != "cuda":  # there growing later would need the memory twice
            ahead = min(AHEAD, ahead)
        self._fit(first + len(lines), max(line.shared for line in lines) + width * (ahead + 1), width)
        assert self.slab is not None
        filled = self.engine.prefill(self.slab, first, [line.context for line in lines], self.hidden)
        for line in lines:
            self.used[len(self.lines)] = line.shared
            self.lines.append(line)
            self.running += len(line.branches)
            for branch in line.branches:
                branch.fed, branch.places = line.shared, []
        self._entered(filled, first)
        for row in range(first, len(self.lines)):
            self._lay(row)
        return self._leave()

    def _width(self, line: Line) -> int:
        """How many tokens a line is fed in a step."""
        return len(line.branches)

    def _entered(self, filled: Filled, first: int) -> None:
        """Write the first token of each branch whose whole prompt is the context: the prefill gave its probabilities."""
        lines = self.lines[first:]
        ready = [(i, branch) for i, line in enumerate(lines) if line for branch in line.branches if len(branch.ids) == line.shared]
        if not ready:
            return
        picked = torch.tensor([i for i, _ in ready], device=self.engine.device)
        words = choose(filled.logits_B_V[picked], self.decoding, self._noise([branch for _, branch in ready])).tolist()
        for (_, branch), word in zip(ready, words, strict=True):
            self._write(branch, word)

    def _noise(self, branches: Sequence[Branch | None]) -> Tensor:
        if self.decoding.method != "sampling":
            return torch.empty(0)
        numbers = [0.0 if branch is None else branch.noise[branch.row.tokens] for branch in branches]
        exact = torch.float32 if self.engine.device.type == "mps" else torch.float64
        return torch.tensor(numbers, dtype=exact).to(self.engine.device, non_blocking=True)

    def _write(self, branch: Branch, word: int) -> None:
        if word == BROKEN:
            raise NotFinite
        branch.ids.append(word)
        branch.row.add(word, word in self.end_ids)
        self.engine.counts.decoded += 1

    # -- a step -----------------------------------------------------------------------------------------------------

    def _step(self) -> list[Branch]:
        """Feed every branch its next token; returns those that are done."""
        count, width = len(self.lines), self.width
        self._fit(count, int(self.used[:count].max()) + width, width)
        places_B_T = self.used[:count, None] + np.arange(width)
        logits_B_T_V = self._pass(places_B_T)
        slots = [line.branches[t] if line is not None and t < len(line.branches) else None for line in self.lines for t in range(width)]
        words = choose(logits_B_T_V.flatten(0, 1), self.decoding, self._noise(slots)).tolist()
        self.used[:count] += width
        self.positions[:count] += 1
        for slot, (branch, word) in enumerate(zip(slots, words, strict=True)):
            if branch is None:
                continue
            row, t = divmod(slot, width)
            branch.places.append(int(places_B_T[row, t]))
            branch.fed += 1
            if branch.fed == len(branch.ids):
                self._write(branch, word)
            self.next[row, t] = branch.ids[branch.fed]
        return self._leave()

    def _pass(self, places_B_T: np.ndarray) -> Tensor:
        """Feed the next tokens, which are written to `places_B_T` and see these; logits [B, T, V]."""
        assert self.slab is not None
        count, width = places_B_T.shape
        slots = np.arange(count)[:, None] * width + np.arange(width)
        seen = self.engine.send((slots * self.mask.shape[3] + places_B_T).ravel())
        self.mask.view(-1).index_fill_(0, seen, 0.0)
        length = int(places_B_T.max()) + 1
        mask = self.mask[:count, :, :, :length]
        return self.engine.forward(self.slab, self.next[:count], self.positions[:count], places_B_T, mask, width)

    # -- leaving ----------------------------------------------------------------------------------------------------

    def _leave(self) -> list[Branch]:
        """Take the branches that are done out of their lines; empty lines become holes, and many holes are closed."""
        done: list[Branch] = []
        for row, line in enumerate(self.lines):
            if line is None:
                self.used[row] = 0
                continue
            gone = [branch for branch in line.branches if branch.row.finish is not None]
            if not gone:
                continue
            done += gone
            if len(gone) == len(line.branches):
                self._keep(row, line)
                self.lines[row] = None
            else:
                line.branches = [branch for branch in line.branches if branch.row.finish is None]
                self._lay(row)
        if done:
            self.running -= len(done)
            self._close_holes()
        return done

    def _keep(self, row: int, line: Line) -> None:
        """Keep the dialogue of a line with one reply, for the next turn; the shared context of others is kept already."""
        branch = line.branches[0]
        if len(line.branches) == 1 and branch.places == list(range(line.shared, branch.fed)):
            assert self.slab is not None
            self.engine.keep(Context(branch.ids[: branch.fed], branch.request.key), self.slab, row, self._states(row))

    def _states(self, row: int) -> Tensor | None:
        return None

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
        width = max((self._width(line) for line in self.lines if line is not None), default=self.width)
        if width < self.width:
            self._draw_up(width)

    def _move(self, row: int, hole: int) -> None:
        assert self.slab is not None
        self.slab.copy(hole, row, int(self.used[row]))
        self.lines[hole], self.lines[row] = self.lines[row], None
        self.used[hole] = self.used[row]
        self._lay(hole)

    # -- where everything stands ------------------------------------------------------------------------------------

    def _clear(self) -> None:
        self.lines: list[Line | None] = []  # None: a hole
        self.slab: Slab | None = None
        self.width = 1
        self.running = 0  # branches
        self.used = np.zeros(0, dtype=np.int64)  # places of each row that are written
        self.engine.noted(None, self)

    def _fit(self, rows: int, capacity: int, width: int) -> None:
        """Room for so many rows, tokens, and tokens a step."""
        if self.slab is None:
            self.slab = self.engine.slab(rows, capacity)
        elif not self.slab.fit(rows, capacity) and width == self.width:
            return
        self.used = np.concatenate([self.used, np.zeros(self.slab.rows - len(self.used), dtype=np.int64)])
        self._draw_up(width)

    def _draw_up(self, width: int) -> None:
        """Tables for all rows of the slab: next tokens, their positions, and what each may see."""
        assert self.slab is not None
        self.engine.noted(self.slab, self)
        self.width = width
        self.mask = torch.full(
            (self.slab.rows, 1, width, self.slab.capacity), float("-inf"), dtype=self.engine.model.dtype, device=self.engine.device
        )
        self.next, self.positions = (np.zeros((self.slab.rows, width), dtype=np.int64) for _ in range(2))
        for row in range(len(self.lines)):
            self._lay(row)

    def _lay(self, row: int) -> None:
        """Enter a line into the tables."""
        line = self.lines[row]
        if line is None:
            return
        self.mask[row] = float("-inf")
        self.mask[row, :, :, : line.shared] = 0.0
        for t, branch in enumerate(line.branches):
            if branch.fed < len(branch.ids):
                self.next[row, t], self.positions[row, t] = branch.ids[branch.fed], branch.fed
            if branch.places:
                self.mask[row, 0, t, branch.places] = 0.0
