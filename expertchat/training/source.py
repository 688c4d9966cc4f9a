"""What `expertchat merge` merges: an adapter or trained weights in some folder, and the base that they are for. No torch here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expertchat.config import ConfigError
from expertchat.folder.reader import RunReader
from expertchat.training.merge_config import MergeConfig

ADAPTER, WEIGHTS = "adapter_config.json", "weights.safetensors"


@dataclass(frozen=True)
class Source:
    """What is merged: a folder with an adapter, or one with the trained weights themselves."""

    folder: Path
    base: str
    revision: str | None
    adapter: bool  # else weights.safetensors
    quantization: str = "none"  # of the base in the run that it comes from, where that is known


def find_source(config: MergeConfig) -> Source:
    """The adapter or the trained weights that `config.adapter` means, and their base. Raises ConfigError."""
    named = Path(config.adapter).expanduser()
    if not named.is_dir():
        raise ConfigError(f"adapter={config.adapter}: no such folder; name a PEFT folder, or the folder of a run or of one of its rounds")
    inside = [place for place in (named, *sorted(named.glob("adapter*"))) if (place / ADAPTER).is_file() or (place / WEIGHTS).is_file()]
    if not inside:
        whole = "; it is a whole model already" if (named / "config.json").is_file() else ""
        raise ConfigError(f"adapter={config.adapter}: holds neither {ADAPTER} nor {WEIGHTS}, nor does an adapter folder in it{whole}")
    if inside[0] != named and len(inside) > 1:
        raise ConfigError(f"adapter={config.adapter}: holds several: name one of {', '.join(str(place) for place in inside)}")
    folder = inside[0]
    if (folder / ADAPTER).is_file():
        try:
            values = json.loads((folder / ADAPTER).read_text("utf-8"))
            base, revision = values.get("base_model_name_or_path"), values.get("revision")
        except (OSError, ValueError, AttributeError) as error:
            raise ConfigError(f"adapter={config.adapter}: its {ADAPTER} cannot be read ({error}); name another round's") from None
    else:
        base = revision = None
    expert = _expert_of(folder, base)
    base, revision = (config.base, None) if config.base else (base or expert.get("path"), revision or expert.get("revision"))
    if not base:
        raise ConfigError(f"adapter={config.adapter}: does not say which model it is for; name it with base=PATH")
    return Source(folder, base, revision, (folder / ADAPTER).is_file(), str(expert.get("quantization", "none")))


def _expert_of(folder: Path, base: str | None) -> dict[str, Any]:
    """The model config of the expert that was trained, from the run that `folder` lies in; empty where it lies in none."""
    for place in list(folder.absolute().parents)[:3]:
        run = RunReader(place)
        if run.begun:
            try:
                seat = next((seat for seat in run.learners if folder.name == f"adapter_{seat}"), run.learners[0])
                expert: dict[str, Any] = run.config["experts"][seat] if "experts" in run.config else run.config[seat]
                return expert if base in (None, expert["path"]) else {}
            except (ConfigError, IndexError, KeyError, TypeError):
                return {}
    return {}
