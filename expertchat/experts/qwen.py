"""Qwen2.5 Instruct and its relatives with the ChatML format."""

from __future__ import annotations

from expertchat.backends.base import Decoding
from expertchat.experts.base import ExpertChat, Family


class Qwen(ExpertChat):
    """A system role; without one, the template puts in its own ("You are Qwen, ..."). Turns end with <|im_end|>."""

    family = Family(
        name="qwen",
        system_role=True,
        stop=("<|im_end|>", "<|endoftext|>"),
        context_length=32768,
        lora_targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        decoding=Decoding(method="contrastive", penalty_alpha=0.6, top_k=4),
    )
