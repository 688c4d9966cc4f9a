"""A language model that can see besides (Gemma 3 from 4b on): it is loaded as any other, and what it sees with is left alone."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from expertchat.backends.adapters import Adapters, usual_targets
from expertchat.backends.loading import load_backend
from expertchat.backends.local import LocalBackend
from expertchat.experts.auto import Auto
from tests import architectures, tiny

torch.set_num_threads(1)


def build(folder: Path) -> Path:
    words = tiny.tokenizer("qwen3")
    size = len(words)
    text = architectures.KINDS["gemma3"][1] | {"vocab_size": size + 8, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": None}
    sight = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sight |= {"image_size": 28, "patch_size": 14}
    marks = {"image_token_index": size + 3, "boi_token_index": size + 4, "eoi_token_index": size + 5, "mm_tokens_per_image": 4}
    torch.manual_seed(0)
    Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=sight, eos_token_id=1, **marks)).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def test_its_places_of_images_are_no_positions_of_a_text_and_no_adapter_is_put_on_them(tmp_path: Path) -> None:
    backend = load_backend(tiny.config(build(tmp_path / "m"), family="auto", dtype="fp32"), seed=3)  # 4 places, 2048 tokens of text
    assert isinstance(backend, LocalBackend) and backend.info.context_length == architectures.CONTEXT
    adapters = Adapters(backend.model)
    adapters.attach("one", usual_targets(backend.model, Auto.family.lora_targets), r=2)
    names = set(adapters.parameters("one"))
    assert len(names) == 2 * 2 * 4 and not any("vision" in name for name in names)  # A and B of four products in two layers
    adapters.save("one", tmp_path / "adapter")
    adapters.load("two", tmp_path / "adapter")
    assert {name.replace(".two.", ".one.") for name in adapters.parameters("two")} == names
