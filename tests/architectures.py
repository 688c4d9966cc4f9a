"""Tiny real models of many architectures: random weights from transformers' own config classes, saved and loaded like the large ones."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from tests import tiny

WINDOW = 24  # tokens: shorter than any prompt of the tests, so that it really slides
CONTEXT = 2048
_KIND = "qwen3"  # whose template and tokenizer all of them have


def _common() -> dict[str, Any]:
    words = tiny.tokenizer(_KIND)
    ends = {"bos_token_id": None, "eos_token_id": words.eos_token_id, "pad_token_id": None}
    return {"vocab_size": len(words), "tie_word_embeddings": False, **ends}


_LLAMA = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT, "initializer_range": 0.3,
}  # fmt: skip
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT, "initializer_range": 0.3}
_NO_GROUPS = {"num_key_value_heads": 4}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_MAMBA = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "initializer_range": 0.3}
_LATENT = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "q_lora_rank": 8, "kv_lora_rank": 8, "v_head_dim": 8,
    "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "moe_intermediate_size": 16, "first_k_dense_replace": 1,
}  # fmt: skip

# name -> (model_type, what its config says)
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _LLAMA),
    "llama_tied": ("llama", _LLAMA | {"tie_word_embeddings": True}),
    "mistral_slides": ("mistral", _LLAMA | {"sliding_window": WINDOW}),
    "mixtral": ("mixtral", _LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "qwen2": ("qwen2", _LLAMA),
    "qwen3": ("qwen3", _LLAMA | {"head_dim": 8}),
    "qwen3_moe": ("qwen3_moe", _LLAMA | _MOE | {"head_dim": 8}),
    "gemma2": ("gemma2", _LLAMA | {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": WINDOW, "attn_logit_softcapping": 5.0}),
    "gemma3": ("gemma3_text", _LLAMA | {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": WINDOW,
               "layer_types": ["sliding_attention", "full_attention"]}),
    "phi3": ("phi3", _LLAMA | {"partial_rotary_factor": 0.5}),
    "olmo2": ("olmo2", _LLAMA),
    "granite": ("granite", _LLAMA | {"logits_scaling": 4.0, "attention_multiplier": 0.2, "embedding_multiplier": 3.0}),
    "gpt_neox": ("gpt_neox", _LLAMA | _NO_GROUPS | {"rotary_pct": 0.5}),
    "gpt2": ("gpt2", _GPT2),
    "gpt_neo": ("gpt_neo", {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
                "window_size": WINDOW, "max_position_embeddings": CONTEXT, "initializer_range": 0.3}),
    "gptj": ("gptj", _GPT2 | {"rotary_dim": 4}),
    "opt": ("opt", {"hidden_size": 32, "ffn_dim": 48, "word_embed_proj_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "max_position_embeddings": CONTEXT, "init_std": 0.3}),
    "falcon": ("falcon", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "multi_query": True, "alibi": False,
               "new_decoder_architecture": False, "max_position_embeddings": CONTEXT, "initializer_range": 0.3}),
    "cohere": ("cohere", _LLAMA | {"logit_scale": 0.25}),
    "smollm3": ("smollm3", _LLAMA),
    "gpt_oss": ("gpt_oss", _LLAMA | {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW}),
    "llama4": ("llama4_text", _LLAMA | {"head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 48,
               "attention_chunk_size": WINDOW}),
    "deepseek_v3": ("deepseek_v3", _LLAMA | _NO_GROUPS | _LATENT),
    "bloom": ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}),
    "mpt": ("mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": CONTEXT, "initializer_range": 0.3}),
    "mamba": ("mamba", _MAMBA),
    "jamba": ("jamba", _LLAMA | {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 4,
              "use_mamba_kernels": False}),
}  # fmt: skip


@cache
def model_of(name: str, seed: int = 0) -> Any:
    """The random model of a kind."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, settings = KINDS[name]
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(_common() | settings))).eval()
    return shaken(model, seed)


def shaken(model: Any, seed: int) -> Any:
    """Biases, scales and sinks too are to matter: none of them stays at 0 or 1, where leaving it out changes nothing."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def build(folder: Path, name: str) -> Path:
    """Save the random model of a kind with its tokenizer in `folder`."""
    model_of(name).save_pretrained(folder)
    tiny.tokenizer(_KIND).save_pretrained(folder)
    return folder
