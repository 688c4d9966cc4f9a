"""All replies of a row after one copy of their prompt: it is what most of its tokens are, and computed again for each without need.

A row is the prompt and its replies (of a pair the chosen and the rejected one) one after the other; each token sees the prompt and its own
reply, at the place that it would have alone. So a prompt of 300 tokens with two replies of 64 takes 428 tokens through every layer, forward
and back, instead of 728; with four replies 556 instead of 1456.
Shapes: K replies of each of B rows, T tokens of the longest prompt with a reply, L of the longest row, D dimensions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Packed(NamedTuple):
    """Rows with their replies, and where each token of a text (B prompts with their first reply, then B with their second, ...) stands in
    its row."""

    ids_B_L: Tensor
    positions_B_L: Tensor
    visible_B_L_L: Tensor
    rows_KB_1: Tensor
    columns_KB_T: Tensor


def packed(ids_KB_T: Tensor, mask_KB_T: Tensor, replies: int = 2) -> Packed:
    """Texts as TRL stacks them: the prompts with their first replies, then the same prompts with their second ones, padded on the right.

    What all of a row begin with is shared, be it more than the prompt. A text may be its prompt alone.
    """
    ids_K_B_T = torch.stack(ids_KB_T.chunk(replies))
    real_K_B_T = torch.stack(mask_KB_T.bool().chunk(replies))
    rows, longest = ids_K_B_T.shape[1:]
    place_T = torch.arange(longest, device=ids_KB_T.device)
    shared_B_T = ((ids_K_B_T == ids_K_B_T[0]).all(0) & real_K_B_T.all(0)).long().cumprod(1)
    prompt_B = shared_B_T.sum(1)
    own_K_B = real_K_B_T.sum(2) - prompt_B
    begin_K_B = prompt_B + own_K_B.cumsum(0) - own_K_B  # where a reply's own tokens begin in its row
    after_K_B_T = begin_K_B[:, :, None] + place_T - prompt_B[:, None]
    columns_K_B_T = torch.where(place_T < prompt_B[:, None], place_T, after_K_B_T).masked_fill(~real_K_B_T, 0)
    width = int(columns_K_B_T.max()) + 1
    rows_K_B = torch.arange(rows, device=ids_KB_T.device).expand(replies, -1)
    ids_B_L, positions_B_L = (torch.zeros(rows, width, dtype=torch.long, device=ids_KB_T.device) for _ in range(2))
    where = (rows_K_B[:, :, None].expand(-1, -1, longest)[real_K_B_T], columns_K_B_T[real_K_B_T])
    ids_B_L[where] = ids_K_B_T[real_K_B_T]
    positions_B_L[where] = place_T.expand(replies, rows, -1)[real_K_B_T]
    visible_B_L_L = _visible(prompt_B, begin_K_B[1:], width)
    return Packed(ids_B_L, positions_B_L, visible_B_L_L, rows_K_B.reshape(-1, 1), columns_K_B_T.reshape(-1, longest))


def _visible(prompt_B: Tensor, begin_K_B: Tensor, width: int) -> Tensor:
    """Whether a token (second axis) sees another (last axis): none after it, and of the replies its own alone.

    `begin_K_B`: of all replies but the first. Padding at the end of a row is seen by padding alone, as a part of the last reply.
    """
    place_L = torch.arange(width, device=prompt_B.device)
    shared_B_L = place_L < prompt_B[:, None]
    reply_B_L = (place_L >= begin_K_B[:, :, None]).sum(0)
    seen_B_L_L = shared_B_L[:, None, :] | (reply_B_L[:, None, :] == reply_B_L[:, :, None])
    return seen_B_L_L & (place_L[None, :] <= place_L[:, None])


@contextmanager
def one_prompt(body: Any, replies: int = 2) -> Iterator[None]:
    """Within it, `body` (of a model, without its output layer) computes rows of as many replies with one prompt each, and gives the hidden
    states [KB, T, D] of its usual way; those of padding are some other token's."""
    before = vars(body).get("forward")  # a hook of accelerate's, where a model stands on several devices
    body.forward = _shared(body, body.forward, replies)
    try:
        yield
    finally:
        if before is None:
            del body.forward
        else:
            body.forward = before


def _shared(body: Any, forward: Callable[..., Any], replies: int) -> Callable[..., Any]:
    @functools.wraps(forward)
    def rowwise(input_ids: Tensor, attention_mask: Tensor, **more: Any) -> Any:
        more.pop("position_ids", None)  # OPT hands its own on
        rows = packed(input_ids, attention_mask, replies)
        hidden = torch.zeros(rows.visible_B_L_L.shape, dtype=body.dtype, device=input_ids.device)
        mask_B_1_L_L = hidden.masked_fill_(~rows.visible_B_L_L, float("-inf"))[:, None]
        out = forward(input_ids=rows.ids_B_L, attention_mask=mask_B_1_L_L, position_ids=rows.positions_B_L, **more)
        states_B_L_D = out.last_hidden_state
        where = (index.to(states_B_L_D.device) for index in (rows.rows_KB_1, rows.columns_KB_T))
        out.last_hidden_state = states_B_L_D[tuple(where)]
        return out

    return rowwise
