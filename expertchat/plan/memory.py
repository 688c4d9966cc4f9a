"""How many bytes a model takes: pure arithmetic from the values of its config.json, no torch, no weights, no GPU.

All figures are bytes. `n` is a number of tokens in one pass (rows x tokens of a row).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from expertchat.backends.layouts import ATTENTION, LAYOUTS, LINEAR, context_of, layout_of
from expertchat.backends.scoring import MOST

GIB = 2**30
Dtype = Literal["fp32", "bf16", "fp16"]
Quantization = Literal["none", "nf4", "int8"]
Targets = Literal["all-linear", "attention"]
WIDTH: dict[str, int] = {"fp32": 4, "bf16": 2, "fp16": 2}
ADAPTER = 4  # LoRA weights, gradients and Adam's two moments are fp32 each
PREFILL_TOKENS = 16384  # of one pass on a GPU at most, as the engine does it
PREFILL_SEEN = 32768  # that the rows of such a pass see together at most, where there is more than one
ROWS = 4  # that the engine makes room for at least
HEAD = 8192  # words whose weights are there in fp32 at a time, where log probabilities are read
JUDGED = 6 * 2  # tokens of a dialogue's judgement whose log probabilities are read: two of each rating, " 10" in two pieces


class UnknownArchitecture(ValueError):
    """A config.json of a model type whose parts are not known here."""


@dataclass(frozen=True)
class Shape:
    """What of a config.json decides the memory. `experts` 0: a dense model, whose feed-forward block counts as one expert.

    `layout`: its key in LAYOUTS.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    experts: int = 0
    experts_per_token: int = 0
    tied: bool = False  # the output head is the embedding
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    context: int = 0
    layout: str = "llama"

    @property
    def active(self) -> int:
        """Feed-forward blocks that a token goes through."""
        return self.experts_per_token if self.experts else 1


