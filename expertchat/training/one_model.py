"""The model of a command that trains one: chosen, found, placed and loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expertchat.backends import threads
from expertchat.backends.loading import Wanted, find_models, load_models, trained_of
from expertchat.config import ModelConfig
from expertchat.events import Note
from expertchat.experts.registry import family_class
from expertchat.folder.run import Hub
from expertchat.plan.planner import Plan, placed
from expertchat.talk.cast import set_threads
from expertchat.training.offline_config import SEAT, OfflineConfig
from expertchat.training.room import in_main_memory, plan_one

if TYPE_CHECKING:
    from expertchat.backends.local import LocalBackend


def load_one(config: OfflineConfig, hub: Hub) -> tuple[LocalBackend, Plan | None]:
    """Load the model that learns; with the memory plan, by which others are loaded beside it.

    Raises ConfigError, where that can be known before anything is loaded.
    """
    model, notes = chosen(config)
    before = trained_of(model, SEAT) if model.trained else None
    model = model.model_copy(update={"trained": None})
    wanted = Wanted(model, family_class(model.family).family.stop)
    folders = find_models({SEAT: wanted}, hub.send)
    set_threads(config.engine.threads, [model])
    plan = plan_one(config, model)
    model, device_map = placed(model, SEAT, plan)
    wanted = wanted._replace(config=model, device_map=device_map)
    loaded: dict[str, LocalBackend] = load_models({SEAT: wanted}, folders, config.run.seed, config.engine, hub.send)  # type: ignore[assignment]
    backend = loaded[SEAT]
    if before is not None:
        from expertchat.backends.trained import merged

        backend = merged(backend, before)
        notes = [*notes, f"it learns on from what was trained in {before.folder}, which is worked into its weights in memory"]
    backend.say = lambda text: hub.send(Note(text=text, level="warning"))  # type: ignore[method-assign]
    threads.follow_for([] if config.engine.threads else [backend.model])
    hub.notes([*notes, *backend.info.notes])
    return backend, plan


def chosen(config: OfflineConfig) -> tuple[ModelConfig, list[str]]:
    """The model's config with what is left to be chosen for its training, and why it is so."""
    model, notes = config.model, []
    if config.train.method != "lora":
        found = {"dtype": "fp32", "quantization": "none"}
        if "auto" in (model.dtype, model.quantization):
            lost = "small steps get lost in half precision"
            notes.append(f"fp32: train.method={config.train.method} trains the weights themselves, and {lost}")
        model = model.model_copy(update=found)
    if config.train.sharding == "fsdp":
        model = in_main_memory(model)
    return model, notes
