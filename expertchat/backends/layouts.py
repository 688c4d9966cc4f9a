"""How architectures lay out their weights: one line each in LAYOUTS, by which memory is planned, weights are checked, quantised and
merged, and adapters are named. No torch.

A model of an architecture that has no line here talks and is trained too, as transformers has it; its memory cannot be planned before it is
loaded, and 4 or 8 bits do not reach the experts of a mixture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
BLOCK, FUSED = "mlp", ("gate_up_proj", "down_proj")  # transformers' names: of a feed-forward block, and of all its experts in two tensors
LINEAR = "_linear"  # ends the model_type of a mixture whose experts are linear layers, which transformers has not


@dataclass(frozen=True)
class Experts:
    """A mixture of experts as it is published: every expert's matrices by themselves, `block`.experts.N.NAME.weight."""

    counts: tuple[str, ...] = ("num_local_experts",)  # where config.json says how many there are: as transformers writes it, and others
    chosen: str = "num_experts_per_tok"  # how many of them a token goes through,
    width: str = "intermediate_size"  # and how wide each is
    block: str = BLOCK
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    router: str = "gate"

    @property
    def count(self) -> str:
        """What transformers' config calls their number."""
        return self.counts[0]

    def number(self, settings: Mapping[str, Any]) -> int:
        """How many there are, by a config.json. Raises KeyError."""
        return int(settings[next((key for key in self.counts if key in settings), self.count)])


@dataclass(frozen=True)
class Layout:
    """What a decoder layer is made of. A bias is there, or not, or config.json says so under the key that is named here."""

    qkv_bias: bool | str = False
    out_bias: bool | str = False
    mlp_bias: bool | str = False
    qk_norm: bool = False  # queries and keys are normalised, each head by itself
    experts: Experts | None = None
    more: Mapping[str, Any] = field(default_factory=dict)  # what a config of random weights is to say besides its sizes

    @property
    def feed_forward(self) -> tuple[str, str, str]:
        """The linear layers of a feed-forward block, or of an expert: gate, up, down."""
        return self.experts.names if self.experts else ("gate_proj", "up_proj", "down_proj")


LAYOUTS: dict[str, Layout] = {
    "llama": Layout("attention_bias", "attention_bias", "mlp_bias"),
    "mistral": Layout(more={"sliding_window": None}),
    "mixtral": Layout(experts=Experts(block="block_sparse_moe", names=("w1", "w3", "w2")), more={"sliding_window": None}),
    "qwen2": Layout(qkv_bias=True),
    "qwen3": Layout(qk_norm=True),
}
"""By the model_type of config.json."""


def layout_of(model_type: object) -> Layout | None:
    """The layout of a model_type, also where its experts are linear layers; None where it is not known."""
    return LAYOUTS.get(str(model_type).removesuffix(LINEAR))


def experts_of(model_type: object) -> Experts | None:
    """The experts of a model_type; None for a dense model, and for one whose layout is not known."""
    layout = layout_of(model_type)
    return layout.experts if layout else None


def has_linear_experts(model_type: object) -> bool:
    """Whether a model_type is one that only linear_experts.py knows."""
    return str(model_type).endswith(LINEAR) and experts_of(model_type) is not None


def fused_experts(name: str) -> bool:
    """Whether a tensor of this name holds all experts of a layer."""
    return name.endswith(tuple(f".experts.{leaf}" for leaf in FUSED))


def context_of(settings: Mapping[str, Any]) -> int | None:
    """The context length by a config.json: with LongRoPE (Phi-3 and 4 mini) that of its first training, which every row has (rotary.py)."""
    rope = settings.get("rope_parameters") or settings.get("rope_scaling")
    rope = rope if isinstance(rope, Mapping) else {}
    long = (rope.get("rope_type") or rope.get("type")) in ("longrope", "su")
    first = rope.get("original_max_position_embeddings") or settings.get("original_max_position_embeddings") if long else None
    known = first or settings.get("max_position_embeddings")
    return known if isinstance(known, int) else None
