"""A job on given GPUs: what goes where, whether it fits, and what to lower, in numbers, where it does not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from expertchat.backends.learnt import weights_of
from expertchat.backends.loading import trained_of
from expertchat.config import NOT_SEATS, ConfigError, ModelConfig
from expertchat.judging.roles import seats_of
from expertchat.plan.config import PlanConfig
from expertchat.plan.job import (
    Embedder,
    Gpu,
    Job,
    Method,
    Model,
    Training,
    chains,
    embedder_of,
    machine_gpus,
    model_of,
    parse_gpus,
    reward_model_of,
)  # fmt: skip
from expertchat.plan.memory import GIB, Lora, parameters
from expertchat.plan.placement import Load, device_map, fits, place

MOST = 65_536  # conversations that anybody asks for
SETTINGS = {"conversations": "conversations", "tokens": "tokens"}
CONVERSE = {"conversations": "engine.max_batch", "tokens": "the tokens of a dialogue (conversation.turns, max_new_tokens)"}
ALONE = {"conversations": "engine.max_batch", "tokens": "train.max_tokens"}
HEAD_CHUNK = 256  # tokens whose logits TRL has at a time
OUTSIDE = 512  # tokens of a judgement's prompt beside the dialogue


@dataclass(frozen=True)
class Plan:
    """A job and where its parts stand. All figures are bytes."""

    job: Job
    gpus: tuple[Gpu, ...]
    loads: tuple[Load, ...]
    names: Mapping[str, str] = field(default_factory=lambda: SETTINGS)

    @property
    def fits(self) -> bool:
        return all(load.need <= gpu.capacity for load, gpu in zip(self.loads, self.gpus, strict=True))

    @cached_property
    def largest(self) -> int:
        """The most conversations that fit; 0: not even one."""
        return _most(lambda n: does_fit(replace(self.job, conversations=n), self.gpus), MOST)

    @cached_property
    def lower(self) -> list[str]:
        """Changes, each of which makes it fit; the last resort is all of them together."""
        return [] if self.fits else list(_remedies(self.job, self.gpus, self.names))

    def device_map(self, owner: str) -> dict[str, int]:
        """Module -> GPU of the model in that seat, for accelerate."""
        return device_map(owner, self.loads)

    def segments(self, gpu: int) -> dict[str, int]:
        """What stands on a GPU while its larger phase runs, in the order of the picture; "free" is negative where it does not fit."""
        load, size = self.loads[gpu], self.gpus[gpu].size
        found = {f"weights {m.owner}": sum(u.weights for u in load.units if u.owner == m.owner) for m in self.job.models if m.on_gpu}
        found["embedder"] = sum(u.weights for u in load.units if u.owner == "embedder")
        found["LoRA + optimizer"] = sum(u.adapter for u in load.units)
        training = load.training > load.talking
        found["KV cache"] = 0 if training else load.cache
        found["activations"] = load.saved + load.train_moment if training else load.talk_moment
        found["reserve"] = self.gpus[gpu].reserve
        found["free"] = size - sum(found.values())
        return found

    def phase(self, gpu: int) -> str:
        """The phase that needs more memory there: training or talking."""
        return "training" if self.loads[gpu].training > self.loads[gpu].talking else "talking"

    def problems(self) -> list[str]:
        """Why it does not fit and what to lower, one line; nothing where it fits."""
        if self.fits:
            return []
        short = [
            f"GPU {i} needs {_gib(load.need)} GiB, has {_gib(gpu.capacity)} ({_gib(gpu.size)} less a reserve of {_gib(gpu.reserve)})"
            for i, (load, gpu) in enumerate(zip(self.loads, self.gpus, strict=True))
            if load.need > gpu.capacity
        ]
        return [f"does not fit: {'; '.join(short)}. Remedy: {'; or '.join(self.lower)}"]


def make_plan(job: Job, gpus: Sequence[Gpu], names: Mapping[str, str] = SETTINGS) -> Plan:
    """The best placement of a job. Raises ConfigError for a GPU that is not there."""
    _all_there(job, gpus)
    free, fixed = chains(job)
    loads = place(free, fixed, [gpu.capacity for gpu in gpus])
    return Plan(job, tuple(gpus), tuple(loads), names)


def _all_there(job: Job, gpus: Sequence[Gpu]) -> None:
    """Raise ConfigError for a GPU that is not there."""
    wanting = [one for one in (*job.models, job.embedder, job.valuer) if one is not None and one.on_gpu]
    if wanting and not gpus:
        raise ConfigError(f"no GPU is left for {', '.join(model.name for model in wanting)}: give the run one, or set device=cpu")
    for model in wanting:
        if model.gpu is not None and model.gpu >= len(gpus):
            raise ConfigError(f"{model.name}: device=cuda:{model.gpu}, but there are {len(gpus)} GPUs: set device=auto")


def does_fit(job: Job, gpus: Sequence[Gpu]) -> bool:
    """Whether there is any placement."""
    free, fixed = chains(job)
    return fits(free, fixed, [gpu.capacity for gpu in gpus])


def _most(good: Callable[[int], bool], limit: int, least: int = 1) -> int:
    """The largest number up to `limit` that is good, where all smaller ones are; 0: not even `least`."""
    if not good(least):
        return 0
    low, high = least, least * 2
    while high <= limit and good(high):
        low, high = high, high * 2
    high = min(high, limit + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low


# -- what to lower ------------------------------------------------------------------------------------------------------

Change = tuple[str, Job]


def _remedies(job: Job, gpus: Sequence[Gpu], names: Mapping[str, str]) -> Iterable[str]:
    found = [text for text, changed in _single(job, gpus, names) if does_fit(changed, gpus)]
    if found:
        yield from found
        return
    smallest, words = job, list[str]()
    for text, changed in _steps(job):
        smallest = changed(smallest)
        words.append(text)
        most = _most(lambda n: does_fit(replace(smallest, conversations=n), gpus), job.conversations)  # noqa: B023
        if most:
            fewer = f" and {names['conversations']} from {job.conversations} to {most}" if most < job.conversations else ""
            yield f"set {' '.join(words)}{fewer}"
            return
    total = sum(load.need for load in make_plan(replace(smallest, conversations=1), gpus).loads)
    yield (
        f"none of the settings is enough: the smallest form takes {_gib(total)} GiB, and the GPUs hold "
        f"{_gib(sum(gpu.capacity for gpu in gpus))}; take smaller models, or more or larger GPUs"
    )


def _single(job: Job, gpus: Sequence[Gpu], names: Mapping[str, str]) -> Iterable[Change]:
    """Each setting on its own, lowered as far as it must be."""
    most = _most(lambda n: does_fit(replace(job, conversations=n), gpus), job.conversations)
    if 0 < most < job.conversations:
        yield f"lower {names['conversations']} from {job.conversations} to {most}", replace(job, conversations=most)
    step, least = 64, 256
    units = _most(lambda n: does_fit(replace(job, tokens=n * step), gpus), job.tokens // step, least // step)
    if units and units * step < job.tokens:
        yield f"lower {names['tokens']} from {job.tokens} to {units * step}", replace(job, tokens=units * step)
    for text, changed in _steps(job):
        yield f"set {text}", changed(job)
    if job.training is not None:
        yield from _training_numbers(job, job.training, gpus)


def _training_numbers(job: Job, training: Training, gpus: Sequence[Gpu]) -> Iterable[Change]:
    def with_(**changes: Any) -> Job:
        return _trained(job, **changes)

    pairs = _most(lambda n: does_fit(with_(pairs=n), gpus), training.pairs)
    if 0 < pairs < training.pairs:
        yield f"lower train.pairs from {training.pairs} to {pairs}", with_(pairs=pairs)
    units = _most(lambda n: does_fit(with_(tokens=n * 64), gpus), training.tokens // 64, 2)
    if units and units * 64 < training.tokens:
        yield f"lower train.tokens from {training.tokens} to {units * 64}", with_(tokens=units * 64)
    rank = _most(lambda n: does_fit(with_(lora=replace(training.lora, rank=n)), gpus), training.lora.rank, 4)
    if 0 < rank < training.lora.rank:
        yield f"lower train.rank from {training.lora.rank} to {rank}", with_(lora=replace(training.lora, rank=rank))


def _steps(job: Job) -> Iterable[tuple[str, Callable[[Job], Job]]]:
    """Settings that save memory, those that cost least first; each as a change of any job."""
    training = job.training
    if training is not None:
        if not training.checkpointing:
            yield "train.checkpointing=true", lambda j: _trained(j, checkpointing=True)
        if training.head_chunk == 0 or training.head_chunk > 256:
            yield "train.head_chunk=256", lambda j: _trained(j, head_chunk=256)
    for model in sorted(job.models, key=lambda m: -parameters(m.shape)):
        if model.quantization == "none" and model.on_gpu and model.key:
            yield f"{model.key}.quantization=nf4", partial(_quantised, owner=model.owner)
    if training is not None and training.lora.targets == "all-linear":
        lora = replace(training.lora, targets="attention")
        yield "train.targets=attention", lambda j: _trained(j, lora=lora)


def _trained(job: Job, **changes: Any) -> Job:
    """Of all that is trained, for they share their settings."""
    if job.training is None:
        return job
    return replace(job, training=replace(job.training, **changes), others=tuple(replace(one, **changes) for one in job.others))


def _quantised(job: Job, owner: str) -> Job:
    return replace(job, models=tuple(replace(m, quantization="nf4") if m.owner == owner else m for m in job.models))


# -- from configs -------------------------------------------------------------------------------------------------------


def plan_job(config: PlanConfig) -> Job:
    """The job of `expertchat plan`. Raises ConfigError with every problem."""
    train = config.train
    training = None
    if train.expert != "none":
        lora = Lora(train.rank, train.targets)
        training = Training(train.expert, lora, train.pairs, train.tokens, train.checkpointing, train.head_chunk)
    models, embedder, owners = _cast(config.here, config.embedder)
    if training is not None:
        training = replace(training, owner=owners.get(training.owner, training.owner))
        if not any(model.owner == training.owner and model.on_gpu for model in models):
            raise ConfigError(f"train.expert={train.expert}: is not on a GPU; set experts.{train.expert}.device=auto")
    return Job(models, embedder, config.conversations, config.tokens, training, seats=owners)


def _cast(
    seats: Mapping[str, ModelConfig], embedder: Any, learning: Collection[str] = ()
) -> tuple[tuple[Model, ...], Embedder | None, dict[str, str]]:
    """The models that are loaded, the embedder, and which seat's model each seat uses."""
    models, owners, problems = _models(seats, learning)
    found = None
    try:
        paths = ["scripted" if config.backend == "scripted" else config.path for config in seats.values()]
        found = None if embedder.backend == "server" else embedder_of(embedder, paths)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return models, found, owners


