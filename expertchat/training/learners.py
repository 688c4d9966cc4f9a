"""From a cast to learners: who is trained in which round, and under which names the scheduler finds policy, base and judges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from expertchat.backends.adapters import Adapters
from expertchat.backends.hardware import DTYPES, choose_device, choose_dtype
from expertchat.backends.local import LocalBackend
from expertchat.config import ConfigError, ModelConfig
from expertchat.experts.registry import family_class
from expertchat.plan.memory import ATTENTION, Lora, Targets
from expertchat.plan.planner import Trained
from expertchat.records import Speaker
from expertchat.talk.cast import Cast
from expertchat.training.config import OnlineDpoConfig, learner_problems
from expertchat.training.learner import Learner, LoraLearner, WeightLearner
from expertchat.training.ranks import Ranks
from expertchat.training.sharding import shard

PROMPT = 256  # tokens of a prompt besides the turns


@dataclass
class Learners:
    """The learners by seat (one for both seats with learner=one) and the backends by the scheduler's names."""

    by_seat: dict[Speaker, Learner]
    order: str
    backends: dict[str, Any] = field(default_factory=dict)
    sharded: list[Any] = field(default_factory=list)  # the models that the processes hold in parts

    def of_round(self, number: int) -> tuple[Learner, tuple[Speaker, ...]]:
        """Who is updated in a round (counted from 1), and at whose turns candidates are sampled."""
        if self.order == "one":
            return self.by_seat["a"], ("a", "b")
        seat: Speaker = "b" if self.order == "b" or (self.order == "both" and number % 2 == 0) else "a"
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


def room_for(config: OnlineDpoConfig) -> list[Trained]:
    """What the memory plan is to leave room for: each learner's update, of the longest row that a dialogue can give."""
    train, found = config.train, []
    longest = max(model.decoding.reply.max_new_tokens for _, model in config.experts.items())
    tokens = train.max_tokens or config.conversation.turns * longest + PROMPT
    for seat in config.seats[:1] if config.learner == "one" else config.seats:
        model = config.experts[seat]
        wanted = train.targets or family_class(model.family).family.lora_targets
        targets: Targets = "attention" if train.method == "lora" and set(wanted) <= set(ATTENTION) else "all-linear"
        most = min(tokens, model.context_length or tokens)
        found.append(Trained(seat, Lora(train.rank, targets), train.micro_batch, most, train.checkpointing, train.method))
    return found


def on_cpu(config: OnlineDpoConfig) -> OnlineDpoConfig:
    """The same config, its models loaded in main memory, where they are parted among the processes; in the number type of their GPUs."""

    def moved(model: ModelConfig) -> ModelConfig:
        where = choose_device(model.device)[0]
        names = {number: name for name, number in DTYPES.items()}
        dtype = model.dtype if where == "cpu" else names[choose_dtype(model.dtype, where)[0]]
        return model.model_copy(update={"device": "cpu", "dtype": dtype})

    seats = {seat: moved(model) for seat, model in config.experts.items()}
    third = None if config.third is None else moved(config.third)
    return config.model_copy(update={"experts": config.experts.having(**seats), "third": third})


def make_learners(config: OnlineDpoConfig, cast: Cast, ranks: Ranks) -> Learners:
    """Attach what is trained to the cast's models; with train.sharding=fsdp each process keeps its part of them.

    Raises ConfigError where a model cannot be trained so.
    """
    seats = config.seats
    scripted = [seat for seat in seats if not isinstance(cast.backends[seat], LocalBackend)]
    if problems := learner_problems(config, scripted, cast.backends["a"] is cast.backends["b"]):
        raise ConfigError(problems)
    sharded = []
    for backend in {id(b): b for b in cast.backends.values() if isinstance(b, LocalBackend)}.values():
        if config.train.sharding == "fsdp":
            shard(backend.model, ranks)
            backend.moved()
            sharded.append(backend.model)
    adapters: dict[int, Adapters] = {}
    made: dict[Speaker, Learner] = {}
    for seat in seats:
        if config.learner == "one" and made:
            made[seat] = made["a"]
            continue
        made[seat] = _learner(config, cast, seat, adapters)
    found = Learners(made, config.learner)
    found.sharded = sharded
    found.backends = _backends(cast, made)
    return found


def _learner(config: OnlineDpoConfig, cast: Cast, seat: Speaker, adapters: dict[int, Adapters]) -> Learner:
    backend = cast.backends[seat]
    if config.train.method != "lora":
        return WeightLearner(seat, backend, config.train)
    model = config.experts[seat]
    shared = adapters.setdefault(id(backend), Adapters(backend.model))
    targets = cast.experts[seat].family.lora_targets
    return LoraLearner(seat, backend, config.train, targets, shared, model.path, config.run.seed)


def _backends(cast: Cast, learners: Mapping[Speaker, Learner]) -> dict[str, Any]:
    """An expert that does not learn speaks as its base does; where it shares a learner's model, with the adapters off."""
    found = {name: backend for name, backend in cast.backends.items() if name not in ("a", "b")}
    bases = {id(cast.backends[seat]): learner.base for seat, learner in learners.items()}
    seats: tuple[Speaker, ...] = ("a", "b")
    for seat in seats:
        base = bases.get(id(cast.backends[seat]), cast.backends[seat])
        found[f"base_{seat}"] = base
        found[seat] = learners[seat].policy if seat in learners else base
    if "third" in found:
        found["third"] = bases.get(id(cast.backends["third"]), found["third"])
    return found
