"""What was computed once is kept: keys and values of token sequences in small blocks, found again by their tokens.

Dialogues grow turn by turn, candidates share a history, a judge's questions share a transcript: each finds the longest beginning that
is there. A block is known by its tokens and by the block before it, so equal beginnings are kept once (the idea of vLLM's and SGLang's
prefix caches, arXiv 2309.06180 and 2312.07104). The least recently used blocks are given up when the budget is full, whose engine they
are of.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from expertchat.backends.budget import Budget

SIZE = 16  # tokens of a block

Read = Callable[[int, int], tuple[list[Tensor], Tensor | None]]
"""(start, stop) -> keys and values of these tokens by part, and their hidden states [tokens, D] if they are known."""


class Context(NamedTuple):
    """Tokens that a row begins with; `owner` is the key of the request."""

    ids: Sequence[int]
    owner: str = ""


@dataclass(eq=False)
class Block:
    """SIZE tokens after the block `parent` (0: the beginning). `owner` is the key of the last request that used it."""

    parent: int
    tokens: tuple[int, ...]
    kv: list[Tensor]
    hidden: Tensor | None
    owner: str
    used: int = 0  # when it was last used: see Budget.tick
    number: int = field(default_factory=itertools.count(1).__next__)

    @property
    def bytes(self) -> int:
        tensors = [*self.kv, *([] if self.hidden is None else [self.hidden])]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class Kept:
    """The blocks of one engine, within a budget that others may share."""

    def __init__(self, budget: Budget) -> None:
        self.shared, self.bytes = budget, 0
        budget.keep(self)
        self._blocks: OrderedDict[tuple[int, tuple[int, ...]], Block] = OrderedDict()  # least recently used first

    def __len__(self) -> int:
        return len(self._blocks)

    @property
    def budget(self) -> int:
        """Bytes that all who share the budget may keep."""
        return self.shared.most or 0

    @property
    def oldest(self) -> int:
        """When its least recently used block was used; there is one."""
        return next(iter(self._blocks.values())).used

    def drop_oldest(self) -> None:
        """Give up its least recently used block."""
        self._drop(next(iter(self._blocks)))

    def find(self, ids: Sequence[int], hidden: bool = False) -> list[Block]:
        """The longest chain of blocks that `ids` begins with; with `hidden`, of those that have their hidden states."""
        found: list[Block] = []
        parent = 0
        for start in range(0, len(ids) - SIZE + 1, SIZE):
            block = self._blocks.get((parent, tuple(ids[start : start + SIZE])))
            if block is None or (hidden and block.hidden is None):
                break
            found.append(block)
            parent = block.number
        return found

    def add(self, ids: Sequence[int], read: Read, owner: str = "") -> None:
        """Keep the full blocks of `ids` that are not there yet."""
        if self.budget <= 0:
            return
        chain: list[Block] = []
        parent = 0
        for start in range(0, len(ids) - SIZE + 1, SIZE):
            key = (parent, tuple(ids[start : start + SIZE]))
            block = self._blocks.get(key)
            if block is None:
                kv, hidden = read(start, start + SIZE)
                block = self._blocks[key] = Block(parent, key[1], kv, hidden, owner)
                self.bytes += block.bytes
            elif block.hidden is None:
                hidden = read(start, start + SIZE)[1]
                if hidden is not None:
                    self.bytes -= block.bytes
                    block.hidden = hidden
                    self.bytes += block.bytes
            chain.append(block)
            parent = block.number
        self.touch(chain, owner)
        self.shared.trim()

    def forget(self, owner: str) -> None:
        """Give up what was last used by requests whose key begins with `owner`.

        What others go on from stays and is theirs: without the beginning that all prompts share, nothing of theirs would be found again.
        """
        users: dict[int, str] = {}  # by the number of a block: who uses one that stands after it
        for key, block in sorted(self._blocks.items(), key=lambda item: -item[1].number):  # a block is younger than its parent
            if block.owner.startswith(owner):
                if block.number not in users:
                    self._drop(key)
                    continue
                block.owner = users[block.number]
            users[block.parent] = block.owner

    def clear(self) -> None:
        self._blocks.clear()
        self.bytes = 0

    def touch(self, chain: Sequence[Block], owner: str) -> None:
        """Note that a request uses these blocks."""
        for block in reversed(chain):  # the beginning last, so that a chain is given up from its end
            block.owner, block.used = owner, self.shared.tick()
            self._blocks.move_to_end((block.parent, block.tokens))

    def _drop(self, key: tuple[int, tuple[int, ...]]) -> None:
        self.bytes -= self._blocks.pop(key).bytes
