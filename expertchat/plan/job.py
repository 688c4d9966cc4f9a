"""What a plan is made for: models with their shapes, what they are to do, and the units that this comes to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from expertchat.backends.folders import embedder_problem, resolve_path, settings_of, tensor_shapes
from expertchat.backends.gguf import is_gguf
from expertchat.backends.reward_folders import any_reward_model_problem, base_of, inside, is_adapter, numbers_of
from expertchat.config import ConfigError, EmbedderConfig, ModelConfig, RewardModelConfig
from expertchat.plan.memory import (
    GIB,
    PREFILL_SEEN,
    PREFILL_TOKENS,
    ROWS,
    WIDTH,
    Dtype,
    Lora,
    Quantization,
    Shape,
    Step,
    UnknownArchitecture,
    embedder_pass,
    hidden_states,
    layer_adapter,
    layer_cache,
    layer_weights,
    mpnet_parameters,
    reply_logits,
    reply_pass,
    score_logits,
    shape_of,
    train_ends,
    train_logits,
    train_pass,
    weights,
)
from expertchat.plan.placement import Unit
from expertchat.plan.random_shapes import parse_random
from expertchat.plan.shapes import MPNET, PUBLISHED
from expertchat.text.sentences import shown_path

CONTEXT = int(0.5 * GIB)  # CUDA's own context, cuBLAS and its workspace
# Bytes of a weight that is trained itself, beside its frozen copy: its gradient and Adam's two moments, in fp32 at most. The optimizer's
# step takes nothing beside them (expertchat.training.update.in_place).
STATES = 3 * 4
LOST = 0.02  # of a GPU, in pieces that the allocator cannot use


@dataclass(frozen=True)
class Gpu:
    """A GPU of `size` bytes, `taken` of them by other programs."""

    size: int
    name: str = ""
    taken: int = 0

    @property
    def reserve(self) -> int:
        return CONTEXT + int(LOST * self.size) + self.taken

    @property
    def capacity(self) -> int:
        return self.size - self.reserve


@dataclass(frozen=True)
class Model:
    """A model in the seat `owner`. `gpu`: the one that it must stand on; `on_gpu` False: it computes elsewhere and counts for nothing."""

    owner: str
    name: str
    shape: Shape
    dtype: Dtype = "bf16"
    quantization: Quantization = "none"
    candidates: int = 1  # of contrastive search; more than 1: hidden states are kept
    beams: int = 1  # rows of a reply of beam search
    gpu: int | None = None
    on_gpu: bool = True
    key: str = ""  # its place in the config
    unpacking: int = 0  # bytes of main memory that it takes once, before the first load of a GGUF file


@dataclass(frozen=True)
class Embedder:
    name: str
    weights: int
    moment: int
    gpu: int | None = None
    on_gpu: bool = True


Method = Literal["lora", "full", "last_layer"]


@dataclass(frozen=True)
class Training:
    """An update of the model in the seat `owner`, `pairs` rows at a time, each of `texts` texts that pass through it together.

    `method` full or last_layer: of its own weights; then `lora` counts for what is kept of a pass alone.
    """

    owner: str
    lora: Lora
    pairs: int
    tokens: int
    checkpointing: bool
    head_chunk: int
    method: Method = "lora"
    texts: int = 2  # DPO: the chosen and the rejected reply

    @property
    def step(self) -> Step:
        return Step(self.texts * self.pairs, self.tokens, self.checkpointing, self.head_chunk)


@dataclass(frozen=True)
class Job:
    """`conversations` run at once, each up to `tokens` long."""

    models: tuple[Model, ...]
    embedder: Embedder | None
    conversations: int
    tokens: int
    training: Training | None = None
    pass_tokens: int = PREFILL_TOKENS  # of one prefill pass at most
    pass_seen: int = PREFILL_SEEN  # that the rows of such a pass see together at most
    seats: Mapping[str, str] = field(default_factory=dict)  # seat -> owner of the model that it uses; equal ones are loaded once
    others: tuple[Training, ...] = ()  # besides `training`: experts that learn by turns
    valuer: Embedder | None = None  # a reward model, whole on one GPU

    @property
    def trainings(self) -> tuple[Training, ...]:
        """All that is trained; they take turns, but adapters and optimizer states stay."""
        return (() if self.training is None else (self.training,)) + self.others


# -- units ------------------------------------------------------------------------------------------------------------


def chains(job: Job) -> tuple[dict[str, list[Unit]], dict[int, list[Unit]]]:
    """The units of each model that may stand anywhere, and those that stand on a GPU of the user's choice."""
    free: dict[str, list[Unit]] = {}
    fixed: dict[int, list[Unit]] = {}
    for model in job.models:
        if model.on_gpu and model.gpu is None:
            free[model.owner] = units(model, job)
        elif model.on_gpu and model.gpu is not None:
            fixed.setdefault(model.gpu, []).extend(units(model, job))
    if job.embedder is not None and job.embedder.on_gpu:
        unit = Unit("embedder", "", job.embedder.weights, talk_moment=job.embedder.moment)
        if job.embedder.gpu is None:
            free["embedder"] = [unit]
        else:
            fixed.setdefault(job.embedder.gpu, []).append(unit)
    if job.valuer is not None and job.valuer.gpu is not None:
        unit = Unit("reward_model", "", job.valuer.weights, talk_moment=job.valuer.moment)
        fixed.setdefault(job.valuer.gpu, []).append(unit)
    return free, fixed


