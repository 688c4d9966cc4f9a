"""Who learns: a model with the weights that are trained, as the policy that talks and as the base; and all learners of a run."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from expertchat.backends.adapters import Adapters, usual_targets
from expertchat.backends.local import LocalBackend
from expertchat.config import ConfigError, ModelConfig
from expertchat.experts.registry import family_class
from expertchat.folder.writing import WriteError, saving
from expertchat.records import Speaker
from expertchat.talk.cast import Cast
from expertchat.training.config import OnlineConfig, UpdateConfig, learner_problems
from expertchat.training.offline_config import SEAT
from expertchat.training.ranks import Ranks
from expertchat.training.sharding import shard
from expertchat.training.steady import check_finite

LAYER = re.compile(r"\.(?:layers?|h|blocks)\.(\d+)\.")  # of a parameter's name: the number of its layer
WEIGHTS = "weights.safetensors"  # of a checkpoint without an adapter: the trained weights by their names


class Learner:
    """The trained weights of one expert. `policy` speaks with them, `base` without.

    `version` counts the updates. `notes` say what was chosen automatically.
    """

    policy: LocalBackend
    base: LocalBackend

    def __init__(self, seat: Speaker, backend: LocalBackend, config: UpdateConfig) -> None:
        self.seat, self.backend, self.config = seat, backend, config
        self.version = 0
        self.changes = 0  # of its weights: updates, and weights that were taken over
        self.notes: list[str] = []

    @property
    def tokenizer(self) -> Any:
        return self.backend.tokenizer

    @property
    def who(self) -> str:
        """Who learns, in messages."""
        return "the model" if self.seat == SEAT else f"expert {self.seat}"

    @property
    def its_model(self) -> str:
        """What it trains, in messages."""
        return self.who if self.seat == SEAT else f"the model of {self.who}"

    @property
    def key(self) -> str:
        """Where its model stands in the config."""
        return SEAT if self.seat == SEAT else f"experts.{self.seat}"

    def model(self) -> Any:
        """What TRL trains, its trainable weights switched on."""
        raise NotImplementedError

    def reference(self) -> Any:
        """The frozen model that TRL compares with; None: the adapters off."""
        return None

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained weights by name."""
        raise NotImplementedError

    @contextlib.contextmanager
    def training(self) -> Iterator[Any]:
        """The model for an update; afterwards it speaks again, and what was computed with the old weights is forgotten."""
        try:
            yield self.model()
        finally:
            self.backend.model.eval()
            self.refresh()

    def refresh(self) -> None:
        self.changes += 1
        self.policy.refresh()
        if self.policy.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def save(self, folder: Path) -> None:
        """Write the trained weights as a folder. Raises ConfigError where one of them is not finite."""
        raise NotImplementedError

    def load(self, folder: Path) -> None:
        """Take over weights that `save` wrote. Raises ConfigError."""
        raise NotImplementedError


