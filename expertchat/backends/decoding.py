"""How the next token is chosen: keyed sampling and the score of contrastive search.

Shapes stand in the names: B rows, S tokens of context, K candidates, V words, D dimensions.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import LogitsProcessor, PreTrainedModel

from expertchat.backends.base import Decoding

BLOCK = 64  # words of a block in a draw
BROKEN = -1  # in the place of a word that cannot be chosen, because the model's logits are not finite


class NotFinite(ArithmeticError):
    """A model's logits are not finite."""


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
    scaled_B_V = scores_B_V.float() if decoding.temperature == 1.0 else scores_B_V.float() / decoding.temperature
    probs_B_V = torch.softmax(scaled_B_V, dim=-1)
    if 0 < decoding.top_k < probs_B_V.shape[-1]:
        lowest_B_1 = probs_B_V.topk(decoding.top_k, dim=-1).values[:, -1:]
        probs_B_V = probs_B_V.masked_fill(probs_B_V < lowest_B_1, 0.0)
        probs_B_V = probs_B_V / probs_B_V.sum(-1, keepdim=True)
    if decoding.top_p < 1.0:
        probs_B_V = probs_B_V.masked_fill(probs_B_V < _nucleus(probs_B_V, decoding.top_p), 0.0)
    if decoding.min_p > 0.0:
        lowest_B_1 = decoding.min_p * probs_B_V.max(-1, keepdim=True).values
        probs_B_V = probs_B_V.masked_fill(probs_B_V < lowest_B_1, 0.0)
    return probs_B_V


def _nucleus(probs_B_V: Tensor, top_p: float) -> Tensor:
    """The lowest probability [B, 1] of the smallest set of words that holds `top_p`. A few words mostly do: only they are sorted."""
    words = probs_B_V.shape[-1]
    for count in (min(64, words), words):
        sorted_B_K = probs_B_V.topk(count, dim=-1).values if count < words else probs_B_V.sort(dim=-1, descending=True).values
        before_B_K = sorted_B_K.cumsum(-1) - sorted_B_K
        if count == words or bool((before_B_K[:, -1] >= top_p).all()):
            break
    return sorted_B_K.gather(-1, ((before_B_K < top_p).sum(-1, keepdim=True) - 1).clamp(min=0))


def draw(probs_B_V: Tensor, noise_B: Tensor) -> Tensor:
    """Words [B] by inverse CDF of probabilities that need not be normalised, with one number in [0, 1) for each row.

    The CDF runs in vocabulary order and not in order of probability: two words that change places by a rounding error would
    else change the draw. First the block of words is found, then the word in it: one long cumulative sum costs more. Where the
    probabilities are not numbers, the word is BROKEN.
    """
    exact = torch.float32 if probs_B_V.device.type == "mps" else torch.float64
    batch, words = probs_B_V.shape
    blocks_B_N_W = (pad(probs_B_V, (0, -words % BLOCK)) if words % BLOCK else probs_B_V).view(batch, -1, BLOCK)
    target_B_1 = noise_B[:, None].to(probs_B_V.device, exact)
    ends_B_N = blocks_B_N_W.sum(-1).cumsum(-1, dtype=exact)
    target_B_1 = _below(target_B_1 * ends_B_N[:, -1:], ends_B_N)
    block_B_1 = torch.searchsorted(ends_B_N, target_B_1, right=True).clamp(max=ends_B_N.shape[-1] - 1)  # of a NaN it is beyond the end
    start_B_1 = pad(ends_B_N, (1, 0)).gather(-1, block_B_1)
    ends_B_W = blocks_B_N_W.gather(1, block_B_1[:, :, None].expand(-1, -1, BLOCK))[:, 0].cumsum(-1, dtype=exact)
    words_B = (block_B_1 * BLOCK + torch.searchsorted(ends_B_W, _below(target_B_1 - start_B_1, ends_B_W), right=True))[:, 0]
    return words_B.where(ends_B_N[:, -1].isfinite(), BROKEN)