def shape_of(config: Mapping[str, Any]) -> Shape:
    """The shape in a config.json. Raises UnknownArchitecture."""
    kind = str(config.get("model_type", ""))
    layout = layout_of(kind)
    if layout is None:
        raise UnknownArchitecture(f"model_type {kind or 'none'}; known are {', '.join(LAYOUTS)}")

    def says(part: bool | str) -> bool:
        return bool(config.get(part)) if isinstance(part, str) else part

    try:
        heads, experts = int(config["num_attention_heads"]), layout.experts
        return Shape(
            layers=int(config["num_hidden_layers"]),
            hidden=int(config["hidden_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
            ffn=int(config[experts.width if experts else "intermediate_size"]),
            vocab=int(config["vocab_size"]),
            experts=experts.number(config) if experts else 0,
            experts_per_token=int(config[experts.chosen]) if experts else 0,
            tied=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=says(layout.qkv_bias),
            out_bias=says(layout.out_bias),
            mlp_bias=says(layout.mlp_bias),
            qk_norm=layout.qk_norm,
            context=context_of(config) or 0,
            layout=kind.removesuffix(LINEAR),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UnknownArchitecture(f"its config.json lacks or garbles {error}") from None


# -- weights ----------------------------------------------------------------------------------------------------------


class Matrix(NamedTuple):
    """A linear layer, y = W x (+ b) with W [out, in]; `times` as many in each decoder layer."""

    name: str
    out: int
    inner: int
    bias: bool = False
    times: int = 1

    @property
    def numbers(self) -> int:
        return self.out * self.inner


def matrices(shape: Shape) -> list[Matrix]:
    """The linear layers of one decoder layer that quantisation and LoRA reach; a router is not among them."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = [
        Matrix("q_proj", queries, shape.hidden, shape.qkv_bias),
        Matrix("k_proj", keys, shape.hidden, shape.qkv_bias),
        Matrix("v_proj", keys, shape.hidden, shape.qkv_bias),
        Matrix("o_proj", shape.hidden, queries, shape.out_bias),
    ]
    count, (gate, up, down) = max(1, shape.experts), LAYOUTS[shape.layout].feed_forward
    wide = [Matrix(name, shape.ffn, shape.hidden, shape.mlp_bias, count) for name in (gate, up)]
    return [*attention, *wide, Matrix(down, shape.hidden, shape.ffn, shape.mlp_bias, count)]


def matrix_bytes(matrix: Matrix, dtype: Dtype, quantization: Quantization) -> int:
    """One linear layer with its quantisation state, as bitsandbytes keeps it.

    nf4 with double quantisation (Dettmers et al. 2023, arXiv 2305.14314): half a byte a number, a uint8 scale for 64 of them, an fp32 scale
    for 256 scales, and three small tables. int8: a byte a number and an fp32 scale for each output.
    """
    bias = matrix.out * WIDTH[dtype] if matrix.bias else 0
    if quantization == "nf4":
        blocks = -(-matrix.numbers // 64)
        tables = 16 * 4 + 256 * 4 + 4  # the 16 values of nf4, the 256 of its scales, and their mean
        return -(-matrix.numbers // 2) + blocks + -(-blocks // 256) * 4 + tables + bias
    if quantization == "int8":
        return matrix.numbers + matrix.out * 4 + bias
    return matrix.numbers * WIDTH[dtype] + bias


@dataclass(frozen=True)
class Weights:
    """Bytes of a model's weights by kind."""

    embedding: int
    attention: int
    feed_forward: int
    router: int
    norms: int
    head: int

    @property
    def total(self) -> int:
        return self.embedding + self.attention + self.feed_forward + self.router + self.norms + self.head


def layer_weights(shape: Shape, dtype: Dtype, quantization: Quantization) -> Weights:
    """Weights of one decoder layer. Norms and router stay in `dtype`."""
    sizes = {m.name: m.times * matrix_bytes(m, dtype, quantization) for m in matrices(shape)}
    attention = sum(sizes[name] for name in ATTENTION)
    norms = 2 * shape.hidden + (2 * shape.head_dim if shape.qk_norm else 0)
    width = WIDTH[dtype]
    return Weights(0, attention, sum(sizes.values()) - attention, shape.hidden * shape.experts * width, norms * width, 0)


def weights(shape: Shape, dtype: Dtype = "fp32", quantization: Quantization = "none") -> Weights:
    """Weights of the whole model. Embedding, norms, router and head are never quantised."""
    layer, width = layer_weights(shape, dtype, quantization), WIDTH[dtype]
    table = shape.vocab * shape.hidden * width
    return Weights(
        embedding=table,
        attention=shape.layers * layer.attention,
        feed_forward=shape.layers * layer.feed_forward,
        router=shape.layers * layer.router,
        norms=shape.layers * layer.norms + shape.hidden * width,
        head=0 if shape.tied else table,
    )


def parameters(shape: Shape) -> int:
    """The number of weights."""
    return weights(shape, "fp32").total // 4


# -- adapters, caches ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lora:
    """A LoRA adapter: its rank and the linear layers that it is attached to (Hu et al. 2021, arXiv 2106.09685)."""

    rank: int = 16
    targets: Targets = "all-linear"

    def reaches(self, matrix: Matrix) -> bool:
        return self.targets == "all-linear" or matrix.name in ATTENTION


class Adapter(NamedTuple):
    """Bytes of an adapter in training."""

    weights: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        return sum(self)


def layer_adapter(shape: Shape, lora: Lora) -> Adapter:
    """The adapter of one decoder layer: A [rank, in] and B [out, rank] for each linear layer; Adam keeps two moments."""
    numbers = sum(m.times * lora.rank * (m.out + m.inner) for m in matrices(shape) if lora.reaches(m))
    return Adapter(numbers * ADAPTER, numbers * ADAPTER, 2 * numbers * ADAPTER)


def adapter(shape: Shape, lora: Lora) -> Adapter:
    """The adapter of the whole model."""
    return Adapter(*(shape.layers * part for part in layer_adapter(shape, lora)))


def layer_cache(shape: Shape, dtype: Dtype) -> int:
    """Keys and values of one token in one layer."""
    return 2 * shape.kv_heads * shape.head_dim * WIDTH[dtype]


def cache(shape: Shape, dtype: Dtype, conversations: int, tokens: int) -> int:
    """Keys and values of `conversations` rows of `tokens` tokens each; the engine makes room for four rows at least."""
    return shape.layers * layer_cache(shape, dtype) * max(ROWS, conversations) * tokens


def hidden_states(shape: Shape, conversations: int, tokens: int) -> int:
    """What contrastive search keeps: the last hidden state of every token, in fp32; those of a prefill and of the running rows."""
    return 2 * conversations * tokens * shape.hidden * 4


# -- what a pass needs for a moment ------------------------------------------------------------------------------------


def unpacked(shape: Shape, dtype: Dtype, quantization: Quantization) -> int:
    """A quantised matrix is unpacked for its product: the largest one."""
    return 0 if quantization == "none" else max(m.numbers for m in matrices(shape)) * WIDTH[dtype]


def reply_pass(shape: Shape, dtype: Dtype, quantization: Quantization, n: int, context: int, seen: int) -> int:
    """The peak of one layer over `n` tokens without gradients, each seeing up to `context` tokens, and all rows together `seen`.

    Three hidden states, and gate, up and their product in the feed-forward block, or what attention takes; the additive mask and the
    booleans that it is made of.
    """
    width, whole = WIDTH[dtype], unpacked(shape, dtype, quantization)
    hidden, feed = n * shape.hidden * width, n * shape.ffn * width
    if shape.experts:  # the sorted rows go through one expert after the other; no router fills them evenly
        hidden, feed = hidden * (2 + 3 * shape.active), int(feed * shape.active * min(1.0, 1 / shape.experts + 1 / 8))
    else:
        hidden *= 3
    feeding = hidden + max(3 * feed, 2 * feed + whole)
    return max(feeding, attention_pass(shape, dtype, n, context, seen)) + n * context * (width + 2)


def attention_pass(shape: Shape, dtype: Dtype, n: int, context: int, seen: int) -> int:
    """Two hidden states, the queries and twice their answers, and a mask whose rows are aligned. Where query heads share keys,
    transformers' sdpa repeats keys and values for each of them."""
    width, queries = WIDTH[dtype], shape.heads * shape.head_dim
    repeated = 2 * seen * queries * width if shape.kv_heads < shape.heads else 0
    return n * (2 * shape.hidden + 3 * queries) * width + repeated + n * context * width


def reply_logits(shape: Shape, dtype: Dtype, rows: int) -> int:
    """Next-word logits of `rows` rows: as the model gives them, in fp32, and their probabilities."""
    return rows * shape.vocab * (WIDTH[dtype] + 2 * 4)


def score_logits(shape: Shape, dtype: Dtype, rows: int) -> int:
    """Log probabilities of the ratings of `rows` dialogues, as many as are scored in one pass: logits in fp32, and what is made of them;
    or the last of the output layer's pieces in fp32 that they are computed with."""
    columns = max(JUDGED, min(rows * JUDGED, MOST // shape.vocab))
    logits = columns * shape.vocab * 4
    return logits + max(logits, 0 if dtype == "fp32" else min(HEAD, shape.vocab) * shape.hidden * 4)


@dataclass(frozen=True)
class Step:
    """One training step on `rows` texts of `tokens` tokens. `head_chunk`: tokens whose logits exist at a time; 0: all."""

    rows: int
    tokens: int
    checkpointing: bool = True
    head_chunk: int = 256

    @property
    def n(self) -> int:
        return self.rows * self.tokens


def layer_saved(shape: Shape, dtype: Dtype, lora: Lora, step: Step) -> int:
    """What one layer keeps for its backward pass: the base is frozen, so only what gradients of inputs and adapters need.

    Texts of different lengths are padded: with a mask, which every layer keeps, transformers' sdpa repeats keys and values for every
    query head.
    """
    width, hidden, blocks = WIDTH[dtype], shape.hidden, shape.active
    total = 2 * (hidden * 4 + 4)  # both norms: their input in fp32, and its scale
    total += step.tokens * width
    total += 4 * shape.heads * shape.head_dim * width + shape.heads * 4  # queries, keys, values, answers, and their normaliser
    total += blocks * 3 * shape.ffn * width  # gate, its activation, up
    if shape.experts:
        total += blocks * (hidden * width + 36) + shape.experts * 4  # answers that the router scales; routes
    for m in matrices(shape):
        if lora.reaches(m):
            total += (blocks if m.times > 1 else 1) * lora.rank * ADAPTER
            if dtype != "fp32":  # each adapter reads an fp32 copy of its input
                total += (blocks if m.times > 1 else 1) * m.inner * ADAPTER
    if dtype == "fp32":  # the inputs themselves are kept, once for those that share one
        total += hidden * 4 + (blocks * (hidden + shape.ffn) * 4 if lora.targets == "all-linear" else 0)
    return step.n * total


def layer_moment(shape: Shape, dtype: Dtype, lora: Lora, checkpointing: bool) -> int:
    """Bytes a token that a layer's backward pass needs for a moment, beyond what is kept.

    Gradients in the feed-forward block, or those around the norms, in fp32. The multiples were counted with tensors (tests/test_plan.py).
    """
    width, hidden, wide = WIDTH[dtype], shape.hidden, lora.targets == "all-linear"
    feed = shape.ffn * width
    half = dtype != "fp32"
    if shape.experts:
        feed = feed * shape.active // shape.experts  # one expert after the other
        if not checkpointing:
            return max((2 if wide else 3) * feed, (24 if half else 16) * hidden)
        if wide:
            return 17 * hidden + feed if half else max(12 * hidden, feed)
        return max(20 * hidden, 3 * feed)
    if not checkpointing:
        return max((2 if wide else 3) * feed - 4 * hidden, 18 * hidden)
    if wide:
        return 2 * feed + 6 * hidden if half else max(2 * feed - 8 * hidden, 4 * hidden)
    return max(3 * feed - 4 * hidden, 8 * hidden) if half else max(3 * feed - 8 * hidden, 8 * hidden)


def train_pass(shape: Shape, dtype: Dtype, quantization: Quantization, lora: Lora, step: Step) -> tuple[int, int]:
    """(kept by every layer until its backward pass, the peak of the layer that runs beyond that)."""
    saved = layer_saved(shape, dtype, lora, step)
    moment = step.n * layer_moment(shape, dtype, lora, step.checkpointing)
    moment = max(moment, step.n * shape.ffn * WIDTH[dtype] + unpacked(shape, dtype, quantization))
    if step.checkpointing:
        return step.n * shape.hidden * WIDTH[dtype], saved + moment
    return saved, moment


def train_ends(shape: Shape, n: int) -> int:
    """Kept around the layers: the input and output of the last norm."""
    return n * shape.hidden * 8


def train_logits(shape: Shape, dtype: Dtype, step: Step) -> int:
    """Log probabilities of the vocabulary in fp32, their gradient, and that of the logits."""
    n = min(step.n, step.head_chunk) if step.head_chunk else step.n
    return n * shape.vocab * 3 * 4


# -- the embedder -------------------------------------------------------------------------------------------------------


def mpnet_parameters(config: Mapping[str, Any]) -> int:
    """The number of weights of an MPNet: three embeddings' tables, its layers, the relative positions and the pooler."""
    h, f, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    tables = (config["vocab_size"] + config["max_position_embeddings"]) * h + 2 * h
    layer = 4 * (h * h + h) + 2 * h * f + f + h + 4 * h
    return int(tables + layers * layer + config["relative_attention_num_buckets"] * config["num_attention_heads"] + h * h + h)


def embedder_pass(config: Mapping[str, Any], texts: int, tokens: int = 384) -> int:
    """The peak of embedding `texts` chunks of `tokens` word pieces in fp32: MPNet's attention keeps its scores."""
    return int(texts * tokens * (7 * config["hidden_size"] + 3 * config["num_attention_heads"] * tokens) * 4)
