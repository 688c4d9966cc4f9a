"""What the training of a reward model takes of the GPU on which all of it stands: arithmetic over the sizes of its base's files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from expertchat.backends.folders import find_here, settings_of
from expertchat.backends.reward_folders import numbers_of
from expertchat.config import ConfigError
from expertchat.plan.job import STATES, Gpu, machine_gpus
from expertchat.plan.memory import (
    ATTENTION,
    GIB,
    WIDTH,
    Dtype,
    Lora,
    Shape,
    Step,
    UnknownArchitecture,
    adapter,
    cache,
    reply_pass,
    shape_of,
    train_ends,
    train_pass,
    weights,
)
from expertchat.reward_models.config import RewardModelTraining

SHORT, LONG = 128, 8192  # tokens of rows that are shorter than most, and longer than nearly all
# What a layer of an encoder keeps of a token for its backward pass, in fp32, as counted with tensors (tests/test_reward_room.py): numbers
# of its width and of its feed-forward block; bytes of each two tokens a head, as attention with dropout keeps its scores; its norms' means.
KEPT, SCORES, NORMS = (10, 2), 12, 16
MOMENT = (8, 3)  # what the layer that runs holds beyond that, rather too much than too little


@dataclass(frozen=True)
class Need:
    """Bytes on the GPU: `weights`, `learnt` (gradients and the optimizer's two moments, an adapter), and the passes."""

    weights: int
    learnt: int
    training: int
    measuring: int

    @property
    def total(self) -> int:
        return self.weights + self.learnt + max(self.training, self.measuring)


def need_of(config: RewardModelTraining, tokens: int) -> Need | None:
    """What it takes with rows of up to `tokens` tokens; None where the model is not here, or its shape is not known."""
    try:
        folder = find_here(config.path, config.model.revision, models_dir=config.model.models_dir)
        values = settings_of(folder) if folder is not None else None
        if folder is None or not values:
            return None
        if config.kind == "decoder":
            return _decoder(config, replace(shape_of(values), tied=True), tokens)  # a score head is nothing beside a vocabulary
        return _encoder(config, values, numbers_of(folder, config.model.models_dir), tokens)
    except (ConfigError, UnknownArchitecture, KeyError, TypeError, ValueError):
        return None


def _decoder(config: RewardModelTraining, shape: Shape, tokens: int) -> Need:
    """A language model of whose vocabulary no logits are made; it measures with the caches that its config asks for."""
    train, bits = config.train, config.model.quantization
    dtype: Dtype = "fp32" if config.model.dtype == "auto" else config.model.dtype
    lora = Lora(train.rank, "attention" if train.targets and set(train.targets) <= set(ATTENTION) else "all-linear")
    whole, many = weights(shape, dtype, bits).total, measured_at_once(config)
    learnt = adapter(shape, lora).total if config.method == "lora" else whole // WIDTH[dtype] * STATES
    step = Step(2 * train.micro_batch, tokens, train.checkpointing, 1)
    kept, moment = train_pass(shape, dtype, bits, lora, step)
    training = shape.layers * kept + moment + train_ends(shape, step.n)
    measuring = cache(shape, dtype, many, tokens) + reply_pass(shape, dtype, bits, many * tokens, tokens, many * tokens)
    return Need(whole, learnt, training, measuring)


def _encoder(config: RewardModelTraining, values: Mapping[str, Any], numbers: int, tokens: int) -> Need:
    """A BERT, an MPNet or the like, all of it trained in fp32; its attention may keep its scores."""
    train, width, feed = config.train, int(values["hidden_size"]), int(values["intermediate_size"])
    layers, heads = int(values["num_hidden_layers"]), int(values["num_attention_heads"])
    n = (2 if config.kind == "pairwise" else 1) * train.micro_batch * tokens
    kept = n * layer_kept(width, feed, heads, tokens)
    moment = n * (4 * (MOMENT[0] * width + MOMENT[1] * feed) + SCORES * heads * tokens)
    training = n * width * 4 * layers + kept + moment if train.checkpointing else layers * kept + moment
    passing = measured_at_once(config) * tokens * (4 * (7 * width + 2 * feed) + 3 * 4 * heads * tokens)
    return Need(4 * numbers, numbers * STATES, training, passing)


def layer_kept(width: int, feed: int, heads: int, tokens: int) -> int:
    """Bytes that one layer keeps of each token of a text of `tokens` tokens."""
    return 4 * (KEPT[0] * width + KEPT[1] * feed) + SCORES * heads * tokens + NORMS


def measured_at_once(config: RewardModelTraining) -> int:
    """Texts that pass through the model together where it is measured."""
    return max(8, config.train.micro_batch)


def room_problems(config: RewardModelTraining, tokens: int, gpu: Gpu) -> list[str]:
    """Why it does not fit on a GPU and what to lower, one line; nothing where it fits, or where that is not known."""
    need = need_of(config, tokens)
    if need is None or need.total <= gpu.capacity:
        return []
    remedies = list(_remedies(config, tokens, gpu)) or ["take a smaller model, a larger GPU, or model.device=cpu"]
    told = f"{need.weights / GIB:.2f} weights, {need.learnt / GIB:.2f} gradients and optimizer, {need.training / GIB:.2f} a step"
    return [
        f"does not fit: rows of {tokens} tokens need {need.total / GIB:.2f} GiB ({told}), the GPU has {gpu.capacity / GIB:.2f} "
        f"({gpu.size / GIB:.2f} less a reserve of {gpu.reserve / GIB:.2f}). Remedy: {'; or '.join(remedies)}"
    ]


def fitting_tokens(config: RewardModelTraining, gpu: Gpu) -> int | None:
    """The longest rows that fit on a GPU, in steps of 32 tokens; None where the model's size is not known."""
    if need_of(config, 0) is None:
        return None
    low, high = 0, LONG // 32
    while high - low > 0:
        middle = (low + high + 1) // 2
        need = need_of(config, 32 * middle)
        low, high = (middle, high) if need is not None and need.total <= gpu.capacity else (low, middle - 1)
    return 32 * low


def check_room(config: RewardModelTraining, tokens: int = 0) -> None:
    """Raise ConfigError where rows of `tokens` tokens (0: the weights and what is kept for their training alone) do not fit on the GPU."""
    where = re.fullmatch(r"auto|cuda(?::(\d+))?", config.model.device)
    gpus = machine_gpus() if where else []
    index = int(where[1] or 0) if where else 0
    if index < len(gpus) and (problems := room_problems(config, tokens, gpus[index])):
        raise ConfigError(problems)


def _remedies(config: RewardModelTraining, tokens: int, gpu: Gpu) -> Iterator[str]:
    """Settings of which each makes it fit; where none does so alone, all that save memory together."""
    train = config.train

    def fits(changed: RewardModelTraining, most: int = tokens) -> bool:
        need = need_of(changed, most)
        return need is not None and need.total <= gpu.capacity

    steps = list(_steps(config))
    found = [text for text, change in steps if fits(change(config))]
    smaller = [n for n in range(train.micro_batch - 1, 0, -1) if not train.batch % n and fits(_train(config, micro_batch=n))]
    found += [f"lower train.micro_batch from {train.micro_batch} to {smaller[0]}"] if smaller else []
    shorter = [n for n in range((tokens - 1) // 64 * 64, 63, -64) if fits(config, n)]
    found += [f"set train.max_tokens={shorter[0]}"] if shorter else []
    if found:
        yield from found
        return
    least, words = _train(config, micro_batch=1), ["train.micro_batch=1"]
    for text, change in steps:
        least, words = change(least), [*words, text.removeprefix("set ")]
        if fits(least):
            yield f"set {' '.join(words)}"
            return


Change = Callable[[RewardModelTraining], RewardModelTraining]


def _steps(config: RewardModelTraining) -> Iterator[tuple[str, Change]]:
    """Settings that save memory, those that cost least first."""
    if not config.train.checkpointing:
        yield "set train.checkpointing=true", lambda one: _train(one, checkpointing=True)
    if config.kind == "decoder" and config.method == "full":
        yield "set train.method=lora", lambda one: _train(one, method="lora")
    if config.kind == "decoder" and config.method == "lora" and config.model.quantization == "none":
        yield "set model.quantization=nf4", _quantised


def _quantised(config: RewardModelTraining) -> RewardModelTraining:
    return config.model_copy(update={"model": config.model.model_copy(update={"quantization": "nf4"})})


def _train(config: RewardModelTraining, **changes: Any) -> RewardModelTraining:
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})
