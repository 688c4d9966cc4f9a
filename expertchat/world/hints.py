"""The passes of a model in training, and two hints that make the reading of a judgement learnable in a few million tokens.

A judge labels each sentence at its marker in the answer. What it must find is a chain: what the sentence says, at its marker in the
prompt; then from the answer's marker that place. Left alone the chain is found late and suddenly. So a label is also asked for at the
prompt's marker, one layer before the last, and one head of the last layer is told where to look. Both are terms of the loss alone:
the model that comes out is a plain one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from expertchat.world.corpus import Micro


def trunk(model: Any, ids_B_T: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the last layer reads, and what the head reads: two tensors (B, T, hidden).

    No mask: the padding is on the right, where no token looks. The passes are those of the model's own modules, but for the experts of
    a Mixtral (see `dense_experts`).
    """
    import torch

    base = model.model
    hidden = base.embed_tokens(ids_B_T)
    turned = base.rotary_emb(hidden, position_ids=torch.arange(ids_B_T.shape[1])[None])
    for layer in base.layers[:-1]:
        hidden = layer(hidden, attention_mask=None, position_embeddings=turned)
    return hidden, base.norm(base.layers[-1](hidden, attention_mask=None, position_embeddings=turned))


def dense_experts(self: Any, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor, **_: Any) -> torch.Tensor:
    """A mixture's experts, all of them computed for every token (N, hidden), those not chosen weighed with 0.

    The same numbers as from the chosen ones alone. With experts as small as these it is faster, and it can be compiled: nothing depends on
    which are chosen.
    """
    import torch

    share = torch.zeros(hidden.shape[0], self.num_experts, dtype=weights.dtype).scatter(1, index, weights)  # (N, experts)
    gate, up = torch.einsum("nh,efh->enf", hidden, self.gate_up_proj).chunk(2, dim=-1)
    out = torch.einsum("enf,ehf->enh", self.act_fn(gate) * up, self.down_proj)
    return torch.einsum("enh,ne->nh", out, share.to(out.dtype))


def labels_at_markers(model: Any, hidden: torch.Tensor, micro: Micro) -> torch.Tensor:
    """The sum over the marks of -log P(label) as the head would read it at the prompt's marker, before the last layer."""
    import torch.nn.functional as F

    rows, shown, answered = micro.marks.T
    logits = model.lm_head(model.model.norm(hidden[rows, shown]))
    return F.cross_entropy(logits.float(), micro.ids[rows, answered + 1], reduction="sum")


def look_at_markers(model: Any, hidden: torch.Tensor, micro: Micro) -> torch.Tensor:
    """The sum over the marks of -log of the attention that the last layer's first head pays from the answer's marker to the prompt's."""
    import torch
    import torch.nn.functional as F
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    base, layer = model.model, model.model.layers[-1]
    size = layer.self_attn.head_dim
    rows, shown, answered = micro.marks.T
    read = layer.input_layernorm(hidden)
    query = F.linear(read, layer.self_attn.q_proj.weight[:size])[:, None]
    key = F.linear(read, layer.self_attn.k_proj.weight[:size])[:, None]
    cos, sin = base.rotary_emb(hidden, position_ids=torch.arange(hidden.shape[1])[None])
    query, key = (x[:, 0] for x in apply_rotary_pos_emb(query, key, cos, sin))
    scores = (query @ key.transpose(1, 2))[rows, answered].float() / size**0.5  # (marks, T)
    later = torch.arange(hidden.shape[1])[None] > answered[:, None]
    return F.cross_entropy(scores.masked_fill(later, float("-inf")), shown, reduction="sum")
