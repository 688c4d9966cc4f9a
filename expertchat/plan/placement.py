"""Which part of which model goes on which GPU: whole layers, in order. Arithmetic only.

Models are chains of units (embedding, layers, norm, head). A model that fits on one GPU stays whole, and two models share a GPU only where
it must be. Whether anything fits is decided by filling the GPUs one after the other with all chains, which never gets worse by more memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations

COMFORT = 0.05  # of a GPU: more room than this is not worth cutting a model for
ROUNDS = 26


@dataclass(frozen=True)
class Unit:
    """A module that is not cut. Bytes; `moment` bytes are needed one after the other, so of a GPU's units only the largest counts."""

    owner: str  # an expert's name, third, moderator or embedder
    module: str
    weights: int = 0
    adapter: int = 0  # with its gradients and optimizer states
    cache: int = 0  # while talking: keys and values
    talk_moment: int = 0
    saved: int = 0  # while training: kept for the backward pass
    train_moment: int = 0


@dataclass
class Load:
    """What stands on one GPU. Talking and training take turns, so the larger of the two counts; so do the trainings of two models."""

    units: list[Unit] = field(default_factory=list)
    fixed: int = 0
    cache: int = 0
    talk_moment: int = 0
    train_moment: int = 0
    kept: dict[str, int] = field(default_factory=dict)  # for the backward pass, by owner

    @property
    def saved(self) -> int:
        """What is kept for the backward pass of the training that keeps most."""
        return max(self.kept.values(), default=0)

    def add(self, unit: Unit) -> None:
        self.units.append(unit)
        self.fixed += unit.weights + unit.adapter
        self.cache += unit.cache
        self.talk_moment = max(self.talk_moment, unit.talk_moment)
        self.kept[unit.owner] = self.kept.get(unit.owner, 0) + unit.saved
        self.train_moment = max(self.train_moment, unit.train_moment)

    def with_(self, unit: Unit) -> int:
        """The need once `unit` stands here too."""
        talking = self.cache + unit.cache + max(self.talk_moment, unit.talk_moment)
        training = max(self.saved, self.kept.get(unit.owner, 0) + unit.saved) + max(self.train_moment, unit.train_moment)
        return self.fixed + unit.weights + unit.adapter + max(talking, training)

    @property
    def talking(self) -> int:
        return self.fixed + self.cache + self.talk_moment

    @property
    def training(self) -> int:
        return self.fixed + self.saved + self.train_moment

    @property
    def need(self) -> int:
        return max(self.talking, self.training)


Chains = Mapping[str, Sequence[Unit]]


def fits(chains: Chains, fixed: Mapping[int, Sequence[Unit]], capacity: Sequence[int]) -> bool:
    """Whether all units have room on GPUs of `capacity` bytes; `fixed` ones stand on a GPU of their own choice."""
    return any(_fill([u for name in order for u in chains[name]], fixed, capacity) is not None for order in _orders(chains))


def place(chains: Chains, fixed: Mapping[int, Sequence[Unit]], capacity: Sequence[int]) -> list[Load]:
    """The best placement; where nothing fits, the one that exceeds the GPUs least."""
    if not chains:
        return _start(fixed, len(capacity))
    best: tuple[tuple[float, int, float], list[Load]] | None = None
    comfort = COMFORT * min(capacity, default=0)
    for groups in _groups(chains):
        for counts in _counts(len(groups), len(capacity)):
            loads = _split(groups, counts, fixed, capacity)
            slack = min((room - load.need for load, room in zip(loads, capacity, strict=True)), default=0)
            if slack >= 0:
                cut = sum(len({g for g, load in enumerate(loads) if owner in _owners(load)}) > 1 for owner in chains)
                score = (min(float(slack), comfort), -cut, float(slack))
                if best is None or score > best[0]:
                    best = (score, loads)
    if best is not None:
        return best[1]
    joined = [_level([u for name in order for u in chains[name]], fixed, capacity) for order in _orders(chains)]
    return max(joined, key=lambda loads: min(room - load.need for load, room in zip(loads, capacity, strict=True)))


