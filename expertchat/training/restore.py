"""Going on after the last whole round, whichever loop it is of."""

from __future__ import annotations

from collections.abc import Callable

from expertchat.config import ConfigError
from expertchat.training.checkpoints import checkpoints, damage
from expertchat.training.folder import TrainingFolder
from expertchat.training.ranks import Ranks


def restore(store: TrainingFolder, ranks: Ranks, take: Callable[[int], str | None], and_then: str = "") -> None:
    """Let `take` read the newest checkpoint that can be read: it takes a round, and says why one cannot be taken.

    A damaged checkpoint is passed over, with a warning, where an older one is there; `and_then` is what follows from that. Raises
    ConfigError where none can be read.
    """
    broken = list[str]()
    for number in ranks.same(checkpoints(store.folder)):
        problem = ranks.same(damage(store.folder, number) if ranks.rank == 0 else None)
        if problem is None and not ranks.agree((problem := take(number)) is not None):
            if broken:
                store.go_back(number)
                store.notes.append(f"{'; '.join(broken)}: the run goes on from round {number}{and_then}")
            return
        broken.append(problem or f"the checkpoint of round {number} could not be read by another process")
    if broken:
        remedy = f"remove {store.folder / 'rounds'} and the run begins again with round 1, or name another run.dir"
        raise ConfigError(f"{'; '.join(broken)}: no checkpoint is whole; {remedy}")
