"""Both replies of a pair after one copy of their prompt: it is what most tokens of a pair are, and computed twice without need.

A row is the prompt, the chosen reply and the rejected one; each token sees the prompt and its own reply, at the place that it would have
alone. So a prompt of 300 tokens with two replies of 64 takes 428 tokens through every layer, forward and back, instead of 728.
Shapes: B pairs, T tokens of the longest prompt with a reply, L of the longest row, D dimensions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Packed(NamedTuple):
    """Rows of pairs, and where each token of a chosen (the first B) or rejected (the last B) one stands in the row of its pair."""

    ids_B_L: Tensor
    positions_B_L: Tensor
    visible_B_L_L: Tensor
    rows_2B_1: Tensor
    columns_2B_T: Tensor


def packed(ids_2B_T: Tensor, mask_2B_T: Tensor) -> Packed:
    """Pairs as TRL stacks them: the prompts with the chosen replies, then the same prompts with the rejected ones, padded on the right.

    What both begin with is shared, be it more than the prompt.
    """
    chosen_B_T, rejected_B_T = ids_2B_T.chunk(2)
    real_2B_T = mask_2B_T.bool()
    chosen_real_B_T, rejected_real_B_T = real_2B_T.chunk(2)
    pairs, longest = chosen_B_T.shape
    place_T = torch.arange(longest, device=ids_2B_T.device)
    end_B_1 = chosen_real_B_T.sum(1, keepdim=True)
    shared_B_T = ((chosen_B_T == rejected_B_T) & chosen_real_B_T & rejected_real_B_T).long().cumprod(1)
    prompt_B_1 = shared_B_T.sum(1, keepdim=True)
    after_B_T = torch.where(place_T < prompt_B_1, place_T, end_B_1 + place_T - prompt_B_1)
    columns_2B_T = torch.cat([place_T.expand(pairs, -1), after_B_T]).masked_fill(~real_2B_T, 0)
    width = int(columns_2B_T.max()) + 1
    rows_2B_1 = torch.arange(pairs, device=ids_2B_T.device).repeat(2)[:, None]
    ids_B_L, positions_B_L = (torch.zeros(pairs, width, dtype=torch.long, device=ids_2B_T.device) for _ in range(2))
    where = (rows_2B_1.expand(-1, longest)[real_2B_T], columns_2B_T[real_2B_T])
    ids_B_L[where] = ids_2B_T[real_2B_T]
    positions_B_L[where] = place_T.expand(2 * pairs, -1)[real_2B_T]
    return Packed(ids_B_L, positions_B_L, _visible(prompt_B_1, end_B_1, width), rows_2B_1, columns_2B_T)


def _visible(prompt_B_1: Tensor, end_B_1: Tensor, width: int) -> Tensor:
    """Whether a token (second axis) sees another (last axis): none after it, and of the replies its own alone.

    Padding at the end of a row is seen by padding alone, as a part of the rejected reply that comes after it.
    """
    place_L = torch.arange(width, device=prompt_B_1.device)
    shared_B_L, rejected_B_L = place_L < prompt_B_1, place_L >= end_B_1
    seen_B_L_L = shared_B_L[:, None, :] | (rejected_B_L[:, None, :] == rejected_B_L[:, :, None])
    return seen_B_L_L & (place_L[None, :] <= place_L[:, None])


@contextmanager
def one_prompt(body: Any) -> Iterator[None]:
    """Within it, `body` (of a model, without its output layer) computes pairs in shared rows and gives the hidden states [2B, T, D] of its
    usual way; those of padding are some other token's."""
    before = vars(body).get("forward")  # a hook of accelerate's, where a model stands on several devices
    body.forward = _shared(body, body.forward)
    try:
        yield
    finally:
        if before is None:
            del body.forward
        else:
            body.forward = before


def _shared(body: Any, forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def pairs(input_ids: Tensor, attention_mask: Tensor, **more: Any) -> Any:
        rows = packed(input_ids, attention_mask)
        hidden = torch.zeros(rows.visible_B_L_L.shape, dtype=body.dtype, device=input_ids.device)
        mask_B_1_L_L = hidden.masked_fill_(~rows.visible_B_L_L, float("-inf"))[:, None]
        out = forward(input_ids=rows.ids_B_L, attention_mask=mask_B_1_L_L, position_ids=rows.positions_B_L, **more)
        states_B_L_D = out.last_hidden_state
        where = (index.to(states_B_L_D.device) for index in (rows.rows_2B_1, rows.columns_2B_T))
        out.last_hidden_state = states_B_L_D[tuple(where)]
        return out

    return pairs
