"""How the next token is chosen: keyed sampling and contrastive search.

Shapes stand in the names: B rows, S tokens of context, K candidates, V words, D dimensions.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import LogitsProcessor

from expertchat.backends.base import Decoding

Stop = Callable[[Tensor, Any], Tensor]
"""(ids_B_S, None) -> done_B, called after every new token."""


def uniforms(seed: int, key: str, count: int) -> list[float]:
    """`count` numbers in [0, 1); the i-th depends on (seed, key, i) alone."""
    numbers: list[float] = []
    for block in range((count + 7) // 8):
        digest = blake2b(f"{seed}\x1f{key}\x1f{block}".encode("utf-8", "surrogatepass"), digest_size=64).digest()
        numbers.extend((word >> 11) * 2.0**-53 for word in struct.unpack("<8Q", digest))
    return numbers[:count]


def kept_probabilities(scores_B_V: Tensor, decoding: Decoding) -> Tensor:
    """Probabilities after temperature, top-k, top-p and min-p, in this order; what is not kept is 0. Not normalised.

    Words with equal probability stay or go together, so the order of a sort never decides.
    """
    exact = torch.float32 if scores_B_V.device.type == "mps" else torch.float64
    probs_B_V = torch.softmax(scores_B_V.to(exact) / decoding.temperature, dim=-1)
    if 0 < decoding.top_k < probs_B_V.shape[-1]:
        lowest_B_1 = probs_B_V.topk(decoding.top_k, dim=-1).values[:, -1:]
        probs_B_V = probs_B_V.masked_fill(probs_B_V < lowest_B_1, 0.0)
        probs_B_V = probs_B_V / probs_B_V.sum(-1, keepdim=True)
    if decoding.top_p < 1.0:
        sorted_B_V = probs_B_V.sort(dim=-1, descending=True).values
        before_B_V = sorted_B_V.cumsum(-1) - sorted_B_V
        count_B_1 = (before_B_V < decoding.top_p).sum(-1, keepdim=True)
        lowest_B_1 = sorted_B_V.gather(-1, count_B_1 - 1)
        probs_B_V = probs_B_V.masked_fill(probs_B_V < lowest_B_1, 0.0)
    if decoding.min_p > 0.0:
        lowest_B_1 = decoding.min_p * probs_B_V.max(-1, keepdim=True).values
        probs_B_V = probs_B_V.masked_fill(probs_B_V < lowest_B_1, 0.0)
    return probs_B_V


class KeyedSampling(LogitsProcessor):
    """Draws by inverse CDF with random numbers fixed up front, then leaves only the drawn word for the greedy search to pick.

    The CDF runs in vocabulary order and not in order of probability: two words that change places by a rounding error would
    else change the draw.
    """

    def __init__(self, noise_B_T: Sequence[Sequence[float]], prompt_length: int, decoding: Decoding) -> None:
        self.noise_B_T = torch.tensor([list(row) for row in noise_B_T], dtype=torch.float64)
        self.prompt_length = prompt_length
        self.decoding = decoding

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        cdf_B_V = kept_probabilities(scores, self.decoding).cumsum(-1)
        total_B_1 = cdf_B_V[:, -1:]
        noise_B_1 = self.noise_B_T[:, input_ids.shape[1] - self.prompt_length, None].to(cdf_B_V)
        target_B_1 = torch.minimum(noise_B_1 * total_B_1, torch.nextafter(total_B_1, torch.zeros_like(total_B_1)))
        drawn_B_1 = torch.searchsorted(cdf_B_V, target_B_1, right=True)
        return torch.full_like(scores, float("-inf")).scatter_(1, drawn_B_1, 0.0)


def left_pad(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """ids_B_S and mask_B_S (1 = real) of ragged rows."""
    length = max(len(row) for row in rows)
    ids = [[pad_id] * (length - len(row)) + list(row) for row in rows]
    mask = [[0] * (length - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def positions(mask_B_S: Tensor) -> Tensor:
    """Position ids of left-padded rows: the first real token stands at 0."""
    return (mask_B_S.cumsum(-1) - 1).clamp(min=0)


@contextmanager
def _last_hidden(model: Any) -> Iterator[list[Tensor]]:
    """Catches the last layer's hidden states of each forward pass; `output_hidden_states` would keep those of all layers."""
    caught: list[Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        caught[:] = [output[0]]

    hook = model.get_decoder().register_forward_hook(keep)
    try:
        yield caught
    finally:
        hook.remove()


def contrastive_scores(probs_B_K: Tensor, candidates_B_K_D: Tensor, context_B_S_D: Tensor, mask_B_S: Tensor, alpha: float) -> Tensor:
    """(1 - alpha) p(v) - alpha max_j cos(h_v, h_j) over the real tokens j of each row. Hidden states have length 1."""
    cosine_B_K_S = candidates_B_K_D @ context_B_S_D.transpose(1, 2)
    cosine_B_K_S = cosine_B_K_S.masked_fill(mask_B_S[:, None, :] == 0, -2.0)
    return (1 - alpha) * probs_B_K - alpha * cosine_B_K_S.max(-1).values


@torch.inference_mode()
def contrastive_search(model: Any, ids_B_S: Tensor, mask_B_S: Tensor, decoding: Decoding, max_new_tokens: int, stop: Stop) -> Tensor:
    """Contrastive search (Su et al. 2022, arXiv 2202.06417) over left-padded rows; returns the ids with the new tokens.

    The cache holds K equal copies of each row. One pass over the K candidates of a row gives their hidden states and, for the one that is
    chosen, the next probabilities too; then its cache is copied over the other K - 1.
    """
    batch, alpha = ids_B_S.shape[0], decoding.penalty_alpha
    rows_B = torch.arange(batch, device=ids_B_S.device)
    with _last_hidden(model) as hidden:
        out = model(input_ids=ids_B_S, attention_mask=mask_B_S, position_ids=positions(mask_B_S), use_cache=True, logits_to_keep=1)
        logits_B_V, cache = out.logits[:, -1].to(ids_B_S.device), out.past_key_values
        context_B_S_D = normalize(hidden[0].float(), dim=-1).to(ids_B_S.device)
        k = min(decoding.top_k, logits_B_V.shape[-1])
        cache.batch_repeat_interleave(k)
        for _ in range(max_new_tokens):
            probs_B_K, words_B_K = torch.softmax(logits_B_V.float(), dim=-1).topk(k, dim=-1)
            context_mask_B_S = mask_B_S
            mask_B_S = torch.cat([mask_B_S, mask_B_S.new_ones(batch, 1)], dim=1)
            out = model(
                input_ids=words_B_K.reshape(-1, 1),
                attention_mask=mask_B_S.repeat_interleave(k, dim=0),
                position_ids=positions(mask_B_S)[:, -1:].repeat_interleave(k, dim=0),
                past_key_values=cache,
                use_cache=True,
            )
            hidden_B_K_D = normalize(hidden[0][:, -1].float(), dim=-1).to(ids_B_S.device).view(batch, k, -1)
            best_B = contrastive_scores(probs_B_K, hidden_B_K_D, context_B_S_D, context_mask_B_S, alpha).argmax(-1)
            cache.batch_select_indices((rows_B * k + best_B).repeat_interleave(k))
            logits_B_V = out.logits[:, -1].to(ids_B_S.device).view(batch, k, -1)[rows_B, best_B]
            context_B_S_D = torch.cat([context_B_S_D, hidden_B_K_D[rows_B, best_B][:, None]], dim=1)
            ids_B_S = torch.cat([ids_B_S, words_B_K[rows_B, best_B][:, None]], dim=1)
            if bool(stop(ids_B_S, None).all()):
                break
    return ids_B_S
