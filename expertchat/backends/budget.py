"""What the engines of one device may keep there together, and how one of them gets room that the others have."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from expertchat.backends.engine import Engine
    from expertchat.backends.kept import Kept


class Budget:
    """At most `most` bytes of blocks, whoever keeps them; None: found from the free memory by the engine that first keeps something."""

    def __init__(self, most: int | None = None) -> None:
        self.most = most
        self._times = itertools.count(1)
        self._keepers: WeakSet[Kept] = WeakSet()
        self._engines: WeakSet[Engine] = WeakSet()

    def join(self, engine: Engine) -> None:
        """From now on `engine` gives way when another one has no room."""
        self._engines.add(engine)

    def keep(self, kept: Kept) -> None:
        """From now on what `kept` has counts."""
        self._keepers.add(kept)

    def tick(self) -> int:
        """The time of a use: later than all before."""
        return next(self._times)

    @property
    def bytes(self) -> int:
        """What is kept now."""
        return sum(kept.bytes for kept in self._keepers)

    def trim(self) -> None:
        """Give up the least recently used blocks of all until the others are within the budget."""
        while self.bytes > (self.most or 0):
            min((kept for kept in self._keepers if len(kept)), key=lambda kept: kept.oldest).drop_oldest()

    def free(self) -> None:
        """Memory has run out: every engine gives up everything that can be computed again."""
        for engine in list(self._engines):
            engine.free()
