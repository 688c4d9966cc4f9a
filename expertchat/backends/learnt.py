"""What a run has trained, found: an adapter or trained weights in some folder, and the base that they are for. No torch here."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expertchat.backends.folders import find_here, header_shapes, is_hub_id, resolve_path, tensor_shapes, weights_problem
from expertchat.backends.gguf import is_gguf
from expertchat.config import ConfigError
from expertchat.folder.embedded import PREFIX, id_in, unlike
from expertchat.folder.reader import RunReader
from expertchat.text.sentences import first_line, shown_path

ADAPTER, TENSORS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors", "weights.safetensors"
DONE = "DONE"
DEEPEST = 16  # trainings on top of each other


@dataclass(frozen=True)
class Learnt:
    """Trained weights: an adapter in `folder`, or weights of the model itself.

    `base`: the model that they are for, None where nothing says it. `expert`: that model's config in the `run` that they come from; empty
    where they come from none. `below`: what that model had been trained with before. `embedded`: of an embedded model, the id of those.
    """

    folder: Path
    adapter: bool
    base: str | None
    revision: str | None = None
    expert: Mapping[str, Any] = field(default_factory=dict)
    below: Learnt | None = None
    run: Path | None = None
    embedded: str | None = None

    @property
    def layers(self) -> Iterator[Learnt]:
        """All that goes onto the base, in the order in which it was trained."""
        if self.below is not None:
            yield from self.below.layers
        yield self

    @property
    def shares(self) -> bool:
        """Whether a model that was trained so can stand on the weights of its base beside others."""
        return self.adapter and self.below is None

    @property
    def shown(self) -> str:
        """A short name: that of the run, with the round where it is not the run's last word."""
        place = self.folder.absolute()
        names = [place.name] if not place.name.startswith("adapter") else [place.name, place.parent.name]
        seat = names[0].removeprefix("adapter").removeprefix("_") if len(names) > 1 else ""
        place = place.parent if len(names) > 1 else place
        number = f" round {int(place.name)}" if place.parent.name == "rounds" and place.name.isdigit() else ""
        run = place.parent.parent.name if number else place.name
        return f"{run}{number}{f' ({seat})' if seat else ''}"


def find_learnt(word: str, depth: int = 0) -> Learnt:
    """The trained weights that a word means: a run (the adapter that it kept), one of its rounds, the folder itself.

    Raises ConfigError with one problem, which does not name the word: whoever asks says in which key it stands.
    """
    named = Path(word).expanduser()
    if not named.is_dir():
        raise ConfigError("no such folder; name a run, one of its rounds (RUN/rounds/000003), or the folder of an adapter")
    inside = [place for place in (named, *sorted(named.glob("adapter*"))) if (place / ADAPTER).is_file() or (place / WEIGHTS).is_file()]
    if not inside:
        raise ConfigError(_nothing(named))
    if inside[0] != named and len(inside) > 1:
        raise ConfigError(f"holds several: name one of {', '.join(map(str, inside))}")
    folder = inside[0]
    if problem := _unfinished(folder):
        raise ConfigError(problem)
    values = _adapter_config(folder) if (folder / ADAPTER).is_file() else None
    file = TENSORS if values is not None else WEIGHTS
    problem = weights_problem(folder / file) if (folder / file).is_file() else f"lacks {file}"
    if problem:
        raise ConfigError(f"{folder} is broken: {problem.removesuffix(': the download was cut short').partition(';')[0]}")
    base, revision = (values.get("base_model_name_or_path"), values.get("revision")) if values is not None else (None, None)
    expert, run = _expert_of(folder, base)
    base, revision = base or expert.get("path"), revision or expert.get("revision")
    embedded = None
    if base is not None and base.startswith(PREFIX):
        embedded, revision = revision or id_in(run or folder), None
    return Learnt(folder, values is not None, base, revision, expert, _below(expert, folder, depth), run, embedded)


def trained_name(word: str | None) -> str | None:
    """What a model was trained with, in short; also where its folder is not here any more."""
    if word is None:
        return None
    try:
        return find_learnt(word).shown
    except ConfigError:
        return Path(word).expanduser().name


def _nothing(named: Path) -> str:
    """Why a folder that is there holds no trained weights."""
    run = RunReader(named)
    rounds = sorted(place.parent for place in named.glob("rounds/[0-9]*/DONE"))
    if rounds:
        return f"is a run that has kept no adapter yet: name one of its rounds, as {rounds[-1]}"
    if run.makes_judge:
        return "is a run of reward_model, and what it has trained says no words: reward_model.path or a judge's reward_model.path takes it"
    if run.begun:
        return f"is a run of {run.kind or 'another kind'} that has trained no adapter (yet); name a run that has"
    if (named / "config.json").is_file():
        return f"holds neither {ADAPTER} nor {WEIGHTS}; it is a whole model already: name it as the model's path"
    return f"is no run, and holds neither {ADAPTER} nor {WEIGHTS}, nor does an adapter folder in it; name a run that has trained one"


def _unfinished(folder: Path) -> str | None:
    """What is wrong with a round's folder that was not written to its end."""
    for place in (folder, folder.parent):
        if place.absolute().parent.name == "rounds" and not (place / DONE).is_file():
            return f"{place} was not written to its end (it has no {DONE}); name another round"
    return None


