"""Both replies of a pair after one copy of their prompt: the same hidden states and gradients as apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from expertchat.backends.decoding import body
from expertchat.training.one_prompt import one_prompt, packed
from tests import tiny

torch.set_num_threads(1)
PAIRS = [  # prompt, chosen, rejected
    ([11, 12, 13, 14, 15], [21, 22], [31, 32, 33]),
    ([11], [21, 22, 23, 24], [31]),
    ([41, 42, 43], [51, 52], [51, 52, 53]),  # the chosen reply is the beginning of the other
    ([41, 42], [51, 61], [51, 62]),
]


def stacked(pairs: list[tuple[list[int], list[int], list[int]]]) -> tuple[Tensor, Tensor]:
    """As TRL stacks them: ids and mask [2B, T], padded on the right."""
    rows = [[*prompt, *chosen] for prompt, chosen, _ in pairs] + [[*prompt, *rejected] for prompt, _, rejected in pairs]
    width = max(map(len, rows))
    ids = torch.tensor([row + [7] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def test_a_row_by_hand() -> None:
    rows = packed(*stacked([([1, 2], [3], [4, 5]), ([6], [7, 8, 9], [10])]))
    # 1 2 | 3 | 4 5 and 6 | 7 8 9 | 10; the rejected reply stands where it would stand alone, after the prompt
    assert rows.ids_B_L.tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]
    assert rows.positions_B_L.tolist() == [[0, 1, 2, 2, 3], [0, 1, 2, 3, 1]]
    # chosen 1 2 3 _ and 6 7 8 9; rejected 1 2 4 5 and 6 10 _ _
    assert rows.columns_KB_T.tolist() == [[0, 1, 2, 0], [0, 1, 2, 3], [0, 1, 3, 4], [0, 4, 0, 0]]
    seen = [[[k for k in range(5) if row[q][k]] for q in range(5)] for row in rows.visible_B_L_L.tolist()]
    assert seen == [[[0], [0, 1], [0, 1, 2], [0, 1, 3], [0, 1, 3, 4]], [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 4]]]


def test_every_token_of_a_row_sees_something() -> None:
    """A row without anything to see would be NaN, and of padding too."""
    rows = packed(*stacked([([1], [2], [3]), ([1, 2, 3], [4, 5, 6], [7, 8, 9])]))
    assert rows.visible_B_L_L.any(-1).all()
    assert not rows.visible_B_L_L[0, :3, 3:].any()  # and no token sees padding


@pytest.mark.parametrize("family", ["llama3", "mixtral", "qwen2_5"])
@pytest.mark.parametrize("attention", ["sdpa", "eager", "grouped_sdpa"])
def test_the_same_states_and_gradients(tmp_path: Path, family: str, attention: str) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(tiny.build(tmp_path / family, family), dtype=torch.float32)
    model.set_attn_implementation(attention)
    model.train()
    inner = body(model)
    ids, mask = stacked(PAIRS)
    weights = torch.randn(*ids.shape, model.config.hidden_size, generator=torch.Generator().manual_seed(0)) * mask[..., None]

    def run() -> tuple[Tensor, list[Tensor]]:
        model.zero_grad()
        states = inner(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        (states * weights).sum().backward()
        return states.detach() * mask[..., None], [p.grad.clone() for p in model.parameters() if p.grad is not None]

    apart, apart_grads = run()
    with one_prompt(inner):
        shared, shared_grads = run()
    assert "forward" not in vars(inner)
    assert float((apart - shared).abs().max()) < 1e-5 * max(1.0, float(apart.abs().max()))
    assert len(apart_grads) == len(shared_grads) > 3
    for one, other in zip(apart_grads, shared_grads, strict=True):
        assert torch.allclose(one, other, atol=1e-4 * float(one.abs().max()) + 1e-7)