def _models(seats: Mapping[str, ModelConfig], learning: Collection[str]) -> tuple[tuple[Model, ...], dict[str, str], list[str]]:
    """The models that are loaded, equal ones once; which seat's model each seat uses; and what is wrong with them."""
    problems: list[str] = []
    models: dict[str, Model] = {}
    owners: dict[str, str] = {}
    loaded = _loaded(seats, learning)
    for seat, config in seats.items():
        try:
            model = model_of(config, seat, seat if seat in NOT_SEATS else f"experts.{seat}")
        except ConfigError as error:
            problems += error.problems
            continue
        if model is None:
            continue
        same = loaded[seat]
        if same in models:
            first = models[same]
            models[same] = replace(first, candidates=max(first.candidates, model.candidates), beams=max(first.beams, model.beams))
        else:
            models[same] = model
        owners[seat] = models[same].owner
    return tuple(models.values()), owners, problems


def _loaded(seats: Mapping[str, ModelConfig], learning: Collection[str]) -> dict[str, str]:
    """By seat what is loaded for it; equal values are loaded once."""
    def told(config: ModelConfig) -> str:
        return config.model_dump_json(exclude={"prompts", "persona", "decoding"})

    learnt = {seat: trained_of(config, seat) for seat, config in seats.items() if config.trained}
    base = {seat: told(config.model_copy(update={"trained": None})) for seat, config in seats.items()}
    return weights_of({seat: told(config) for seat, config in seats.items()}, base, learnt, learning)


