"""An adapter with its score head worked into its base: a whole model, which transformers loads without peft."""

from __future__ import annotations

import json
from pathlib import Path

from expertchat.backends.reward_folders import FACTS
from expertchat.backends.reward_model import RewardModel
from expertchat.config import RewardModelConfig
from expertchat.folder.writing import replace
from expertchat.reward_models.config import RewardModelTraining


def merged(source: Path, target: Path, config: RewardModelTraining) -> None:
    """Write the whole model of the adapter at `source`."""
    settings = RewardModelConfig(path=str(source), models_dir=config.model.models_dir, device="cpu", dtype="fp32")
    loaded = RewardModel.load(settings)
    loaded.model.config.num_labels = 1
    loaded.model.save_pretrained(str(target), safe_serialization=True)
    loaded.tokenizer.save_pretrained(str(target))
    replace(target / FACTS, json.dumps(json.loads((source / FACTS).read_text("utf-8")), indent=2) + "\n")
