"""A decoder's pass on a CPU in bf16: weights packed once for oneDNN, one product for q, k and v, activations and residuals inside products.

It does what transformers' forward does, with fewer roundings on the way: a product's sum is rounded once, after its activation or residual.
The weights stand in memory once more.
Shapes: B rows, T tokens of a row, N tokens of all rows, H query heads, K key heads, D numbers of a head, X hidden, V words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from expertchat.backends.attention import grouped_attention
from expertchat.backends.decoding import body
from expertchat.backends.hardware import free_memory
from expertchat.backends.head import exact_logits
from expertchat.backends.layouts import ATTENTION, layout_of
from expertchat.backends.slab import Slab

ROWS = 16  # of a typical step: what oneDNN chooses the packed form for
SHARE = 0.3  # of the free memory that the packed weights take at most
LINEAR = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
FIXED = ("default", "linear", "llama3", "yarn")  # kinds of rotary positions that depend on the position alone


class Product:
    """The product with one weight, or with several that take the same input. Adapters on it are added as they are at the time."""

    def __init__(self, linears: Sequence[Any]) -> None:
        plain = [getattr(linear, "base_layer", linear) for linear in linears]
        weight = torch.cat([linear.weight.detach() for linear in plain])
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
        biases = [linear.bias for linear in plain]
        self.bias = None if biases[0] is None else torch.cat([bias.detach() for bias in biases])
        stops = torch.tensor([linear.out_features for linear in plain]).cumsum(0).tolist()
        self.adapted = [
            (linear, stop - linear.out_features, stop) for linear, stop in zip(linears, stops, strict=True) if hasattr(linear, "base_layer")
        ]

    def __call__(self, x_N_X: Tensor, then: str = "none") -> Tensor:
        """`then`: "none" or "swish"."""
        run = torch.ops.mkldnn._linear_pointwise
        if not self._adapts():
            return run(x_N_X, self.weight, self.bias, then, [], "")
        out = self._add(run(x_N_X, self.weight, self.bias, "none", [], ""), x_N_X)
        return nn.functional.silu(out) if then == "swish" else out

    def onto(self, x_N_X: Tensor, other: Tensor, how: str) -> Tensor:
        """The product, added to `other` ("add") or multiplied with it ("mul")."""
        if not self._adapts():
            return torch.ops.mkldnn._linear_pointwise.binary(x_N_X, other, self.weight, self.bias, how)
        out = self(x_N_X)
        return out + other if how == "add" else out * other

    def _adapts(self) -> bool:
        return any(not linear.disable_adapters for linear, _, _ in self.adapted)

    def _add(self, out: Tensor, x_N_X: Tensor) -> Tensor:
        for linear, start, stop in self.adapted:
            for name in () if linear.disable_adapters else linear.active_adapters:
                if name in linear.lora_A:
                    down, up = linear.lora_A[name], linear.lora_B[name]
                    out[:, start:stop] += up(down(x_N_X.to(down.weight.dtype))) * linear.scaling[name]
        return out


class Layer:
    """The weights of one decoder layer."""

    def __init__(self, layer: Any, qk_norm: bool) -> None:
        attention, feed = layer.self_attn, layer.mlp
        self.attention = attention
        self.before, self.between = layer.input_layernorm.weight.detach(), layer.post_attention_layernorm.weight.detach()
        self.qkv = Product([attention.q_proj, attention.k_proj, attention.v_proj])
        self.norms = (attention.q_norm.weight.detach(), attention.k_norm.weight.detach()) if qk_norm else None
        self.out, self.down = Product([attention.o_proj]), Product([feed.down_proj])
        self.gate, self.up = Product([feed.gate_proj]), Product([feed.up_proj])


class PackedPass:
    """`model` must be `packable`."""

    def __init__(self, model: Any) -> None:
        config, decoder = model.config, body(model)
        self.heads, self.keys, self.eps = config.num_attention_heads, config.num_key_value_heads, config.rms_norm_eps
        self.size, self.dim = config.hidden_size, decoder.layers[0].self_attn.head_dim
        self.words, self.rotary = decoder.embed_tokens, decoder.rotary_emb
        found = layout_of(config.model_type)
        self.layers = [Layer(layer, found is not None and found.qk_norm) for layer in decoder.layers]
        self.norm = decoder.norm.weight.detach()
        self.output = model.get_output_embeddings()
        self.head = Product([self.output])
        blocks = [block for layer in decoder.layers for block in (layer.self_attn, layer.mlp)]
        self._made_of = [(block, name, getattr(block, name)) for block in blocks for name in LINEAR if hasattr(block, name)]

    @property
    def current(self) -> bool:
        """Whether the model still has the layers that this was made of: an adapter that is put on or taken off replaces some."""
        return all(getattr(block, name) is linear for block, name, linear in self._made_of)

    def __call__(self, slab: Slab, ids_B_T: Tensor, positions_B_T: Tensor, mask_B_1_T_L: Tensor, tokens: int) -> Tensor:
        """Hidden states [B, tokens, X] of the last `tokens` tokens, after the last norm. The slab was aimed."""
        batch, count = ids_B_T.shape
        x = self.words(ids_B_T)
        turns = self._turns(x, positions_B_T)
        part = slab.parts[0]
        written = torch.cat([part.index, part.index + part.kv[0, 0].numel() // self.dim])
        x = x.view(batch * count, self.size)
        for i, layer in enumerate(self.layers):
            qkv = layer.qkv(rms_norm(x, (self.size,), layer.before, self.eps)).view(batch, count, self.heads + 2 * self.keys, self.dim)
            turned = self._turned(qkv, turns, layer)
            new = turned[:, :, self.heads :].reshape(batch, count, 2, self.keys, self.dim).permute(2, 0, 3, 1, 4)
            part.kv[i].view(-1, self.dim).index_copy_(0, written, new.reshape(-1, self.dim))
            queries = turned[:, :, : self.heads].transpose(1, 2)
            seen, _ = grouped_attention(layer.attention, queries, *slab.seen(i), mask_B_1_T_L, scaling=layer.attention.scaling, dropout=0.0)
            x = layer.out.onto(seen.reshape(batch * count, -1), x, "add")
            between = rms_norm(x, (self.size,), layer.between, self.eps)
            x = layer.down.onto(layer.up.onto(between, layer.gate(between, "swish"), "mul"), x, "add")
        return rms_norm(x.view(batch, count, self.size)[:, -tokens:], (self.size,), self.norm, self.eps)

    def logits(self, hidden_B_T_X: Tensor, exact: bool) -> Tensor:
        """Logits [B, T, V]; `exact`: in fp32."""
        if exact:
            return exact_logits(hidden_B_T_X, self.output.weight, self.output.bias)
        batch, count, _ = hidden_B_T_X.shape
        return self.head(hidden_B_T_X.reshape(batch * count, self.size)).view(batch, count, -1)

    def _turns(self, x: Tensor, positions_B_T: Tensor) -> tuple[Tensor, Tensor]:
        """What turns a token's heads by its position: cosines and signed sines [B, T, H + 2 K, D]; values are turned by nothing."""
        cos, sin = (turn[:, :, None] for turn in self.rotary(x, positions_B_T))
        half = self.dim // 2
        signed = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
        turned, still = (-1, -1, self.heads + self.keys, -1), (-1, -1, self.keys, -1)
        return (
            torch.cat([cos.expand(turned), torch.ones_like(cos).expand(still)], dim=2),
            torch.cat([signed.expand(turned), torch.zeros_like(sin).expand(still)], dim=2),
        )

    def _turned(self, qkv: Tensor, turns: tuple[Tensor, Tensor], layer: Layer) -> Tensor:
        if layer.norms is not None:
            queries, keys, values = qkv.split([self.heads, self.keys, self.keys], dim=2)
            q, k = (rms_norm(part, (self.dim,), norm, self.eps) for part, norm in zip((queries, keys), layer.norms, strict=True))
            qkv = torch.cat([q, k, values], dim=2)
        cos, sin = turns
        return torch.addcmul(qkv * cos, qkv.roll(self.dim // 2, -1), sin)


class Packed:
    """The packed weights of one model, shared by all who run it; made at first use, and anew after `drop`."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._made: PackedPass | None = None
        self.wanted = packable(model)

    def get(self) -> PackedPass | None:
        """None where the model cannot be run so, or the memory does not do."""
        if self._made is not None and not self._made.current:
            self.wanted, self._made = packable(self._model), None
        if self.wanted and self._made is None:
            self.wanted = 2 * sum(p.numel() for p in self._model.parameters()) <= SHARE * free_memory("cpu")
            self._made = PackedPass(self._model) if self.wanted else None
        return self._made if self.wanted else None

    def drop(self) -> None:
        """The weights changed, or the memory is needed."""
        self._made = None


def packable(model: Any) -> bool:
    """Whether `PackedPass` does what the model does: a dense model of a known layout, in bf16, on a CPU with bf16 products."""
    config = model.config
    found = layout_of(config.model_type)
    kind = str(config.model_type)
    if found is None or found.experts or model.device.type != "cpu" or model.dtype != torch.bfloat16 or config.hidden_act != "silu":
        return False
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported() or not torch.backends.mkldnn.is_available():
        return False
    decoder = body(model)
    if type(decoder).__module__ != f"transformers.models.{kind}.modeling_{kind}" or decoder.rotary_emb.rope_type not in FIXED:
        return False
    linears = [module for name, module in decoder.named_modules() if name.rpartition(".")[2] in LINEAR]
    parameters = {*model.parameters()}
    return (
        len(linears) == len(LINEAR) * len(decoder.layers)
        and all(map(_plain_or_lora, [*linears, model.get_output_embeddings()]))
        and all(p.device.type == "cpu" for p in parameters)
        and all(getattr(linear, "base_layer", linear).weight.dtype == torch.bfloat16 for linear in linears)
    )


def _plain_or_lora(module: Any) -> bool:
    """A linear layer as it is, or with adapters of the common kind that are not merged into it."""
    if type(module) is nn.Linear:
        return type(module.weight) is nn.Parameter and not hasattr(module, "_hf_hook")  # neither sharded nor moved about
    if not hasattr(module, "lora_A") or type(module.base_layer) is not nn.Linear:
        return False
    return not (module.merged or getattr(module, "lora_variant", None) or any(getattr(module, "lora_bias", {}).values()))