def units(model: Model, job: Job) -> list[Unit]:
    """A model's modules with what each needs."""
    shape, dtype, kind, rows = model.shape, model.dtype, model.quantization, max(job.conversations, model.beams)
    whole, layer = weights(shape, dtype, kind), layer_weights(shape, dtype, kind)
    norm = whole.norms - shape.layers * layer.norms
    tokens = min(job.tokens, shape.context or job.tokens)
    # Beam search runs without the engine, which would compute its prompts in pieces.
    most, seen = (job.pass_tokens, max(tokens, job.pass_seen)) if model.beams == 1 else (rows * tokens,) * 2
    moment = reply_pass(shape, dtype, kind, min(rows * tokens, most), tokens, min(rows * tokens, seen))
    logits = max(reply_logits(shape, dtype, rows * model.candidates), score_logits(shape, dtype, rows))
    states = hidden_states(shape, rows, tokens) if model.candidates > 1 else 0
    saved = train_moment = ends = train_head = 0
    mine = [training for training in job.trainings if training.owner == model.owner]
    for training in mine:
        kept, peak = train_pass(shape, dtype, kind, training.lora, training.step)
        saved, train_moment = max(saved, kept), max(train_moment, peak)
        ends, train_head = max(ends, train_ends(shape, training.step.n)), max(train_head, train_logits(shape, dtype, training.step))

    def learnt(size: int, at: int | None = None) -> int:
        """What is held for the training of the layer `at`, or of a module around the layers, of `size` bytes of weights."""
        found = 0
        for training in mine:
            if training.method == "lora":
                found += layer_adapter(shape, training.lora).total if at is not None else 0
            elif training.method == "full" or at == shape.layers - 1:
                found += size + size // WIDTH[dtype] * STATES
        return found

    keys = max(ROWS, rows) * tokens * layer_cache(shape, dtype)
    layers = [
        Unit(model.owner, f"model.layers.{i}", layer.total, learnt(layer.total, i), keys, moment, saved, train_moment)
        for i in range(shape.layers)
    ]
    head = train_head if shape.tied else 0
    first = Unit(model.owner, "model.embed_tokens", whole.embedding, learnt(whole.embedding), states, logits, 0, head)
    last = [
        Unit(model.owner, "model.norm", norm, learnt(norm), 0, 0, ends, 0),
        Unit(model.owner, "lm_head", whole.head, learnt(whole.head), 0, logits, 0, train_head),
    ]
    return [first, *layers, *(last[:1] if shape.tied else last)]


# -- from configs -------------------------------------------------------------------------------------------------------


def model_of(config: ModelConfig, owner: str, key: str) -> Model | None:
    """The model of a seat; None for one that is not loaded (replies from a file, a server, a person). Raises ConfigError for an unknown
    shape."""
    if config.backend in ("scripted", "server", "human"):
        return None
    fixed = re.fullmatch(r"cuda(?::(\d+))?", config.device)
    reply, judge = config.decoding.reply, config.decoding.judge
    candidates = max([stage.top_k for stage in (reply, judge) if stage.method == "contrastive"], default=1)
    return Model(
        owner=owner,
        name=shown_path(config.path),
        shape=find_shape(config, key),
        dtype="bf16" if config.dtype == "auto" else config.dtype,
        quantization=saved_bits(config) or ("none" if config.quantization == "auto" else config.quantization),
        candidates=candidates,
        beams=max([stage.beams for stage in (reply, judge) if stage.method == "beam"], default=1),
        gpu=int(fixed[1] or 0) if fixed else None,
        on_gpu=config.device not in ("cpu", "mps"),
        key=key,
        unpacking=unpacking(config),
    )


def find_shape(config: ModelConfig, key: str = "model") -> Shape:
    """The shape of a model: from its folder's config.json, else as it was published. Raises ConfigError."""
    try:
        random = parse_random(config.path)
        if random is not None:
            return random_shape(random)
        place = resolve_path(config.path, config.models_dir)
        values = settings_of(place) if isinstance(place, Path) else PUBLISHED.get(place)
        if values is None:
            known = ", ".join(PUBLISHED)
            raise ConfigError(
                f"{key}.path={config.path}: its folder is not here and its shape is not known; name a folder with its config.json, "
                f"a random:llama:... shape, or one of {known}"
            )
        return shape_of(values)
    except UnknownArchitecture as error:
        raise ConfigError(f"{key}.path={config.path}: cannot be planned: {error}") from None
    except ValueError as error:
        raise ConfigError(f"{key}.path={config.path}: {error}") from None


