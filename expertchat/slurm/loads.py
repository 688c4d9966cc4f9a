"""Which models a job loads, whatever its command: what its config names, each by its key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, RootModel

from expertchat.command.check_models import key_of
from expertchat.config import EmbedderConfig, ModelConfig, RewardModelConfig
from expertchat.judging.roles import seats_of
from expertchat.reward_models.config import BaseConfig

EMBEDDED = "embedded:"
LOADED = ("path", "quantization", "dtype")  # what makes two runs of the same models alike fast


class Named(NamedTuple):
    """A model that is not in the package. `kind`: what checks its folder."""

    key: str
    path: str
    revision: str | None
    models_dir: str | None
    kind: str  # "model", "embedder", "reward_model"


def models_of(config: Any) -> dict[str, ModelConfig]:
    """The language models of a config, by their keys; of a run's cast those that it needs."""
    if hasattr(config, "experts"):
        return {key_of(seat): model for seat, model in seats_of(config).items()}
    return dict(_inside(config, ModelConfig))


def reward_models_of(config: Any) -> dict[str, RewardModelConfig]:
    """The reward models that judge, by their keys."""
    found = dict(_inside(config, RewardModelConfig))
    asked = getattr(config, "judge_names", None)
    if asked is not None and "reward_model" not in asked:
        found.pop("reward_model", None)
    return found


def embedder_of(config: Any) -> EmbedderConfig | None:
    """The embedder, where anything is embedded."""
    found = getattr(config, "embedder", None)
    return found if isinstance(found, EmbedderConfig) and getattr(config, "embeds", True) else None


def named_by(config: Any) -> Iterator[Named]:
    """Every model that a job reads from a folder of its own, each once."""
    seen, embedded = set[str](), True
    for key, model in models_of(config).items():
        if model.backend == "local" and not model.path.startswith(EMBEDDED):
            embedded = False
            if model.path not in seen:
                seen.add(model.path)
                yield Named(f"{key}.path", model.path, model.revision, model.models_dir, "model")
    for key, base in _inside(config, BaseConfig):  # of a reward model that is trained
        if not base.path.startswith(EMBEDDED):
            yield Named(f"{key}.path", base.path, base.revision, base.models_dir, "model")
    for key, valuer in reward_models_of(config).items():
        if valuer.backend == "local" and valuer.path not in seen:
            seen.add(valuer.path)
            yield Named(f"{key}.path", valuer.path, valuer.revision, valuer.models_dir, "reward_model")
    embedder = embedder_of(config)
    if embedder is None:
        return
    path = embedder.path
    if path != "auto" or not embedded:
        from expertchat.backends.loading import embedder_path

        path, _ = embedder_path(embedder, ["real"])
    if path != "auto" and not path.startswith(EMBEDDED):
        yield Named("embedder.path", path, None, embedder.models_dir, "embedder")


def devices_of(config: Any) -> dict[str, str]:
    """The devices that a config names, by their keys."""
    found = {f"{key}.device": model.device for key, model in models_of(config).items() if model.backend == "local"}
    found |= {f"{key}.device": valuer.device for key, valuer in reward_models_of(config).items()}
    embedder = embedder_of(config)
    return found | ({"embedder.device": embedder.device} if embedder is not None else {})


def pace_of(plain: Mapping[str, Any]) -> list[Any]:
    """The models of a run's config as it was written, and how they are loaded: equal ones are alike fast."""
    if "path" in plain and ("quantization" in plain or "center" in plain):
        return [[plain.get(key) for key in LOADED]]
    return [one for value in plain.values() if isinstance(value, Mapping) for one in pace_of(value)]


def _inside(config: Any, kind: type[BaseModel], place: str = "") -> Iterator[tuple[str, Any]]:
    """All groups of a kind in a config, with their places in it."""
    if isinstance(config, kind):
        yield place, config
        return
    values: Any = config.root if isinstance(config, RootModel) else dict(config) if isinstance(config, BaseModel) else config
    for name, value in values.items() if isinstance(values, Mapping) else ():
        yield from _inside(value, kind, f"{place}.{name}".lstrip("."))
