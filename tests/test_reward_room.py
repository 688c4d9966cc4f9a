"""The memory that a reward model's training takes: arithmetic, held against tensors that are counted, and what is to be lowered."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from expertchat.command.compose import load
from expertchat.plan.job import Gpu
from expertchat.plan.memory import GIB
from expertchat.reward_models.config import RewardModelTraining
from expertchat.reward_models.room import fitting_tokens, layer_kept, need_of, room_problems

WIDTH, FEED, HEADS, TOKENS, TEXTS = 96, 384, 12, 64, 2


def config(*overrides: str) -> RewardModelTraining:
    found: RewardModelTraining = load("reward_model", ["source.path=[x]", *overrides])
    return found


def kept_by(layers: int) -> int:
    """Bytes of all tensors, weights aside, that a BERT of so many layers keeps for its backward pass."""
    torch.manual_seed(0)
    shape = {"hidden_size": WIDTH, "intermediate_size": FEED, "num_attention_heads": HEADS, "vocab_size": 50, "max_position_embeddings": 80}
    model = BertForSequenceClassification(BertConfig(**shape, num_hidden_layers=layers)).train()
    own, kept, held = {p.untyped_storage().data_ptr() for p in model.parameters()}, dict[int, int](), list[Any]()

    def keep(tensor: Any) -> Any:
        held.append(tensor)  # else its place in memory is given away
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=torch.full((TEXTS, TOKENS), 7), attention_mask=torch.ones(TEXTS, TOKENS, dtype=torch.long)).logits.sum()
    return sum(size for place, size in kept.items() if place not in own)


def test_what_a_layer_keeps_is_counted() -> None:
    each = (kept_by(3) - kept_by(1)) / 2 / (TEXTS * TOKENS)
    # 4 * (10 * 96 + 2 * 384) + 12 * 12 * 64 + 16 = 6912 + 9216 + 16
    assert layer_kept(WIDTH, FEED, HEADS, TOKENS) == 16144 == pytest.approx(each, rel=0.01)


def test_weights_their_gradients_and_two_moments() -> None:
    """fp32: 4 bytes a number, and 3 * 4 more where it is trained."""
    encoder = need_of(config("train.micro_batch=4"), 64)
    assert encoder is not None and encoder.learnt == 3 * encoder.weights
    decoder, whole = need_of(config("kind=decoder"), 64), need_of(config("kind=decoder", "train.method=full"), 64)
    assert decoder is not None and whole is not None
    assert whole.learnt == 3 * whole.weights == 3 * decoder.weights and decoder.learnt < decoder.weights
    twice = need_of(config("train.micro_batch=8"), 64)
    assert twice is not None and twice.training == 2 * encoder.training  # all of a step grows with its texts


def test_what_does_not_fit_is_told_with_what_to_lower() -> None:
    given = config("kind=decoder", "train.method=full", "train.micro_batch=16")
    need, least = need_of(given, 256), need_of(given, 0)
    assert need is not None and least is not None and least.training == 0
    size = Gpu(int((least.total + need.total) / 2 + Gpu(GIB).reserve * 1.05))
    (said,) = room_problems(given, 256, size)
    assert said.startswith("does not fit: rows of 256 tokens need") and "lower train.micro_batch from 16 to" in said
    assert "set train.checkpointing=true" in said
    assert room_problems(given, 256, Gpu(80 * GIB)) == []
    (nothing,) = room_problems(given, 256, Gpu(int(Gpu(GIB).reserve * 1.02)))
    assert "take a smaller model" in nothing
    assert need_of(config("model.path=owner/nowhere"), 64) is None and fitting_tokens(config("model.path=owner/nowhere"), size) is None
    longest = fitting_tokens(given, size)
    assert longest is not None and not room_problems(given, longest, size) and room_problems(given, longest + 32, size)