def _adapter_config(folder: Path) -> dict[str, Any]:
    """What an adapter says of itself. Raises ConfigError where it is none of a language model."""
    try:
        values = json.loads((folder / ADAPTER).read_text("utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} is broken: its {ADAPTER} cannot be read ({first_line(error)})") from None
    if values.get("peft_type") != "LORA":
        raise ConfigError(f"{folder} holds an adapter of the kind {values.get('peft_type')}; only LORA is loaded")
    if values.get("task_type") == "SEQ_CLS":
        raise ConfigError(f"{folder} is a reward model, which says no words: reward_model.path takes it")
    return values


def _expert_of(folder: Path, base: str | None) -> tuple[dict[str, Any], Path | None]:
    """The config of the model that was trained, and the run that `folder` lies in; nothing where it lies in none, or is of another one."""
    for place in list(folder.absolute().parents)[:3]:
        run = RunReader(place)
        if run.begun:
            try:
                if isinstance(found := run.config.get("model"), Mapping):
                    expert = dict(found)
                else:
                    seat = next((seat for seat in run.learners if folder.name == f"adapter_{seat}"), run.learners[0])
                    expert = dict(run.config["experts"][seat])
                return (expert, place) if base in (None, expert["path"]) else ({}, None)
            except (ConfigError, IndexError, KeyError, TypeError, ValueError):
                return {}, None
    return {}, None


def _below(expert: Mapping[str, Any], folder: Path, depth: int) -> Learnt | None:
    """What the model had been trained with before."""
    word = expert.get("trained")
    if not isinstance(word, str):
        return None
    if depth >= DEEPEST:
        raise ConfigError(f"{folder}: more than {DEEPEST} trainings stand on top of each other; merge some (expertchat merge)")
    try:
        return find_learnt(word, depth + 1)
    except ConfigError as error:
        raise ConfigError(f"{folder} was trained on top of trained={word}, and that {error.problems[0]}") from None


def weights_of(
    whole: Mapping[str, str], base: Mapping[str, str], learnt: Mapping[str, Learnt | None], learning: Collection[str]
) -> dict[str, str]:
    """By seat what is loaded for it: seats with the same value share one set of weights, and speak with an adapter each.

    `whole` and `base`: what says all of a seat's model, and all but what it was trained with. Those that are trained further (`learning`),
    and those with trained weights worked into them, stand alone.
    """
    alone = {whole[seat] for seat in learning}

    def of(seat: str) -> str:
        found = learnt.get(seat)
        return base[seat] if found is not None and found.shares and alone.isdisjoint((whole[seat], base[seat])) else whole[seat]

    return {seat: of(seat) for seat in whole}


# -- does it fit? -----------------------------------------------------------------------------------------------------------


def misfit(learnt: Learnt, path: str, folder: Path | None, models_dir: str | None = None) -> str | None:
    """Why trained weights are not for the model at `path`, whose folder is `folder` (None: not here); by names and headers."""
    if learnt.base is not None and not same_model(learnt.base, path, models_dir):
        return f"was trained from {learnt.base}, not from {path}: name that model, or its merged weights (expertchat merge)"
    if path.startswith(PREFIX) and (problem := of_others(learnt)):
        return problem
    if folder is None or is_gguf(folder):
        return None
    shapes = tensor_shapes(folder)
    known = {tuple(name.removesuffix(".weight").split(".")[-4:]): shape for name, shape in shapes.items()}
    for name, shape in _own_shapes(learnt):
        there = known.get(tuple(name.split(".")[-4:]))
        if there is not None and len(there) == 2 and there[1] > 1 and shape not in (there, there[::-1]):
            sizes = f"{shape[0]} x {shape[1]} numbers, not {there[0]} x {there[1]}"
            return f"is of another model than {path}: its {name} has {sizes}"
    return None


def of_others(learnt: Learnt) -> str | None:
    """Why trained weights are not for the embedded models that the package holds now; None where they are for another base."""
    found = (unlike(layer.embedded) for layer in learnt.layers if layer.embedded is not None)
    return next((problem for problem in found if problem is not None), None)


def _own_shapes(learnt: Learnt) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(a layer of the model, its shape as the trained weights have it)."""
    shapes = header_shapes(learnt.folder / (TENSORS if learnt.adapter else WEIGHTS))
    if not learnt.adapter:
        yield from ((name.removesuffix(".weight"), shape) for name, shape in shapes.items() if len(shape) == 2 and name.endswith(".weight"))
        return
    for name, shape in shapes.items():
        other = shapes.get(name.replace(".lora_A.", ".lora_B."))
        if ".lora_A." in name and other is not None and len(shape) == len(other) == 2:
            yield name.removeprefix("base_model.model.").partition(".lora_")[0], (other[0], shape[1])


def same_model(one: str, other: str, models_dir: str | None = None) -> bool:
    """Whether two paths mean one model: the same words, the same folder, or the same name at another place (models_dir, a node's disk)."""
    if one == other or shown_path(one).rpartition("/")[2] == shown_path(other).rpartition("/")[2]:
        return True
    try:
        places = [resolve_path(path, models_dir) for path in (one, other)]
        found = [place if isinstance(place, Path) else find_here(place, models_dir=models_dir) for place in places]
    except ConfigError:
        return not is_hub_id(one, models_dir) and not one.startswith("embedded:") and not Path(one).expanduser().exists()  # it was moved
    return None not in found and Path(str(found[0])).resolve() == Path(str(found[1])).resolve()
