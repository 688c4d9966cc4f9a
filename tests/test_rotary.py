"""Rotary positions that follow the longest row: here no row depends on its neighbours, and a usual one is as transformers has it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from expertchat.backends.base import Decoding, GenerateRequest
from expertchat.backends.layouts import context_of
from expertchat.backends.local import LocalBackend
from expertchat.records import Message
from tests import tiny

torch.set_num_threads(1)
USUAL = 64
SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "initializer_range": 0.3, "bos_token_id": None, "pad_token_id": None, "tie_word_embeddings": False,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "phi3": {
        "max_position_embeddings": 512, "original_max_position_embeddings": USUAL,
        "rope_scaling": {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [8.0] * 4},
    },
    "llama": {"max_position_embeddings": USUAL, "rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
}  # fmt: skip
SHORT, LONG = (Message("user", "Hi."),), (Message("user", "What do herons eat, and where do they fish? " * 6),)


def model_of(kind: str) -> Any:
    words = tiny.tokenizer("qwen3")
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=len(words), eos_token_id=words.eos_token_id, **SHAPE, **KINDS[kind])
    return AutoModelForCausalLM.from_config(config).eval()


def written(backend: LocalBackend, *prompts: tuple[Message, ...]) -> list[tuple[int, ...]]:
    backend.refresh()
    decoding = Decoding(method="greedy", max_new_tokens=8)
    return [one.ids for one in backend.generate([GenerateRequest(f"k{i}", prompt, decoding) for i, prompt in enumerate(prompts)])]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", [True, False])
def test_a_short_row_says_the_same_beside_a_long_one(kind: str, engine: bool) -> None:
    backend = LocalBackend(model_of(kind), tiny.tokenizer("qwen3"), "m", context_length=512, engine=engine)
    assert any("rotary positions are those of 512 tokens in every row" in note for note in backend.info.notes)
    assert len(backend.renderer.encode(LONG)) > USUAL
    assert written(backend, SHORT) == written(backend, SHORT, LONG)[:1]


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_context_length_every_row_is_as_transformers_has_it(kind: str) -> None:
    model = model_of(kind)
    ids = torch.tensor([list(range(5, 45))])
    with torch.no_grad():
        wanted = deepcopy(model)(ids).logits
        for _ in range(2):  # a model may be taken again, by another backend
            backend = LocalBackend(model, tiny.tokenizer("qwen3"), "m")
            assert backend.info.context_length == USUAL
            model(torch.arange(5, 5 + 2 * USUAL)[None] % 400)
            assert torch.allclose(model(ids).logits, wanted, atol=1e-5)
    assert any(f"where a row has more than {USUAL} tokens" in note for note in backend.info.notes)


@pytest.mark.parametrize(("kind", "context"), [("phi3", USUAL), ("llama", USUAL)])
def test_the_plan_and_the_checks_know_that_context_from_the_settings(kind: str, context: int) -> None:
    assert context_of(model_of(kind).config.to_dict()) == context  # as transformers writes them
    assert context_of(KINDS[kind]) == context  # as older versions wrote them
    assert context_of({"max_position_embeddings": 512, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}) == 512
