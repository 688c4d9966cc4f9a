"""Who cannot be trained as a config says, and layers that a model has not: known from headers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from expertchat.backends.loading import Wanted
from expertchat.command import check_models as models
from expertchat.command.checks import Problems, told
from expertchat.config import ModelConfig
from expertchat.experts.registry import family_class
from expertchat.talk.cast import what_is_loaded
from expertchat.training.config import learner_problems


def learners(config: Any, found: models.Found) -> Problems:
    """The problems of every expert that shall learn. `found`: the folders of the models that are here."""
    train, experts = config.train, dict(config.experts.items())
    loaded = {seat: what_is_loaded(Wanted(model)) for seat, model in experts.items()}
    scripted = [seat for seat in config.trained if experts[seat].backend != "local"]
    yield from learner_problems(config, scripted, loaded)
    if train.sharding == "fsdp":
        others = {name: model for name in ("third", "moderator") if (model := getattr(config, name, None)) is not None}
        for key, model in [*((f"experts.{seat}", one) for seat, one in experts.items()), *others.items()]:
            if model.trained:
                yield (
                    f"{key}.trained={model.trained}: cannot be spread over processes (train.sharding=fsdp): merge it once "
                    f"(expertchat merge adapter={model.trained} out=FOLDER), and name FOLDER as {key}.path"
                )
    for seat in config.trained:
        model = experts[seat]
        if seat in scripted:
            continue
        yield from models.learning_on_problems(f"experts.{seat}", model)
        if train.method == "lora":
            if seat in found:
                yield from target_problems(f"the model of expert {seat}", train.targets, model, found[seat])
            continue
        kind = f"train.method={train.method}: the model of expert {seat} must be plain fp32 weights, for in others small steps get lost"
        if model.quantization in ("nf4", "int8"):
            yield f"{kind}; set experts.{seat}.quantization=none (not {model.quantization}), or train=lora"
        if model.dtype in ("bf16", "fp16"):
            yield f"{kind}; set experts.{seat}.dtype=fp32 (not {model.dtype}), or train=lora"


def target_problems(whose: str, wanted: list[str], model: ModelConfig, folder: Path) -> Problems:
    """Layers for adapters that a model has not; `whose` names it."""
    there = models.linear_names(folder, model.quantization)
    if there is None or told(family_class, model.family):
        return
    names = wanted or list(family_class(model.family).family.lora_targets)
    lacking = [name for name in names if name not in there]
    if (wanted and lacking) or len(lacking) == len(names):
        known = ", ".join(sorted(there))
        yield f"train.targets: {whose} has no linear layers named {', '.join(lacking)}; there are {known}"
