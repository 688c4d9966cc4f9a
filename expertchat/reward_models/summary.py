"""What a run of `expertchat reward_model` amounts to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expertchat.folder.summary import seconds_of
from expertchat.records import Figure
from expertchat.reward_models.config import TYPES, RewardModelTraining

COIN = 0.5


def summarise(
    folder: Path, config: RewardModelTraining, best: int, figures: Mapping[str, Figure], counts: Mapping[str, int], target: str
) -> dict[str, Any]:
    """What summary.json holds: the best epoch and its figures. A model that is no better than a coin has learnt nothing."""
    summary: dict[str, Any] = {
        "schema": 1, "kind": config.kind, "base": config.path, "target": target, "epochs": config.epochs, "best": best,
        "seconds": round(seconds_of(folder), 2), **counts, "figures": dict(figures),
    }  # fmt: skip
    accuracy, coin = figures.get("accuracy"), figures.get("coin", COIN)
    if isinstance(accuracy, int | float) and isinstance(coin, int | float) and accuracy > coin:
        return summary
    does, of = ("names the type of", "texts") if config.kind == TYPES else ("orders", "pairs")
    shown = "nothing" if accuracy is None else f"{accuracy:.1%} of {figures.get('n')} {of}"
    return summary | {"status": "failed", "reason": f"it {does} {shown} of what is held out rightly, which a coin does too"}
