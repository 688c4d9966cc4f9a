"""Llama 3 Instruct (also 3.1 and later: the model's own config gives their longer context)."""

from __future__ import annotations

from expertchat.backends.base import Decoding
from expertchat.experts.base import ExpertChat, Family


class Llama3(ExpertChat):
    """A system role, turns in header tokens. Base tokenizers of Llama 3 call <|end_of_text|> their end; a message ends with <|eot_id|>."""

    family = Family(
        name="llama3",
        system_role=True,
        stop=("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"),
        context_length=8192,
        lora_targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        decoding=Decoding(method="contrastive", penalty_alpha=0.6, top_k=4),
    )
