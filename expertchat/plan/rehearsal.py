"""A plan tried out: models of a planned shape with random weights, and what a reply, a judgement and a training step of one really take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from expertchat.backends.layouts import LAYOUTS
from expertchat.plan.memory import Lora, Quantization, Shape, Step, matrices

if TYPE_CHECKING:
    from expertchat.backends.rehearsal import Trained


def random_model(shape: Shape, dtype: str, quantization: Quantization, places: Mapping[str, int | str]) -> Any:
    """A model of `shape`. `places`: module -> device, as accelerate has it; {"": "cpu"} puts everything on the CPU."""
    from expertchat.backends.random_model import random_model

    return random_model(shape.layout, config_values(shape), dtype, quantization, places)


def config_values(shape: Shape) -> dict[str, Any]:
    """What the config.json of a model of this shape would say."""
    layout = LAYOUTS[shape.layout]
    values: dict[str, Any] = {
        "hidden_size": shape.hidden, "intermediate_size": shape.ffn, "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim, "vocab_size": shape.vocab,
        "max_position_embeddings": shape.context or 8192, "tie_word_embeddings": shape.tied,
    }  # fmt: skip
    biases = {layout.qkv_bias: shape.qkv_bias, layout.out_bias: shape.out_bias, layout.mlp_bias: shape.mlp_bias}
    values |= {key: there for key, there in biases.items() if isinstance(key, str)} | dict(layout.more)
    if experts := layout.experts:
        values |= {experts.count: shape.experts, experts.chosen: shape.experts_per_token, experts.width: shape.ffn}
    return values


def train(model: Any, shape: Shape, lora: Lora, step: Step) -> Trained:
    """One DPO update of a new adapter on random pairs; the adapter is removed at the end."""
    from expertchat.backends.rehearsal import train

    return train(model, sorted({m.name for m in matrices(shape) if lora.reaches(m)}), lora.rank, step)
