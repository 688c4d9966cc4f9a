"""The embedded experts: tiny models that come with the package and know only the wordings they were trained on."""

from __future__ import annotations

from expertchat.backends.base import Decoding
from expertchat.experts.base import ExpertChat, Family


class WorldExpert(ExpertChat):
    """Facts of the two tiny models in expertchat/world (a Llama and a Mixtral that share a tokenizer)."""

    family = Family(
        name="world",
        context_length=2048,
        lora_targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        decoding=Decoding(method="sampling", temperature=1.0, top_p=0.95, max_new_tokens=120),
        max_sentences=48,
    )
