"""Small checkpoints in the layout in which the models are published: tensors by hand, in shards with an index, other files beside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests import tiny

# Keys and values of the published config.json files (written by transformers 4), the sizes made small.
_SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "use_cache": True,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
}
_MISTRAL = {"attention_dropout": 0.0, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": None}
_QWEN = {"attention_dropout": 0.0, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "use_sliding_window": False, "sliding_window": 512}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama3": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "attention_dropout": 0.0,
        "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 500000.0, "transformers_version": "4.40.0.dev0",
    },
    "smollm": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False,
        "is_llama_config": True, "rms_norm_eps": 1e-05, "rope_interleaved": False, "rope_scaling": None, "rope_theta": 130000,
        "tie_word_embeddings": True, "transformers_version": "4.42.3",
    },
    "mistral": {"architectures": ["MistralForCausalLM"], "model_type": "mistral", **_MISTRAL, "transformers_version": "4.36.0"},
    "mixtral": {
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", **_MISTRAL, "num_experts_per_tok": 2, "num_local_experts": 4,
        "output_router_logits": False, "router_aux_loss_coef": 0.02, "transformers_version": "4.36.0.dev0",
    },
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", **_QWEN, "max_window_layers": 2, "transformers_version": "4.40.1",
    },
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", **_QWEN, "attention_bias": False, "head_dim": 24,
        "max_window_layers": 2, "rope_scaling": None, "tie_word_embeddings": True, "transformers_version": "4.51.0",
    },
}  # fmt: skip
# What each talks like: the templates are the published ones, and Mistral v0.2 and the Qwens of one generation share theirs.
TEMPLATES = {"llama3": "llama3", "mistral": "mixtral", "mixtral": "mixtral", "qwen2": "qwen2_5", "qwen3": "qwen2_5", "smollm": "smollm"}
FAMILIES = {"llama3": "llama3", "mistral": "mistral", "mixtral": "mixtral", "qwen2": "qwen", "qwen3": "qwen", "smollm": "auto"}


def write(folder: Path, kind: str, shards: int = 3, seed: int = 0, **changes: Any) -> Path:
    """A random model of `kind` (a key of CONFIGS) in `folder`; `changes` go to its config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    words = tiny.tokenizer(TEMPLATES[kind])
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    config = {**_SMALL, **CONFIGS[kind], **ends, "vocab_size": len(words), **changes}
    _json(folder / "config.json", config)
    _json(folder / "generation_config.json", {"_from_model_config": True, **ends})
    save_shards(folder, dict(tensors(config, seed)), shards)
    words.backend_tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": words.bos_token, "eos_token": words.eos_token}
    _json(folder / "special_tokens_map.json", {name: token for name, token in special.items() if token})
    settings = {"chat_template": words.chat_template, "model_max_length": 512, "tokenizer_class": "PreTrainedTokenizerFast", **special}
    _json(folder / "tokenizer_config.json", settings)
    return folder


def tensors(config: dict[str, Any], seed: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Published names and shapes, bf16; numbers large enough that every layer shows in the logits."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=generator) * shape[-1] ** -0.5).to(torch.bfloat16)

    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries, keys = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", random(config["vocab_size"], hidden) * 4
    for i in range(config["num_hidden_layers"]):
        layer, kind = f"model.layers.{i}", config["model_type"]
        for name, out in (("q", queries), ("k", keys), ("v", keys)):
            yield f"{layer}.self_attn.{name}_proj.weight", random(out, hidden)
            if kind == "qwen2":
                yield f"{layer}.self_attn.{name}_proj.bias", random(out)
            if kind == "qwen3" and name != "v":
                yield f"{layer}.self_attn.{name}_norm.weight", 1 + random(head)
        yield f"{layer}.self_attn.o_proj.weight", random(hidden, queries)
        if kind == "mixtral":
            yield f"{layer}.block_sparse_moe.gate.weight", random(config["num_local_experts"], hidden)
            for e in range(config["num_local_experts"]):
                for name, shape in (("w1", (ffn, hidden)), ("w2", (hidden, ffn)), ("w3", (ffn, hidden))):
                    yield f"{layer}.block_sparse_moe.experts.{e}.{name}.weight", random(*shape)
        else:
            for name, shape in (("gate", (ffn, hidden)), ("up", (ffn, hidden)), ("down", (hidden, ffn))):
                yield f"{layer}.mlp.{name}_proj.weight", random(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{layer}.{name}.weight", 1 + random(hidden)
    yield "model.norm.weight", 1 + random(hidden)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", random(config["vocab_size"], hidden)


def save_shards(folder: Path, state: dict[str, Tensor], shards: int) -> None:
    """Write `state` as `shards` files of about one size with their index; one shard is a single file without an index."""
    total = sum(t.numel() * t.element_size() for t in state.values())
    parts: list[dict[str, Tensor]] = [{} for _ in range(shards)]
    done = 0
    for name, tensor in state.items():
        parts[min(shards - 1, done * shards // total)][name] = tensor
        done += tensor.numel() * tensor.element_size()
    if shards == 1:
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        return
    names = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    for name, part in zip(names, parts, strict=True):
        assert part, "fewer tensors than shards"
        save_file(part, folder / name, {"format": "pt"})
    weight_map = {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part}
    _json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def load_shards(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder that `save_shards` has written."""
    from safetensors.torch import load_file

    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def _json(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n", "utf-8")
