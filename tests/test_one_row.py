"""A model whose rows cannot be padded (RWKV): the probabilities of several replies are those that each has alone."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, RwkvConfig

from expertchat.backends.likelihood import likelihoods
from expertchat.backends.local import LocalBackend
from tests import tiny

torch.set_num_threads(1)


def test_replies_of_different_lengths_are_not_padded() -> None:
    words = tiny.tokenizer("qwen3")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "attention_hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "context_length": 256}
    model = AutoModelForCausalLM.from_config(RwkvConfig(vocab_size=len(words), eos_token_id=1, bos_token_id=None, **shape)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    backend = LocalBackend(model, words, "m")
    assert backend.max_batch == 1
    prompt, replies = tuple(range(20, 40)), [(50, 51, 52), (60,), (70, 71, 72, 73, 74, 75, 76)]
    for reply, found in zip(replies, likelihoods(backend, [(prompt, replies)])[0], strict=True):
        logps = model(torch.tensor([[*prompt, *reply]])).logits[0].detach().log_softmax(-1)
        wanted = sum(float(logps[len(prompt) + i - 1, token]) for i, token in enumerate(reply))
        assert found.logp == pytest.approx(wanted, abs=1e-3)
