"""Mixtral-8x7B-Instruct v0.1 and Mistral-7B-Instruct: the same chat format, with and without experts."""

from __future__ import annotations

from dataclasses import replace

from expertchat.backends.base import Decoding
from expertchat.experts.base import ExpertChat, Family


class Mixtral(ExpertChat):
    """No system role: the template raises on one, so the system text stands in front of the first user message. User and assistant must
    alternate, a user first. LoRA on the attention only, which is small; loaded in 4 or 8 bits, the experts are linear layers (w1, w2,
    w3) that LoRA reaches too.
    """

    family = Family(
        name="mixtral",
        system_role=False,
        alternation=True,
        stop=("</s>",),
        context_length=32768,
        lora_targets=("q_proj", "k_proj", "v_proj", "o_proj"),
        decoding=Decoding(method="contrastive", penalty_alpha=0.6, top_k=4),
    )


class Mistral(ExpertChat):
    """Mixtral's rules; dense, so LoRA reaches the feed-forward layers too."""

    family = replace(
        Mixtral.family, name="mistral", lora_targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    )
