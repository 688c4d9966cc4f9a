"""Where a reward model is: a folder of transformers, a run of `expertchat reward_model` or a round of it, an adapter with its score head.

A model that was trained here has reward_model.json beside its weights, which says what it reads and in which numbers. No torch here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from expertchat.backends import gguf
from expertchat.backends.folders import find_folder, find_here, folder_problem, settings_of, tensor_shapes, weights_problem
from expertchat.config import ConfigError
from expertchat.folder.embedded import PREFIX, unlike
from expertchat.text.sentences import first_line

MODEL = "model"  # in the folder of a run, and of each of its rounds
FACTS = "reward_model.json"
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TWO = "comparison"  # the kind that reads two texts at once


def find_reward_model(path: str, revision: str | None = None, models_dir: str | None = None, label: str | None = None) -> Path:
    """The checked folder of a reward model of any kind, with a `label` of any classifier; what is on the hub is fetched. Raises
    ConfigError.
    """
    return inside(find_folder(path, revision, problem_for(label), models_dir))


def problem_for(label: str | None, pairs: bool = True) -> Callable[[Path], str | None]:
    """What is asked of the folder of a model that judges: where a label is named, any classifier will do. `pairs`: whether it may be one
    that compares two texts."""
    if label is not None:
        return classifier_problem
    return any_reward_model_problem if pairs else reward_model_problem


def inside(folder: Path) -> Path:
    """The folder of the model in that of a run or a round; any other folder as it is."""
    inner = folder / MODEL
    own = (folder / "config.json").is_file() or (folder / ADAPTER).is_file()
    return folder if own or not inner.is_dir() else inner


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter with its score head, and no weights of its base."""
    return (folder / ADAPTER).is_file() and not (folder / "config.json").is_file()


def reward_model_problem(folder: Path) -> str | None:
    """What is wrong with a folder that is to give each reply a number, and what to do; or None."""
    if problem := any_reward_model_problem(folder):
        return problem
    if reads_two(inside(folder)):
        return "compares two texts, and has no number for one: let it judge pairs (expertchat judge), or train one with kind=pairwise"
    return None


def any_reward_model_problem(folder: Path) -> str | None:
    """The same for one that gives a number to a reply, or to two that it compares: a sequence classifier with one label or two."""
    if problem := classifier_problem(folder):
        return problem
    labels = labels_of(inside(folder))
    remedy = "a reward model has one, or two of which the second is the better; name the one that counts with reward_model.label=NAME"
    return None if labels in (1, 2) else f"has {labels} labels; {remedy}"


def classifier_problem(folder: Path) -> str | None:
    """The same for a sequence classifier with any number of labels."""
    if gguf.is_gguf(folder):
        return f"{folder.name} is a GGUF file, and a reward model is a folder with config.json and *.safetensors"
    place = inside(folder)
    if place == folder and (folder / "config.yaml").is_file() and not (folder / "config.json").is_file():
        return "is a run that holds no reward model (yet): let its `expertchat reward_model` come to its end, or name another"
    if is_adapter(place):
        return _adapter_problem(place)
    if problem := folder_problem(place):
        return problem
    values = settings_of(place)
    kinds = [str(one) for one in values.get("architectures") or []]
    if not any(one.endswith("ForSequenceClassification") for one in kinds):
        return f"is no sequence classifier ({', '.join(kinds) or 'its config.json names no architecture'}): name a reward model"
    if "auto_map" in values:
        return "needs code of its own (auto_map in its config.json), which is not run; name a model that transformers knows"
    return None


def _adapter_problem(folder: Path) -> str | None:
    """What is wrong with an adapter of a reward model."""
    try:
        values = json.loads((folder / ADAPTER).read_text("utf-8"))
        lora, task, base = values["peft_type"] == "LORA", values["task_type"] == "SEQ_CLS", values["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its {ADAPTER} cannot be read ({first_line(error)}): save it again"
    if not lora or not task:
        return f"its {ADAPTER} is not that of a LoRA adapter with a score head (task_type SEQ_CLS): name a reward model"
    if not (folder / ADAPTER_WEIGHTS).is_file():
        return f"holds no {ADAPTER_WEIGHTS}: save it again, as safetensors"
    if problem := weights_problem(folder / ADAPTER_WEIGHTS):
        return problem
    if base and str(base).startswith(PREFIX):
        return unlike(values.get("revision"))
    return None if base else f"its {ADAPTER} does not say which model it is for: save it again"


def base_of(folder: Path, models_dir: str | None) -> Path:
    """The folder of the model that an adapter is for. Raises ConfigError."""
    values = json.loads((folder / ADAPTER).read_text("utf-8"))
    return find_folder(str(values["base_model_name_or_path"]), values.get("revision"), models_dir=models_dir)


def facts_of(folder: Path) -> dict[str, Any]:
    """What `expertchat reward_model` has noted beside its weights; empty for any other model. Raises ConfigError where it is damaged."""
    file = folder / FACTS
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read ({first_line(error)}); name another round of its run") from None
    return values if isinstance(values, dict) else {}


def reads_two(folder: Path) -> bool:
    """Whether a model compares two texts."""
    return facts_of(folder).get("kind") == TWO


def compares(path: str, revision: str | None, models_dir: str | None) -> bool:
    """The same of a name, as far as it is on this machine; no for what is still on the hub. Raises ConfigError for what is nowhere."""
    place = find_here(path, revision, any_reward_model_problem, models_dir)
    return place is not None and reads_two(inside(place))


def labels_of(folder: Path) -> int:
    """How many labels a sequence classifier has; transformers' own default is two. An adapter's head has one."""
    if is_adapter(folder):
        return 1
    values = settings_of(folder)
    named = values.get("id2label")
    return len(named) if isinstance(named, dict) else int(values.get("num_labels") or 2)


def numbers_of(folder: Path, models_dir: str | None = None) -> int:
    """How many numbers its weights are, those of an adapter's base included."""
    total = 0
    for place in (base_of(folder, models_dir),) if is_adapter(folder) else (folder,):
        for shape in tensor_shapes(place).values():
            size = 1
            for side in shape:
                size *= side
            total += size
    return total
