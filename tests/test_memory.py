"""The arithmetic against models on the meta device, against bitsandbytes, and against figures worked by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expertchat.backends.layouts import LAYOUTS
from expertchat.plan.memory import (
    GIB,
    PREFILL_SEEN,
    PREFILL_TOKENS,
    Lora,
    Matrix,
    Shape,
    Step,
    UnknownArchitecture,
    adapter,
    attention_pass,
    cache,
    layer_weights,
    matrix_bytes,
    mpnet_parameters,
    parameters,
    reply_pass,
    score_logits,
    shape_of,
    train_logits,
    train_pass,
    weights,
)
from expertchat.plan.shapes import MPNET, PUBLISHED
from tests import architectures

LLAMA = shape_of(PUBLISHED["meta-llama/Meta-Llama-3-8B-Instruct"])
MIXTRAL = shape_of(PUBLISHED["mistralai/Mixtral-8x7B-Instruct-v0.1"])
TINY = Shape(layers=2, hidden=8, heads=2, kv_heads=1, head_dim=4, ffn=16, vocab=32)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_of_transformers_own_models(name: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    values = dict(PUBLISHED[name])
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    assert parameters(shape_of(PUBLISHED[name])) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("name", "count"), [
    # as the model cards say
    ("meta-llama/Meta-Llama-3-8B-Instruct", 8_030_261_248),
    ("mistralai/Mixtral-8x7B-Instruct-v0.1", 46_702_792_704),
    ("mistralai/Mistral-7B-Instruct-v0.2", 7_241_732_096),
    ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
])  # fmt: skip
def test_published_shapes_have_the_published_numbers(name: str, count: int) -> None:
    assert parameters(shape_of(PUBLISHED[name])) == count


@pytest.mark.parametrize(("total", "gib"), [
    (weights(MIXTRAL, "fp16", "nf4").total, 22.8),
    (weights(MIXTRAL, "fp16").total, 87.0),
    (weights(LLAMA, "fp16").total, 15.0),
    (weights(LLAMA, "fp16", "nf4").total, 5.3),
    (4 * mpnet_parameters(MPNET), 0.41),
    # r16 with fp32 Adam: 16 bytes for each of its weights
    (adapter(LLAMA, Lora(16, "attention")).total, 0.2),
    (adapter(LLAMA, Lora(16)).total, 0.62),
    (adapter(MIXTRAL, Lora(16)).total, 3.6),
])  # fmt: skip
def test_known_sizes(total: int, gib: float) -> None:
    assert total / GIB == pytest.approx(gib, rel=0.02)


def test_the_mpnet_is_that_of_transformers() -> None:
    from transformers import MPNetConfig, MPNetModel

    with torch.device("meta"):
        model: Any = MPNetModel(MPNetConfig(**{key: value for key, value in MPNET.items() if key != "model_type"}))
    assert mpnet_parameters(MPNET) == sum(p.numel() for p in model.parameters())


def test_one_layer_by_hand() -> None:
    layer = layer_weights(TINY, "bf16", "none")
    # q 8x8, k 4x8, v 4x8, o 8x8 = 192 numbers of 2 bytes; gate, up 16x8 and down 8x16 = 384; two norms of 8
    assert (layer.attention, layer.feed_forward, layer.norms, layer.router) == (384, 768, 32, 0)
    whole = weights(TINY, "bf16")
    # tables of 32 x 8 x 2 = 512 bytes each, and the last norm
    assert (whole.embedding, whole.head, whole.norms, whole.total) == (512, 512, 2 * 32 + 16, 2 * (384 + 768) + 80 + 1024)


def test_nf4_by_hand() -> None:
    # 256 x 128 = 32,768 numbers: half a byte each, 512 blocks of 64 with a byte, 2 groups of 256 blocks with 4 bytes, 1,092 of tables
    assert matrix_bytes(Matrix("q_proj", 256, 128), "bf16", "nf4") == 16_384 + 512 + 8 + 1092
    assert matrix_bytes(Matrix("q_proj", 256, 128, bias=True), "bf16", "int8") == 32_768 + 256 * 4 + 256 * 2


@pytest.mark.parametrize("sizes", [(256, 128), (96, 64), (33, 10)])
def test_nf4_is_what_bitsandbytes_keeps(sizes: tuple[int, int]) -> None:
    from bitsandbytes.nn import Params4bit

    weight: Any = Params4bit(torch.randn(sizes, dtype=torch.bfloat16), requires_grad=False, compress_statistics=True, quant_type="nf4")
    weight = weight.to("cpu")
    state = weight.quant_state
    tensors = [weight, state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
    assert matrix_bytes(Matrix("q_proj", *sizes), "bf16", "nf4") == sum(t.numel() * t.element_size() for t in tensors)


def test_lora_by_hand() -> None:
    # r = 2. Attention: q 2(8+8), k and v 2(4+8) each, o 2(8+8) = 112 weights a layer, of 4 bytes; gradients as many; two moments
    assert adapter(TINY, Lora(2, "attention")) == (2 * 448, 2 * 448, 2 * 896)
    # the feed-forward block adds 3 x 2(8+16) = 144
    assert adapter(TINY, Lora(2)).weights == 2 * 4 * (112 + 144)


def test_cache_by_hand() -> None:
    assert cache(LLAMA, "fp16", 1, 1) == 4 * 128 * 1024  # 128 KiB a token, and room for four rows at least
    # 8 rows of 10 tokens: 2 (keys, values) x 1 head x 4 numbers x 2 bytes x 2 layers
    assert cache(TINY, "bf16", 8, 10) == 8 * 10 * 2 * 4 * 2 * 2


def test_logits_of_llama_are_large_unless_they_come_in_pieces() -> None:
    whole, pieces = (train_logits(LLAMA, "bf16", Step(2, 1024, True, chunk)) for chunk in (0, 256))
    assert whole == 2048 * 128256 * 4 * 3  # about 1 GiB three times
    assert pieces == whole // 8


def test_attention_over_repeated_keys_by_hand() -> None:
    # TINY in bf16, 4 tokens that see 100 each, 400 together: two hidden states of 8, queries and answers 3 x 8 = 40 numbers a token,
    # a mask of 100; keys and values of 400 tokens for both heads: 2 x 400 x 8
    assert attention_pass(TINY, "bf16", 4, 100, 400) == 2 * (4 * 40 + 4 * 100 + 2 * 400 * 8)
    assert attention_pass(replace(TINY, kv_heads=2), "bf16", 4, 100, 400) == 2 * (4 * 40 + 4 * 100)
    feeding, attending = (reply_pass(TINY, "bf16", "none", 4, 100, seen) for seen in (4, 400))
    # three hidden states, and three of 16 numbers: 72 a token, which is less than the attention even of 4 tokens
    assert feeding == attention_pass(TINY, "bf16", 4, 100, 4) + 4 * 100 * 4 and attending == feeding + 2 * 2 * 396 * 8
    # Llama: the feed-forward block is the larger part of a full pass, as the engine bounds what the rows see
    assert attention_pass(LLAMA, "fp16", PREFILL_TOKENS, 3072, PREFILL_SEEN) < reply_pass(LLAMA, "fp16", "none", PREFILL_TOKENS, 3072, 0)


def test_ratings_take_logits_of_what_is_read_up_to_a_bound() -> None:
    # fp32: 12 log probabilities of each dialogue, and what they are made of; at most 2^25 of a pass
    assert score_logits(TINY, "fp32", 3) == 2 * 3 * 12 * 32 * 4
    assert score_logits(LLAMA, "fp32", 1000) == 2 * (2**25 // 128256) * 128256 * 4
    # fp16: 12 of one dialogue are less than the output layer's first 8192 rows in fp32
    assert score_logits(LLAMA, "fp16", 1) == 12 * 128256 * 4 + 8192 * 4096 * 4


def test_checkpointing_keeps_layer_inputs_alone() -> None:
    kept, moment = train_pass(LLAMA, "bf16", "none", Lora(), Step(2, 1024, checkpointing=True))
    full, _ = train_pass(LLAMA, "bf16", "none", Lora(), Step(2, 1024, checkpointing=False))
    assert kept == 2048 * 4096 * 2
    assert moment > full > 10 * kept


@pytest.mark.parametrize("name", [name for name, (kind, _) in architectures.KINDS.items() if kind in LAYOUTS])
def test_every_layout_counts_what_its_models_have(name: str) -> None:
    model = architectures.model_of(name)
    assert parameters(shape_of(model.config.to_dict())) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("values", [{}, {"model_type": "gpt2"}, {"model_type": "llama", "hidden_size": 8}])
def test_what_is_not_known_is_said(values: dict[str, Any]) -> None:
    with pytest.raises(UnknownArchitecture):
        shape_of(values)


shapes = st.builds(
    lambda layers, heads, groups, dim, ffn, vocab, experts, tied, bias: Shape(
        layers, heads * groups * dim, heads * groups, heads, dim, ffn, vocab, experts, min(2, experts), tied, bias
    ),
    st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.sampled_from([8, 16]), st.integers(8, 200), st.integers(16, 500),
    st.sampled_from([0, 2, 8]), st.booleans(), st.booleans(),
)  # fmt: skip


@given(shapes, st.sampled_from(["none", "int8", "nf4"]), st.sampled_from(["fp32", "bf16"]))
@settings(max_examples=50, deadline=None)
def test_the_sum_of_parts_is_the_whole(shape: Shape, quantization: Any, dtype: Any) -> None:
    whole, layer = weights(shape, dtype, quantization), layer_weights(shape, dtype, quantization)
    last_norm = shape.hidden * {"fp32": 4, "bf16": 2}[dtype]
    assert whole.total == shape.layers * layer.total + whole.embedding + whole.head + last_norm
    assert whole.embedding >= whole.head