def _below(target_B_1: Tensor, cdf_B_N: Tensor) -> Tensor:
    """A target that lies below the end of the CDF even after rounding: else a word behind the last possible one would be drawn."""
    total_B_1 = cdf_B_N[:, -1:]
    return torch.minimum(target_B_1, torch.nextafter(total_B_1, torch.zeros_like(total_B_1)))


def choose(logits_B_V: Tensor, decoding: Decoding, noise_B: Tensor) -> Tensor:
    """The next words [B], greedy or sampled; BROKEN where the logits are not finite: said in the words, which the caller waits for anyway.

    Logits of -inf are fine, they rule a word out.
    """
    if decoding.method == "greedy":
        best_B, words_B = logits_B_V.max(-1)  # a NaN counts as the largest
        return words_B.where(best_B.isfinite(), BROKEN)
    return draw(kept_probabilities(logits_B_V, decoding), noise_B)


class KeyedSampling(LogitsProcessor):
    """`draw` for `generate`: leaves only the drawn word for the greedy search to pick."""

    def __init__(self, noise_B_T: Sequence[Sequence[float]], prompt_length: int, decoding: Decoding) -> None:
        self.noise_B_T = torch.tensor([list(row) for row in noise_B_T], dtype=torch.float64)
        self.prompt_length = prompt_length
        self.decoding = decoding

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        drawn_B = _whole(draw(kept_probabilities(scores, self.decoding), self.noise_B_T[:, input_ids.shape[1] - self.prompt_length]))
        return torch.full_like(scores, float("-inf")).scatter_(1, drawn_B[:, None], 0.0)


class Finite(LogitsProcessor):
    """Lets finite scores pass. Raises NotFinite."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        best_B, words_B = scores.max(-1)
        _whole(words_B.where(best_B.isfinite(), BROKEN))
        return scores


def _whole(words_B: Tensor) -> Tensor:
    if bool((words_B == BROKEN).any()):
        raise NotFinite
    return words_B


def left_pad(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """ids_B_S and mask_B_S (1 = real) of ragged rows."""
    length = max(len(row) for row in rows)
    ids = [[pad_id] * (length - len(row)) + list(row) for row in rows]
    mask = [[0] * (length - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def positions(mask_B_S: Tensor) -> Tensor:
    """Position ids of left-padded rows: the first real token stands at 0."""
    return (mask_B_S.cumsum(-1) - 1).clamp(min=0)


def is_exact(model: Any) -> bool:
    """Whether two passes of a model over the same tokens differ by a rounding of fp32 alone: not in half precision, nor in int8."""
    return model.dtype == torch.float32 and not getattr(model, "is_loaded_in_8bit", False)


def body(model: Any) -> Any:
    """The part of a model that gives hidden states, without its output layer; some classes give themselves as their decoder."""
    found = model.get_decoder()
    if found is not model:
        return found
    head = model.get_output_embeddings()
    return next(child for child in model.children() if child is not head and isinstance(child, PreTrainedModel))


@contextmanager
def last_hidden(model: Any, wanted: bool = True) -> Iterator[list[Tensor]]:
    """Catches the last layer's hidden states of each forward pass; `output_hidden_states` would keep those of all layers."""
    caught: list[Tensor] = []
    if not wanted:
        yield caught
        return

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        caught[:] = [output[0]]

    hook = body(model).register_forward_hook(keep)
    try:
        yield caught
    finally:
        hook.remove()


def contrastive_scores(probs_B_K: Tensor, candidates_B_K_D: Tensor, context_B_S_D: Tensor, mask_B_S: Tensor, alpha: float) -> Tensor:
    """(1 - alpha) p(v) - alpha max_j cos(h_v, h_j) over the real tokens j of each row. Hidden states have length 1."""
    cosine_B_K_S = candidates_B_K_D @ context_B_S_D.transpose(1, 2)
    cosine_B_K_S = cosine_B_K_S.masked_fill(mask_B_S[:, None, :] == 0, -2.0)
    return (1 - alpha) * probs_B_K - alpha * cosine_B_K_S.max(-1).values
