"""Talking with sharded models: every pass is made by all processes together, but each has dialogues of its own, of any length.

Before each pass all processes say which model they want next. The one that most want is run: by those that want it on their own batch, by
the others on a single token, whose answer nobody reads. Who has nothing left to ask keeps the others company until nobody has.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

from expertchat.backends.voice import bare
from expertchat.training.ranks import RankLost, Ranks
from expertchat.training.sharding import is_sharded


class Lockstep:
    """While entered, the passes of all processes through `models` (the same everywhere, in the same order) fit together.

    Of `models` only those count that are sharded, each once. It hooks into their own calls, so that whatever calls them need not know.
    Which adapter is on is each process's own affair: adapters are whole everywhere. `company` counts the passes made for others alone.
    """

    def __init__(self, ranks: Ranks, models: Sequence[Any]) -> None:
        self.ranks = ranks
        self.models = list({id(bare(model)): bare(model) for model in models if is_sharded(model)}.values())
        self.company = 0
        self._group: Any = None
        self._hooks: list[Any] = []
        self._inside = self._keeping = False

    def __enter__(self) -> Lockstep:
        if self.ranks.world > 1 and self.models:
            self._group = self._group or self.ranks.channel()
            for index, model in enumerate(self.models):
                # before FSDP's own hook, which already waits for the others
                self._hooks.append(model.register_forward_pre_hook(lambda *_, index=index: self._turn(index), prepend=True))
                self._hooks.append(model.register_forward_hook(lambda *_: self._passed()))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None and self._hooks:
                while (wanted := self._wanted(None)) is not None:
                    self._keep_company(wanted)
        finally:
            for hook in self._hooks:
                hook.remove()
            self._hooks.clear()
            self._inside = False

    def _turn(self, index: int) -> None:
        """Wait until a model is the one that is run."""
        if self._keeping:
            return
        if self._inside:
            raise RankLost(
                f"a pass of rank {self.ranks.rank} broke off among those of the others, which cannot be made good (out of memory?): lower "
                "engine.max_batch or engine.cache_gib. The run can go on from its last round"
            )
        while (wanted := self._wanted(index)) != index:
            self._keep_company(wanted)
        self._inside = True

    def _passed(self) -> None:
        if not self._keeping:
            self._inside = False

    def _wanted(self, index: int | None) -> int | None:
        """Say which model this process wants, if any; the one that most want, the first of equals. None: nobody wants any."""
        votes = torch.zeros(len(self.models), dtype=torch.int32)
        if index is not None:
            votes[index] = 1
        try:
            dist.all_reduce(votes, group=self._group)
        except RuntimeError as error:
            raise RankLost(f"rank {self.ranks.rank} lost the others while they were talking ({_first(error)})") from None
        return int(votes.argmax()) if int(votes.max()) else None

    def _keep_company(self, index: int | None) -> None:
        assert index is not None  # this process wants one itself, or has just heard that another one does
        model = self.models[index]
        self._keeping = True
        try:
            with torch.no_grad():
                model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)
        finally:
            self._keeping = False
        self.company += 1


def _first(error: Exception) -> str:
    """The first sentence of what gloo says."""
    return str(error).strip().splitlines()[0].split(". ")[0]
