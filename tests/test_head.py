"""Probabilities that are read come from an output layer in fp32, whatever number type the model has."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch.nn.functional import linear

from expertchat.backends import head
from expertchat.backends.base import ScoreRequest
from expertchat.backends.head import exact_head, exact_logits
from expertchat.backends.local import LocalBackend
from expertchat.records import Message
from tests import tiny

torch.set_num_threads(1)
OPTIONS = tuple(str(n) for n in range(1, 11))
CHAT = (Message("user", "Judge expert A from 1 to 10."),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("head"), "llama3", context=256)


def test_rows_of_the_head_are_converted_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "ROWS", 7)  # 20 words: 7 + 7 + 6
    hidden, weight, bias = torch.randn(2, 3, 5).bfloat16(), torch.randn(20, 5).bfloat16(), torch.randn(20).bfloat16()
    found = exact_logits(hidden, weight, bias)
    assert found.dtype == torch.float32 and torch.allclose(found, linear(hidden.float(), weight.float(), bias.float()), atol=1e-6)


@pytest.mark.parametrize("engine", [True, False])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_option_scores_do_not_come_in_the_steps_of_half_precision(folder: Path, dtype: str, engine: bool) -> None:
    """With logits near 40, steps of bf16 are 1/4 and of fp16 1/32: the log probabilities of two options differed by multiples of that."""
    backend = LocalBackend.load(folder, "m", device="cpu", dtype=dtype, engine=engine)
    with torch.no_grad():
        backend.model.lm_head.weight *= 4
    scores = backend.score([ScoreRequest("k", CHAT, OPTIONS, prefix="Depth: [[")])[0].logprobs
    step = {"bf16": 1 / 64, "fp16": 1 / 1024}[dtype]  # the steps of logits between 2 and 4; those of larger ones are wider
    gaps = [abs(a - b) for a, b in itertools.pairwise(scores)]
    assert sum(abs(gap / step - round(gap / step)) > 0.02 for gap in gaps) >= 5
    assert backend.model.lm_head.weight.dtype != torch.float32 and "forward" not in vars(backend.model.lm_head)


def test_the_head_is_as_it_was_afterwards_also_after_an_error(folder: Path) -> None:
    model = LocalBackend.load(folder, "m", device="cpu", dtype="bf16").model
    ids = torch.tensor([[1, 2, 3]])
    before = model(ids).logits
    with pytest.raises(ValueError, match="broken off"), exact_head(model):
        assert model(ids).logits.dtype == torch.float32
        raise ValueError("broken off")
    assert model(ids).logits.dtype == torch.bfloat16 and torch.equal(model(ids).logits, before)
