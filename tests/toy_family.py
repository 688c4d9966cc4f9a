"""A family as the README says that one is added: facts in one file, which one line of a registry names."""

from __future__ import annotations

from expertchat.backends.base import Decoding
from expertchat.backends.layouts import Experts, Layout
from expertchat.experts.base import ExpertChat, Family


class Heron(ExpertChat):
    """Speaks ChatML, with a system role."""

    family = Family(
        name="heron",
        stop=("<|im_end|>",),
        context_length=2048,
        lora_targets=("q_proj", "v_proj", "up_proj"),
        decoding=Decoding(method="greedy", max_new_tokens=8),
    )


# How its models lay out their weights, where no line of LAYOUTS says so yet: one is dense, one a mixture of experts.
DENSE = Layout("attention_bias", "attention_bias", "mlp_bias")
MIXTURE = Layout(qk_norm=True, experts=Experts(("num_local_experts", "num_experts"), width="moe_intermediate_size"))