def planned_gpus(config: PlanConfig) -> list[Gpu]:
    """The GPUs that the config names. Raises ConfigError where it names this machine's, and there are none."""
    if config.gpus != "auto":
        return parse_gpus(config.gpus)
    found = machine_gpus()
    if not found:
        raise ConfigError("gpus=auto: this machine has no GPU that torch can use; name the ones to plan for, e.g. gpus=4x16")
    return found


def choose_bits(job: Job, gpus: Sequence[Gpu], automatic: Iterable[str]) -> Job:
    """quantization=auto: plain weights where all fits so, else nf4, the largest model first."""
    _all_there(job, gpus)
    wanted = set(automatic)
    for model in sorted(job.models, key=lambda m: -parameters(m.shape)):
        if does_fit(job, gpus):
            break
        if model.owner in wanted and model.on_gpu:
            job = _quantised(job, model.owner)
    return job


def plan_of(config: PlanConfig, gpus: Sequence[Gpu]) -> Plan:
    """The plan of `expertchat plan` on these GPUs. Raises ConfigError for what is not known, not for what does not fit."""
    automatic = [seat for seat, model in config.here.items() if model.quantization == "auto"]
    return make_plan(choose_bits(plan_job(config), gpus, automatic), gpus)


@dataclass(frozen=True)
class Trained:
    """What a run trains, for the plan: `seat`, LoRA layers and rank, pairs and tokens of a micro-batch, which weights; texts of a pair."""

    seat: str
    lora: Lora
    pairs: int
    tokens: int
    checkpointing: bool
    method: Method = "lora"
    texts: int = 2


