"""Rows that decode together: requests join when there is room, leave when they are done, and the batch stays full.

A line is a row of the slab. It holds one reply, or several that share a beginning (candidates of one history, ratings after one
analysis): their common context stands there once, and each is a branch with tokens of its own.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import torch

from expertchat.backends.base import Completion, Decoding, GenerateRequest
from expertchat.backends.contrastive import Contrastive
from expertchat.backends.decoding import NotFinite
from expertchat.backends.drawing import Drawing
from expertchat.backends.engine import Engine
from expertchat.backends.lines import Branch, Line, even_batches, first_of, grouped
from expertchat.backends.streaming import Row
from expertchat.backends.table import Table
from expertchat.backends.unloadable import out_of_memory
from expertchat.config import ConfigError

SECONDS = 0.25  # of steps between two looks of the scheduler
STREAM_SECONDS = 0.125  # texts are announced at most so often, and less often where there are many
STREAM_ROW = 0.01  # seconds more for each row
JOIN = 8  # new requests wait until they are at least 1 / JOIN of the running ones: a small prefill costs a step of all
PATIENCE = 16  # steps that they wait at most
SHORT = 16  # tokens: who writes no more is let in before the others
AHEAD = 64  # tokens of a reply that a CPU makes room for at first

OnText = Callable[[str], None]
Begin = Callable[[GenerateRequest], tuple[list[int], Row, Sequence[float]]]
"""What a request begins with: the tokens of its prompt, its empty reply, and a number in [0, 1) for each new token."""
MEMORY_ERRORS = (torch.OutOfMemoryError, MemoryError, RuntimeError)  # the CPU's allocator raises a RuntimeError


def alike(decoding: Decoding) -> Hashable:
    """Equal for decodings whose branches may stand in one table: all draw from one token's probabilities, or weigh equal candidates."""
    return replace(decoding, max_new_tokens=0, no_repeat_ngram=0, stop=()) if decoding.method == "contrastive" else "drawn"


class BranchLane:
    """Rows of decodings that are alike: a queue before a Table, whose Search chooses the tokens. Lines of several branches have a table of
    their own: in a step every row of a table is fed as many tokens as its widest one.

    `begin` reads a request. `rows` says how many branches may run at once and is asked at every step; `shrink` is told when memory ran out
    and lowers it, or raises. `broken` is the message where the model's logits are not finite.
    """

    continuous = True

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
        self.engine, self.begin, self.rows, self.shrink, self.broken = engine, begin, rows, shrink, broken
        self.search = Contrastive(engine, decoding) if decoding.method == "contrastive" else Drawing(engine)
        self.single, self.wide = (Table(engine, self.search, frozenset(end_ids)) for _ in range(2))
        self.tables = (self.single, self.wide)
        self._waited = 0  # steps since somebody waits
        self.waiting: deque[Branch] = deque()
        self._tickets = itertools.count()
        self._announced = 0.0

    # -- what the scheduler sees ------------------------------------------------------------------------------------

    @property
    def load(self) -> int:
        return self.running + len(self.waiting)

    @property
    def running(self) -> int:
        """Branches that run."""
        return sum(table.running for table in self.tables)

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
                with self.engine.counts.phase("prefill"):
                    self._admit(done)
                for table in self.tables:
                    if table.running:
                        with self.engine.counts.phase("decode"):
                            self.search.step(table)
                            table.leave(done)
            except NotFinite:
                raise ConfigError(self.broken) from None
            except MEMORY_ERRORS as error:
                self._give_way(error, done)
            now = time.monotonic()
            if now - self._announced >= STREAM_SECONDS + STREAM_ROW * self.running:
                self._announced = now
                self._announce()
            if now - began >= SECONDS:
                break
        return [(branch.ticket, self._completion(branch)) for branch in done]

    def close(self) -> None:
        self.waiting.clear()
        self._clear()

    def _announce(self) -> None:
        for branch in self._branches():
            if branch.on_text is not None:
                branch.announce()

    def _clear(self) -> None:
        for table in self.tables:
            if table.slab is not None:
                table.clear()

    def _branches(self) -> list[Branch]:
        return [branch for table in self.tables for branch in table.branches]

    def _completion(self, branch: Branch) -> Completion:
        branch.announce(last=True)
        return branch.row.completion(branch.ids[: -branch.row.tokens or None], time.perf_counter() - branch.began)

    def _give_way(self, error: Exception, done: list[Branch]) -> None:
        """Out of memory: fewer rows from now on; those that ran wait again with what they have written, or go to `done` where that is
        all. Raises what else went wrong."""
        if not out_of_memory(error):
            raise error
        tried = min(self.rows(), self.load + len(done))  # those that are done ran beside the others
        branches = sorted(self._branches(), key=lambda branch: -branch.ticket)
        done += [branch for branch in branches if branch.row.finish is not None]
        self.waiting.extendleft(branch for branch in branches if branch.row.finish is None)
        self._clear()
        self.engine.budget.free()
        if self.waiting:
            self.shrink(tried, error)

    # -- joining ----------------------------------------------------------------------------------------------------

    def _admit(self, done: list[Branch]) -> None:
        """Let waiting requests join; those that are done with their first token go to `done`."""
        running = self.running
        free = self.rows() - running
        self._waited = self._waited + 1 if self.waiting else 0
        if free <= 0 or not self.waiting or (len(self.waiting) * JOIN < running and self._waited <= PATIENCE):
            return
        self._waited = 0
        wave = self._next(free)
        try:
            left = grouped(wave, alone=self.search.hidden)
            while left:
                now, left = first_of(left, self._new_tokens)
                for table in self.tables:
                    lines = [line for line in now if (len(line.branches) > 1) == (table is self.wide)]
                    for batch in even_batches(lines, self._new_tokens):
                        self._join(table, batch, done)
        except MEMORY_ERRORS:
            joined = {branch.ticket for branch in self._branches()}
            back = [branch for branch in wave if branch.ticket not in joined and branch.row.finish is None]
            self.waiting.extendleft(reversed(back))
            raise

    def _next(self, count: int) -> list[Branch]:
        """Take `count` of those that wait: short ones first, then as they came."""
        waiting = sorted(self.waiting, key=lambda branch: branch.row.limit > SHORT)
        self.waiting = deque(sorted(waiting[count:], key=lambda branch: branch.ticket))
        return waiting[:count]

    def _new_tokens(self, line: Line) -> int:
        return self.engine.new_tokens(line.context, self.search.hidden)

    def _join(self, table: Table, lines: Sequence[Line], done: list[Branch]) -> None:
        """Compute the contexts of `lines`; the branches that are done with their first token go to `done`."""
        ahead = max(branch.row.limit for line in lines for branch in line.branches)
        # Growing later would need the memory twice on a GPU.
        table.join(lines, ahead if self.engine.device.type == "cuda" else min(AHEAD, ahead), done)
