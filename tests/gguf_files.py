"""A tiny GGUF model, written by the package gguf's own writer: random weights, a byte-level tokenizer, a chat template, two end tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.tiny import TEMPLATES, tokenizer

HIDDEN, FFN, LAYERS, HEADS, KV_HEADS, CONTEXT = 32, 64, 2, 4, 2, 512


def write_gguf(file: Path, architecture: str = "llama", quantised: bool = True, seed: int = 0, **more: Any) -> Path:
    """Write the file. `quantised`: the matrices in Q8_0, the others in F32; `more`: further entries of text or whole numbers."""
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize

    words = tokenizer("smollm")
    vocabulary = [text for text, _ in sorted(words.get_vocab().items(), key=lambda pair: pair[1])]
    merges = [" ".join(pair) if isinstance(pair, list | tuple) else pair for pair in _merges(words)]
    specials = set(words.all_special_tokens)
    writer = GGUFWriter(str(file), architecture)
    writer.add_name("Tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if text in specials else 1 for text in vocabulary])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(words.bos_token_id)
    writer.add_eos_token_id(words.eos_token_id)
    writer.add_eot_token_id(words.convert_tokens_to_ids("<|endoftext|>"))
    writer.add_chat_template((TEMPLATES / "smollm.jinja").read_text("utf-8"))
    for key, value in more.items():
        key = key.replace("__", ".")
        (writer.add_string if isinstance(value, str) else writer.add_uint32)(key, value)
    random = np.random.default_rng(seed)
    wide = HIDDEN * KV_HEADS // HEADS
    matrices = {"token_embd": (len(vocabulary), HIDDEN), "output": (len(vocabulary), HIDDEN)}
    for i in range(LAYERS):
        sizes = {
            "attn_q": (HIDDEN, HIDDEN), "attn_k": (wide, HIDDEN), "attn_v": (wide, HIDDEN), "attn_output": (HIDDEN, HIDDEN),
            "ffn_gate": (FFN, HIDDEN), "ffn_up": (FFN, HIDDEN), "ffn_down": (HIDDEN, FFN),
        }  # fmt: skip
        matrices |= {f"blk.{i}.{name}": size for name, size in sizes.items()}
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{i}.{norm}.weight", np.ones(HIDDEN, dtype=np.float32))
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, dtype=np.float32))
    for name, size in matrices.items():
        values = random.normal(0, 0.3, size).astype(np.float32)
        if quantised:
            writer.add_tensor(
                f"{name}.weight", quantize(values, GGMLQuantizationType.Q8_0), raw_dtype=GGMLQuantizationType.Q8_0
            )
        else:
            writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _merges(words: Any) -> Any:
    import json

    return json.loads(words.backend_tokenizer.to_str())["model"]["merges"]