def check(config: Any, gpus: Sequence[Gpu] | None = None, trained: Sequence[Trained] = ()) -> Plan | None:
    """Raise ConfigError unless the models and one conversation (or engine.max_batch of them) fit on the GPUs, before any is loaded.

    `config`: of a run (ConverseConfig, OnlineDpoConfig); `trained`: the updates that must have room too.
    None: nothing runs on a GPU, or a model's shape is not known, which is for the loading to find out.
    """
    seats = seats_of(config)
    if all(model.backend != "local" or model.device in ("cpu", "mps") for model in seats.values()):
        return None  # before torch is asked, whose import takes seconds
    if not (gpus := machine_gpus() if gpus is None else gpus):
        return None
    try:
        models, embedder, owners = _cast(seats, config.embedder, {one.seat for one in trained} & seats.keys())
    except ConfigError:
        return None
    longest = max(
        OUTSIDE + config.conversation.turns * m.decoding.reply.max_new_tokens + m.decoding.judge.max_new_tokens for m in seats.values()
    )
    rows = min(config.engine.max_batch or 1, config.conversation.count)
    updates = [_training(one, owners[one.seat]) for one in trained if one.seat in owners]
    update, others = (updates[0], tuple(updates[1:])) if updates else (None, ())
    valuer = reward_model_of(config.reward_model) if "reward_model" in config.judge_names and config.reward_model is not None else None
    job = Job(models, embedder if config.embeds else None, rows, longest, update, seats=owners, others=others, valuer=valuer)
    return _fitting(job, seats, gpus, CONVERSE)


def check_one(
    config: ModelConfig, seat: str, tokens: int, rows: int, trained: Trained, gpus: Sequence[Gpu] | None, beside: Mapping[str, ModelConfig]
) -> Plan | None:
    """The same for a command that trains one model, which writes `rows` texts of `tokens` at once; `beside`: others that it loads."""
    gpus = machine_gpus() if gpus is None else gpus
    if not gpus or config.backend != "local" or config.device in ("cpu", "mps"):
        return None
    seats = {seat: config, **beside}
    try:
        models, owners, problems = _models(seats, {seat})
    except ConfigError:
        return None
    if problems or seat not in owners:
        return None
    job = Job(models, None, rows, tokens, _training(trained, seat), seats=owners)
    return _fitting(job, seats, gpus, ALONE)


def _training(one: Trained, owner: str) -> Training:
    return Training(owner, one.lora, one.pairs, one.tokens, one.checkpointing, HEAD_CHUNK, one.method, one.texts)


def _fitting(job: Job, seats: Mapping[str, ModelConfig], gpus: Sequence[Gpu], names: Mapping[str, str]) -> Plan:
    """Where everything stands, in as many bits as the seats leave open. Raises ConfigError where it does not fit."""
    automatic = {job.seats[seat] for seat, model in seats.items() if model.quantization == "auto" and seat in job.seats}
    plan = make_plan(choose_bits(job, gpus, automatic), gpus, names)
    if not plan.fits:
        raise ConfigError(plan.problems())
    return plan


def placed(config: ModelConfig, seat: str, plan: Plan | None) -> tuple[ModelConfig, dict[str, int | str] | None]:
    """A seat's model as the plan has it: with its choice for quantization=auto, and its map for accelerate where it stands on GPUs."""
    owner = plan.job.seats.get(seat) if plan is not None else None
    model = next((m for m in plan.job.models if m.owner == owner), None) if plan is not None else None
    if plan is None or model is None or not model.on_gpu:
        return config, None
    chosen = model.quantization if config.quantization == "auto" else config.quantization
    return config.model_copy(update={"quantization": chosen}), dict(plan.device_map(model.owner))


def embedder_device(plan: Plan | None, wanted: str) -> str:
    """The embedder's device: the plan's GPU for auto."""
    found = plan.device_map("embedder") if plan is not None and wanted == "auto" else {}
    return f"cuda:{found['']}" if found else wanted


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"
