"""Attention over shared keys and values: what `sdpa` of transformers does, without a copy of the cache for grouped queries."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from expertchat.backends.compiled import few_queries

NAME = "grouped_sdpa"
FEW = 16  # queries of a row up to which the tiled mask is smaller than repeated keys and values


def grouped_attention(
    module: Any, query_B_Hq_T_D: Tensor, key_B_H_L_D: Tensor, value_B_H_L_D: Tensor, attention_mask: Tensor | None, **more: Any
) -> tuple[Tensor, None]:
    """Attention outputs [B, T, Hq, D]. The Hq / H queries that share a key head stand side by side as queries of that head."""
    batch, query_heads, queries, dim = query_B_Hq_T_D.shape
    heads = key_B_H_L_D.shape[1]
    groups = query_heads // heads
    if module.training or attention_mask is None or queries > FEW or attention_mask.shape[1] != 1 or attention_mask.shape[-2] != queries:
        return sdpa_attention_forward(module, query_B_Hq_T_D, key_B_H_L_D, value_B_H_L_D, attention_mask, **more)
    scale = more.get("scaling") or dim**-0.5
    query_B_Hq_T_D = query_B_Hq_T_D.reshape(batch, heads, groups * queries, dim)
    out = few_queries(query_B_Hq_T_D, key_B_H_L_D, value_B_H_L_D, attention_mask, scale)
    if out is None:
        mask = attention_mask.repeat(1, 1, groups, 1) if groups > 1 and queries > 1 else attention_mask
        out = scaled_dot_product_attention(query_B_Hq_T_D, key_B_H_L_D, value_B_H_L_D, attn_mask=mask, scale=more.get("scaling"))
    return out.reshape(batch, query_heads, queries, out.shape[-1]).transpose(1, 2), None


AttentionInterface.register(NAME, grouped_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
