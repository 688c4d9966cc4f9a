"""What ranks know together, said by each of them."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch.distributed  # noqa: F401  (before the fork)

from expertchat.config import ConfigError
from expertchat.training.ranks import LAUNCH, RankLost, Ranks


def all_of_it(items: int) -> dict[str, Any]:
    """Everything that ranks say to each other."""
    with Ranks.start("ddp", wait_seconds=60) as ranks:
        mine = ranks.mine([f"item {i}" for i in range(items)])
        return {
            "rank": ranks.rank,
            "world": ranks.world,
            "mine": mine,
            "gathered": ranks.gather(mine),
            "objects": ranks.gather(ranks.mine([{"n": i, "text": "ä" * i} for i in range(items)])),
            "same": ranks.same(f"rank {ranks.rank}"),
            "agree": [ranks.agree(False), ranks.agree(ranks.rank == 2), ranks.agree(True)],
            "mean": ranks.mean({"x": ranks.rank, "y": 1.5}),
            "again": Ranks.start("fsdp") is ranks,
            "told": [name for name in LAUNCH if name in os.environ],
            "pipeline": refused("pipeline"),
        }


def refused(sharding: Any) -> str:
    try:
        Ranks.start(sharding, ["expertchat", "online_dpo", "run.dir=a b"])
    except ConfigError as error:
        return str(error)
    return ""


def one_dies(how: str) -> str:
    """Rank 2 ends, or does not answer, when the others wait for it; what they say of it."""
    ranks = Ranks.start("ddp", wait_seconds=2)
    ranks.barrier()
    if ranks.rank == 2:
        if how == "killed":
            os.kill(os.getpid(), 9)
        import time

        time.sleep(5)
        os._exit(9)
    try:
        ranks.gather(["here"])
    except RankLost as error:
        return str(error)
    return ""


def over_torchrun() -> None:
    """The same by torchrun: `python -m torch.distributed.run ... tests/workers/meeting.py FOLDER`."""
    import json
    from pathlib import Path

    found = all_of_it(6)
    Path(sys.argv[1], f"{found['rank']}.json").write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    over_torchrun()