def unpacking(config: ModelConfig) -> int:
    """Bytes of main memory to unpack a GGUF file: its numbers in fp32, and then in the number type as well; 0 for any other model."""
    place = None if config.path.startswith("random:") else resolve_path(config.path, config.models_dir)
    if place is None or not is_gguf(place):
        return 0
    return sum(_product(shape) for shape in tensor_shapes(Path(place)).values()) * (8 if config.dtype == "fp32" else 6)


def saved_bits(config: ModelConfig) -> Quantization | None:
    """What a folder holds its weights in already, if that is quantised."""
    place = config.path if config.path.startswith("random:") else resolve_path(config.path, config.models_dir)
    saved = settings_of(place).get("quantization_config") if isinstance(place, Path) else None
    if not isinstance(saved, dict):
        return None
    return "nf4" if saved.get("load_in_4bit") else "int8" if saved.get("load_in_8bit") else None


def random_shape(random: Any) -> Shape:
    """The shape of a random model as `expertchat bench` names it."""
    mixture = random.mixture
    return Shape(
        random.layers, random.hidden, random.heads, random.kv_heads, random.hidden // random.heads, random.ffn, random.vocab,
        random.experts if mixture else 0, random.experts_per_token if mixture else 0, context=random.context, layout=random.kind,
    )  # fmt: skip


def embedder_of(config: EmbedderConfig, paths: Sequence[str]) -> Embedder:
    """The embedder: from its folder, else all-mpnet-base-v2 as it was published. Raises ConfigError for one of unknown size."""
    from expertchat.backends.loading import embedder_path

    path, _ = embedder_path(config, paths)
    fixed = re.fullmatch(r"cuda(?::(\d+))?", config.device)
    gpu, on_gpu = (int(fixed[1] or 0) if fixed else None), config.device not in ("cpu", "mps")
    place = resolve_path(path, config.models_dir)
    if isinstance(place, Path) and embedder_problem(place) is None:
        files = [place, *(entry for entry in sorted(place.iterdir()) if entry.is_dir() and list(entry.glob("model.safetensors")))]
        numbers = sum(_product(shape) for part in files if list(part.glob("*.safetensors")) for shape in tensor_shapes(part).values())
        values = next((settings_of(part) for part in files if (part / "config.json").is_file()), {})
        known = {key: values.get(key) or MPNET[key] for key in MPNET}
        return Embedder(path, 4 * numbers, embedder_pass(known, config.batch_size), gpu, on_gpu)
    if str(place).rstrip("/").endswith("all-mpnet-base-v2"):
        return Embedder(path, 4 * mpnet_parameters(MPNET), embedder_pass(MPNET, config.batch_size), gpu, on_gpu)
    raise ConfigError(f"embedder.path={path}: its folder is not here and its size is not known; name its folder, or embedder=mpnet")


def reward_model_of(config: RewardModelConfig) -> Embedder | None:
    """A reward model on the GPU that it will be loaded to (the first, where its device is open); None where none holds it, or its size is
    not known here."""
    fixed = re.fullmatch(r"auto|cuda(?::(\d+))?", config.device)
    place = resolve_path(config.path, config.models_dir)
    if config.backend == "server" or fixed is None or not isinstance(place, Path) or any_reward_model_problem(place) is not None:
        return None
    folder = inside(place)
    values = settings_of(base_of(folder, config.models_dir) if is_adapter(folder) else folder)
    known = {key: int(values.get(key) or MPNET[key]) for key in ("hidden_size", "num_attention_heads", "max_position_embeddings")}
    numbers = numbers_of(folder, config.models_dir)
    tokens = min(config.max_tokens or known["max_position_embeddings"], known["max_position_embeddings"])
    moment = embedder_pass(known, config.batch_size, min(tokens, 1024))
    return Embedder(config.path, (4 if config.dtype == "fp32" else 2) * numbers, moment, int(fixed[1] or 0))


def _product(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def parse_gpus(text: str) -> list[Gpu]:
    """ "4x16" -> four GPUs of 16 GiB; "1x24+2x48" mixes. Raises ConfigError."""
    gpus: list[Gpu] = []
    for part in re.split(r"[+,]", text):
        match = re.fullmatch(r"\s*(\d{1,3})x(\d{1,4}(?:\.\d+)?)\s*", part)
        if match is None or not int(match[1]) or float(match[2]) < 1:
            raise ConfigError(f"gpus={text}: write COUNTxGIB, e.g. 4x16, 1x24, 1x80 or 2x48+1x24; auto takes those of this machine")
        gpus += [Gpu(int(float(match[2]) * GIB))] * int(match[1])
    return gpus


def machine_gpus() -> list[Gpu]:
    """The GPUs of this machine, with what other programs have taken of them."""
    import torch

    if not torch.cuda.is_available():
        return []
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        held = torch.cuda.memory_reserved(index)
        found.append(Gpu(total, torch.cuda.get_device_name(index), max(0, total - free - held - CONTEXT)))
    return found
