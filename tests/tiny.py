"""Tiny real models with the published chat templates: random weights, saved and loaded like the large ones."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from expertchat.config import ModelConfig
from expertchat.text.wordings import Prompts

TEMPLATES = Path(__file__).parent / "templates"
STANDARD = Path(__file__).parents[1] / "conf" / "prompts" / "standard.yaml"
CORPUS = [
    "Herons nest in tall trees and fish in shallow water. What do you know about their flight?",
    "Depth: 1 Depth: 2 Depth: 3 Depth: 4 Depth: 5 Depth: 6 Depth: 7 Depth: 8 Depth: 9 Depth: 10 and 10 of 10",
    "Judge expert A from 1 to 10. The answer is clear, the answer is 10, accurate and complete. Nothing is missing.",
    "You are a human expert on grey herons; please open the discussion with one question about how they hunt.",
] * 4
SPECIALS: dict[str, dict[str, Any]] = {
    "llama3": {
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
        "more": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    },
    "mixtral": {"bos_token": "<s>", "eos_token": "</s>", "more": ["<unk>"]},
    "qwen2_5": {"bos_token": None, "eos_token": "<|im_end|>", "more": ["<|im_start|>", "<|endoftext|>"]},
    "llama3_1": {
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
        "more": ["<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>"],
    },
    "qwen3": {"bos_token": None, "eos_token": "<|im_end|>", "more": ["<|im_start|>", "<|endoftext|>"]},
    "smollm": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "more": ["<|endoftext|>"]},
}


@lru_cache
def tokenizer(kind: str, digits: str = "whole") -> Any:
    """A byte-level BPE tokenizer; `digits` "split": "10" is two tokens, "whole": one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = SPECIALS[kind]
    tokens = [t for t in (special["bos_token"], special["eos_token"], *special["more"]) if t]
    bpe = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    single = pre_tokenizers.Digits(individual_digits=True)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([single, byte_level]) if digits == "split" else byte_level
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=tokens, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=special["bos_token"], eos_token=special["eos_token"], additional_special_tokens=special["more"]
    )
    fast.chat_template = (TEMPLATES / f"{kind}.jinja").read_text("utf-8")
    return fast


def build(folder: Path, kind: str, digits: str = "whole", seed: int = 0, context: int = 512) -> Path:
    """Save a random model of the architecture of `kind` with its tokenizer in `folder`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM, Qwen2Config, Qwen2ForCausalLM

    words = tokenizer(kind, digits)
    common: dict[str, Any] = {
        "vocab_size": len(words),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": context,
        "initializer_range": 0.3,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(seed)
    if kind in ("llama3", "llama3_1", "smollm"):
        model: Any = LlamaForCausalLM(LlamaConfig(**common))
    elif kind == "mixtral":
        model = MixtralForCausalLM(MixtralConfig(**common, num_local_experts=4, num_experts_per_tok=2, sliding_window=None))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(**common))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def build_reward_model(folder: Path, kind: str, labels: int = 1, seed: int = 0, context: int = 256) -> Path:
    """Save a random reward model with its tokenizer: kind "bert" (pairs of texts, WordPiece), or one of SPECIALS (a Llama, chats)."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast, LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(seed)
    size: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    size |= {"num_labels": labels, "max_position_embeddings": context, "initializer_range": 0.3}
    if kind == "bert":
        pieces = sorted({word for line in CORPUS for word in line.lower().replace(",", " ").replace(".", " ").split()})
        letters = [mark + chr(i) for i in range(97, 123) for mark in ("", "##")]
        folder.mkdir(parents=True, exist_ok=True)
        vocabulary = folder / "vocab.txt"
        vocabulary.write_text("\n".join(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *pieces])), "utf-8")
        words: Any = BertTokenizerFast(str(vocabulary), model_max_length=context)
        model: Any = BertForSequenceClassification(BertConfig(vocab_size=len(words), **size))
    else:
        words = tokenizer(kind)
        more = {"num_key_value_heads": 2, "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
        model = LlamaForSequenceClassification(LlamaConfig(vocab_size=len(words), **size, **more))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@lru_cache
def prompts() -> Prompts:
    """The wordings for real chat models."""
    return Prompts.model_validate(yaml.safe_load(STANDARD.read_text("utf-8")))


def config(path: object, **changes: object) -> ModelConfig:
    """The config of a model at `path`: family llama3 on the CPU, eight greedy tokens for everything."""
    stage = {"method": "greedy", "max_new_tokens": 8}
    values: dict[str, object] = {
        "family": "llama3",
        "path": str(path),
        "device": "cpu",
        "prompts": prompts(),
        "persona": {"name": "expert", "brief": "You know {topic}."},
        "decoding": {"topic": stage, "reply": stage, "judge": stage},
    }
    return ModelConfig.model_validate(values | changes)