def device_map(owner: str, loads: Sequence[Load]) -> dict[str, int]:
    """Module -> GPU for accelerate; the whole model as "" where it stands on one GPU, nothing where it stands on none."""
    found = {unit.module: gpu for gpu, load in enumerate(loads) for unit in load.units if unit.owner == owner}
    if len(set(found.values())) == 1:
        return {"": next(iter(found.values()))}
    if "model.embed_tokens" in found:
        found["model.rotary_emb"] = found["model.layers.0"]
        found.setdefault("lm_head", found["model.embed_tokens"])
    return found


def _owners(load: Load) -> set[str]:
    return {unit.owner for unit in load.units}


def _start(fixed: Mapping[int, Sequence[Unit]], gpus: int) -> list[Load]:
    loads = [Load() for _ in range(gpus)]
    for gpu, units in fixed.items():
        for unit in units:
            loads[gpu].add(unit)
    return loads


def _fill(chain: Sequence[Unit], fixed: Mapping[int, Sequence[Unit]], capacity: Sequence[float]) -> list[Load] | None:
    """Fill the GPUs one after the other in the order of the chain; None where something is left over."""
    loads = _start(fixed, len(capacity))
    if any(load.units and load.need > room for load, room in zip(loads, capacity, strict=True)):
        return None
    gpu = 0
    for unit in chain:
        while gpu < len(loads) and loads[gpu].with_(unit) > capacity[gpu]:
            gpu += 1
        if gpu == len(loads):
            return None
        loads[gpu].add(unit)
    return loads


def _level(chain: Sequence[Unit], fixed: Mapping[int, Sequence[Unit]], capacity: Sequence[int]) -> list[Load]:
    """Fill the GPUs so that the least free memory of any is as large as can be (negative where it does not fit)."""
    every = [*chain, *(u for units in fixed.values() for u in units)]
    low, high = -1.0 - sum(u.weights + u.adapter + u.cache + u.saved + u.talk_moment + u.train_moment for u in every), float(max(capacity))
    best = _fill(chain, fixed, [room - low for room in capacity])
    assert best is not None
    if (loads := _fill(chain, fixed, capacity)) is not None:
        low, best = 0.0, loads
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        loads = _fill(chain, fixed, [room - middle for room in capacity])
        low, high, best = (middle, high, loads) if loads is not None else (low, middle, best)
    return best


def _split(
    groups: Sequence[Sequence[Unit]], counts: Sequence[int], fixed: Mapping[int, Sequence[Unit]], capacity: Sequence[int]
) -> list[Load]:
    """Each group on as many GPUs as `counts` says, from the first on."""
    loads, start = _start(fixed, len(capacity)), 0
    for group, count in zip(groups, counts, strict=True):
        here = {gpu - start: units for gpu, units in fixed.items() if start <= gpu < start + count}
        loads[start : start + count] = _level(group, here, capacity[start : start + count])
        start += count
    return loads


def _orders(chains: Chains) -> Iterable[tuple[str, ...]]:
    return permutations(chains)


def _groups(chains: Chains) -> Iterator[list[list[Unit]]]:
    """Every order of the models, the embedder before one of them."""
    models = [name for name in chains if name != "embedder"]
    embedder = list(chains.get("embedder", ()))
    for order in permutations(models):
        for host in order if embedder else order[:1]:
            yield [[*(embedder if name == host else ()), *chains[name]] for name in order]
    if not models:
        yield [embedder]


def _counts(groups: int, gpus: int) -> Iterator[tuple[int, ...]]:
    """How many GPUs each group gets: at least one each, together at most all."""
    if groups == 0:
        yield ()
        return
    for first in range(1, gpus - groups + 2):
        for rest in _counts(groups - 1, gpus - first):
            yield (first, *rest)