class LoraLearner(Learner):
    """An adapter on a frozen base (QLoRA where that is quantised). The base is the policy with the adapter off: no second copy."""

    def __init__(
        self, seat: Speaker, backend: LocalBackend, config: UpdateConfig, targets: Sequence[str], adapters: Adapters, path: str, seed: int,
        revision: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(seat, backend, config)
        self.adapters, self.name = adapters, f"expert_{seat}"
        usual = usual_targets(backend.model, targets)
        lacking = adapters.attach(
            self.name, config.targets or usual, r=config.rank, alpha=config.alpha, dropout=config.dropout, seed=seed, path=path,
            revision=revision,
        )  # fmt: skip
        if config.targets and lacking:
            raise ConfigError(f"train.targets: {self.its_model} has no linear layers named {', '.join(lacking)}; leave them out")
        self.policy = backend.voice(partial(adapters.use, self.name))
        self.base = backend.voice(partial(adapters.use, None))
        size = sum(p.numel() for p in self.parameters().values())
        self.notes.append(f"{self.who} learns {size / 1e6:.2f} million LoRA weights (rank {config.rank})")
        if not config.targets and set(usual) != set(targets):
            here, absent = ", ".join(usual), ", ".join(sorted(set(targets) - set(usual)))
            self.notes.append(f"{self.who}: LoRA on {here}, which its model has in the place of {absent} (train.targets names others)")

    def model(self) -> Any:
        self.adapters.use(self.name)
        return self.adapters.model

    def parameters(self) -> dict[str, nn.Parameter]:
        return self.adapters.parameters(self.name)

    def save(self, folder: Path) -> None:
        check_finite(self.parameters(), self.who)
        self.adapters.save(self.name, folder)

    def load(self, folder: Path) -> None:
        self.adapters.restore(self.name, folder)
        self.refresh()


class WeightLearner(Learner):
    """All weights, or those of the last layer. The reference is a copy that shares every weight that stays as it is.

    `compared` False: no method asks for a reference, so none is kept, and `base` is what the policy was before its first update.
    """

    def __init__(self, seat: Speaker, backend: LocalBackend, config: UpdateConfig, compared: bool = True) -> None:
        super().__init__(seat, backend, config)
        model = backend.model
        found = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})
        if getattr(model, "quantization_method", None) or found != ["float32"]:
            raise ConfigError(  # a bf16 weight has 8 bits: a step of less than 1/256 of it is rounded away
                f"train.method={config.method} needs {self.its_model} in fp32, and it is in {', '.join(found)}, in which small "
                f"steps get lost: set {self.key}.dtype=fp32 and {self.key}.quantization=none, or use train=lora, whose adapters "
                "are fp32"
            )
        layers = {n: int(match[1]) for n, _ in model.named_parameters() if (match := LAYER.search(n))}
        last = max(layers.values(), default=None)
        if config.method == "last_layer" and last is None:
            raise ConfigError(f"train.method=last_layer: {self.its_model} has no numbered layers ({type(model).__name__}); use train=lora")
        self._names = [n for n, _ in model.named_parameters() if config.method == "full" or layers.get(n) == last]
        chosen = set(self._names)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in chosen)
        frozen = {id(p): p for n, p in model.named_parameters() if n not in chosen}
        self._reference = deepcopy(model, frozen).requires_grad_(False).eval() if compared else None
        self.policy = backend
        self.base = backend.over(self._reference) if compared else backend
        size = sum(p.numel() for p in self.parameters().values())
        which = f": those of layer {last}, {_shown(self._names)}" if config.method == "last_layer" else ""
        self.notes.append(f"{self.who} learns {size / 1e6:.2f} million of its own weights ({config.method}{which})")

    def model(self) -> Any:
        for parameter in self.parameters().values():
            parameter.requires_grad_(True)
        return self.backend.model

    def reference(self) -> Any:
        return self._reference

    def parameters(self) -> dict[str, nn.Parameter]:
        return {name: self.backend.model.get_parameter(name) for name in self._names}

    def save(self, folder: Path) -> None:
        check_finite(self.parameters(), self.who)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: p.detach().cpu().contiguous().clone() for name, p in self.parameters().items()}
        new = folder / f"{WEIGHTS}.new"
        try:
            with saving(folder / WEIGHTS):
                save_file(tensors, new, metadata={"format": "pt"})
                os.replace(new, folder / WEIGHTS)
        except WriteError:
            new.unlink(missing_ok=True)
            raise

    def load(self, folder: Path) -> None:
        try:
            tensors: dict[str, Tensor] = load_file(folder / WEIGHTS)
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{folder / WEIGHTS} is damaged or missing ({str(error).splitlines()[0]})") from None
        mine = self.parameters()
        if tensors.keys() != mine.keys() or any(tensors[name].shape != mine[name].shape for name in mine):
            raise ConfigError(f"{folder / WEIGHTS} is not of this model or of another train.method; name another run.dir")
        with torch.no_grad():
            for name, parameter in mine.items():
                parameter.copy_(tensors[name])
        self.refresh()


def _shown(names: Sequence[str]) -> str:
    """The tensors of a layer by what comes after its number: "self_attn.q_proj, mlp.up_proj, ..."."""
    return ", ".join(LAYER.split(name, maxsplit=1)[-1].removesuffix(".weight") for name in names)


# -- all of a run ---------------------------------------------------------------------------------------------------------


@dataclass
class Learners:
    """The learners by seat (one for all seats with learner=one) and the backends by the scheduler's names."""

    by_seat: dict[Speaker, Learner]
    one: bool = False  # one policy plays all
    backends: dict[str, Any] = field(default_factory=dict)
    sharded: list[Any] = field(default_factory=list)  # the models that the processes hold in parts
    publish: Callable[[Path], None] = lambda folder: None  # let the servers that learners talk through follow their weights

    def of_round(self, number: int) -> tuple[Learner, tuple[Speaker, ...]]:
        """Who is updated in a round (counted from 1), and at whose turns candidates are sampled."""
        seats = tuple(self.by_seat)
        if self.one:
            return self.by_seat[seats[0]], seats
        seat = seats[(number - 1) % len(seats)]
        return self.by_seat[seat], (seat,)

    def free(self) -> None:
        """Give up the keys and values that any of the models keeps: an update needs the memory, the next round has other dialogues."""
        for backend in {id(one): one for one in self.backends.values() if isinstance(one, LocalBackend)}.values():
            backend.refresh()

    @property
    def all(self) -> list[Learner]:
        """Each learner once."""
        return list({id(learner): learner for learner in self.by_seat.values()}.values())

    def versions(self) -> dict[Speaker, int]:
        return {seat: learner.version for seat, learner in self.by_seat.items()}


def make_learners(config: OnlineConfig, cast: Cast, ranks: Ranks) -> Learners:
    """Attach what is trained to the cast's models; with train.sharding=fsdp each process keeps its part of them.

    Raises ConfigError where a model cannot be trained so.
    """
    scripted = [seat for seat in config.trained if not isinstance(cast.backends[seat], LocalBackend)]
    if problems := learner_problems(config, scripted, {seat: id(cast.backends[seat]) for seat in cast.seats}):
        raise ConfigError(problems)
    sharded = []
    for backend in {id(b): b for b in cast.backends.values() if isinstance(b, LocalBackend)}.values():
        if config.train.sharding == "fsdp":
            shard(backend.model, ranks)
            backend.moved()
            sharded.append(backend.model)
    adapters: dict[int, Adapters] = {}
    made = {seat: _learner(config, cast, seat, adapters) for seat in config.learners}
    one = config.learner == "one"
    by_seat = dict.fromkeys(config.trained, made[config.learners[0]]) if one else made
    return Learners(by_seat, one, _backends(cast, by_seat), sharded)


def _learner(config: OnlineConfig, cast: Cast, seat: Speaker, adapters: dict[int, Adapters]) -> Learner:
    backend = cast.backends[seat]
    if config.train.method != "lora":
        return WeightLearner(seat, backend, config.train)
    model = config.experts[seat]
    shared = adapters.setdefault(id(backend), Adapters(backend.model))
    targets = cast.experts[seat].family.lora_targets
    return LoraLearner(seat, backend, config.train, targets, shared, model.path, config.run.seed, model.revision)


def one_learner(model: ModelConfig, backend: LocalBackend, train: UpdateConfig, seed: int, compared: bool) -> Learner:
    """The learner of a model that learns alone, from rows. `compared`: whether its base is asked for after the first update.

    Raises ConfigError where it cannot be trained so.
    """
    if train.method != "lora":
        return WeightLearner(SEAT, backend, train, compared)
    targets = family_class(model.family).family.lora_targets
    return LoraLearner(SEAT, backend, train, targets, Adapters(backend.model), model.path, seed, model.revision)


def _backends(cast: Cast, learners: Mapping[Speaker, Learner]) -> dict[str, Any]:
    """An expert that does not learn speaks as its base does, and so do a third model and a moderator; where one of them shares a learner's
    model, with the adapters off."""
    bases = {id(cast.backends[seat]): learner.base for seat, learner in learners.items()}
    untrained = {name: bases.get(id(backend), backend) for name, backend in cast.backends.items()}
    found = {name: backend for name, backend in untrained.items() if name not in cast.seats}
    for seat in cast.seats:
        found[f"base_{seat}"] = untrained[seat]
        found[seat] = learners[seat].policy if seat in learners else untrained[seat]
    return found
