"""What a folder claims is held against what it holds when it is loaded: one message then, and no traceback or NaN deep in a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertLMHeadModel,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)  # fmt: skip

from expertchat.backends.base import Decoding, EmbedRequest, GenerateRequest
from expertchat.backends.embedding import SentenceEmbedder
from expertchat.backends.loading import load_backend
from expertchat.backends.local import LocalBackend
from expertchat.backends.wholeness import tensors_problem, tokenizer_problem
from expertchat.config import ConfigError
from expertchat.records import Message
from tests import architectures, test_embedding, tiny

torch.set_num_threads(1)
GREEDY = Decoding(method="greedy", max_new_tokens=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.build(tmp_path / "model", "llama3")


def load(folder: Path, **more: Any) -> LocalBackend:
    backend = load_backend(tiny.config(folder, **({"dtype": "fp32"} | more)), seed=0)
    assert isinstance(backend, LocalBackend)
    return backend


def message(folder: Path, **more: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, **more)
    assert len(caught.value.problems) == 1 and "\n" not in str(caught.value)
    return str(caught.value)


def say(backend: LocalBackend, *texts: str) -> list[str]:
    done = backend.generate([GenerateRequest(str(i), (Message("user", text),), GREEDY) for i, text in enumerate(texts)])
    return [one.text for one in done]


def rewrite(file: Path, **values: Any) -> None:
    there = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    file.write_text(json.dumps(there | values), "utf-8")


def damage(folder: Path, name: str, row: int | None = None, value: float = float("nan")) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name][slice(None) if row is None else row] = value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


# -- tokens -------------------------------------------------------------------------------------------------------------


def test_a_token_without_an_embedding_is_refused(folder: Path) -> None:
    words = AutoTokenizer.from_pretrained(folder)
    rows = len(words)
    words.add_tokens(["heronry"])
    words.save_pretrained(folder)
    text = message(folder)
    assert f"makes the token 'heronry' ({rows}), but the model has embeddings for {rows} only" in text and "resize_token_embeddings" in text


def test_one_that_the_template_writes_is_refused(folder: Path) -> None:
    words = AutoTokenizer.from_pretrained(folder)
    words.add_tokens(["<|go|>"], special_tokens=True)
    words.chat_template += "{{ '<|go|>' }}"
    words.save_pretrained(folder)
    assert "makes the token '<|go|>'" in message(folder)


def test_one_that_no_chat_makes_does_no_harm(folder: Path) -> None:
    """Gemma 3 of one billion has a token for images, and no embedding for it."""
    words = AutoTokenizer.from_pretrained(folder)
    words.add_tokens(["<image_soft_token>"], special_tokens=True)
    words.save_pretrained(folder)
    assert say(load(folder), "What is an <image_soft_token>?")


def test_end_and_padding_tokens_beyond_the_vocabulary_are_said_and_not_used(folder: Path) -> None:
    words = AutoTokenizer.from_pretrained(folder)
    rows = len(words)
    words.add_special_tokens({"pad_token": "<|pad|>"})
    words.save_pretrained(folder)
    rewrite(folder / "generation_config.json", eos_token_id=[words.eos_token_id, rows + 7])
    backend = load(folder)
    notes = "; ".join(backend.info.notes)
    assert f"end token {rows + 7} is beyond its {rows} embeddings" in notes and f"padding token {rows} is beyond its {rows}" in notes
    assert backend.pad_id < rows and backend.tokenizer.pad_token_id == backend.pad_id and max(backend.end_ids) < rows
    plain = LocalBackend(backend.model, backend.tokenizer, "m", engine=False)
    assert say(plain, "Hi.", "Where do the herons fish?") == say(backend, "Hi.", "Where do the herons fish?")


def test_the_tokenizer_of_a_larger_model(folder: Path, tmp_path: Path) -> None:
    rewrite(folder / "config.json", vocab_size=300)
    tensors = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][:300].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    rewrite(folder / "generation_config.json", eos_token_id=1)
    assert "the model has embeddings for 300 only" in message(folder)
    assert "the model has embeddings for 300 only" in str(tokenizer_problem(folder))


# -- positions ----------------------------------------------------------------------------------------------------------


TABLES = {
    "gpt2": "transformer.wpe", "opt": "model.decoder.embed_positions", "gptj": "transformer.h.0.attn.embed_positions",
    "mpt": "max_seq_len",
}  # fmt: skip


@pytest.mark.parametrize(("name", "table"), TABLES.items())
def test_a_context_longer_than_the_table_of_positions_is_refused(name: str, table: str, tmp_path: Path) -> None:
    folder = architectures.build(tmp_path / name, name)
    text = message(folder, family="auto", context_length=architectures.CONTEXT + 1)
    assert f"context_length=2049, but it has 2048 positions ({table}): set at most 2048" in text
    assert load(folder, family="auto", context_length=architectures.CONTEXT).info.context_length == 2048


def test_rotary_positions_only_get_a_note(folder: Path) -> None:
    assert "context_length 600 is more than the 512" in "; ".join(load(folder, context_length=600).info.notes)


# -- weights ------------------------------------------------------------------------------------------------------------


def test_weights_that_are_no_numbers_are_named(folder: Path) -> None:
    damage(folder, "model.layers.1.mlp.up_proj.weight", 3)
    text = message(folder)
    assert "1 of its weights are not finite (model.layers.1.mlp.up_proj.weight): download it again" in text


def test_weights_too_large_for_fp16_are_another_matter(folder: Path) -> None:
    damage(folder, "model.norm.weight", value=60_000.0)
    assert "its logits are not finite (float16)" in (text := message(folder, dtype="fp16")) and "set its dtype to bf16" in text
    assert say(load(folder), "Hi.")


def test_layers_that_the_config_leaves_out_are_said(folder: Path) -> None:
    rewrite(folder / "config.json", num_hidden_layers=1)
    assert any("9 tensors of its folder are not used" in note for note in load(folder).info.notes)


# -- no language model --------------------------------------------------------------------------------------------------


def saved(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    tiny.tokenizer("llama3").save_pretrained(folder)
    return folder


SMALL: dict[str, Any] = {
    "vocab_size": 420, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4,
    "initializer_range": 0.3,
}  # fmt: skip


def test_models_that_continue_no_chat(tmp_path: Path) -> None:
    torch.manual_seed(0)
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=420, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4))
    judge = LlamaForSequenceClassification(LlamaConfig(**SMALL, tie_word_embeddings=True, pad_token_id=0))
    bert = BertLMHeadModel(BertConfig(**SMALL))
    for model, name, expected in [
        (t5, "t5", "is an encoder-decoder (model_type t5)"),
        (judge, "judge", "names LlamaForSequenceClassification, which is no language model"),
        (bert, "bert", "its words depend on what follows them"),
    ]:
        folder = saved(model, tmp_path / name)
        text = message(folder)
        assert expected in text and "download it again" not in text
        if name != "bert":
            assert expected in str(tensors_problem(folder))


def test_an_architecture_that_nobody_knows(folder: Path) -> None:
    rewrite(folder / "config.json", model_type="unheard_of")
    assert "does not know its architecture (model_type unheard_of): update transformers" in message(folder)
    rewrite(folder / "config.json", auto_map={"AutoConfig": "own.Own"})
    assert "no code of a model is run" in message(folder)


def test_models_of_images_are_named_so(folder: Path) -> None:
    rewrite(folder / "config.json", model_type="llava", architectures=["LlavaForConditionalGeneration"])
    assert "of images or sound and text (model_type llava)" in message(folder)


# -- embedders ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def embedder(tmp_path: Path) -> Path:
    return test_embedding.build(tmp_path)  # 64 rows of positions, the first of them at 2: 62


def embed(folder: Path, text: str = "Herons fish.") -> tuple[float, ...]:
    return SentenceEmbedder.load(folder, "m", "cpu").embed([EmbedRequest("0", text)])[0].vector


def test_an_embedder_that_claims_longer_texts_than_it_has_positions_for(embedder: Path) -> None:
    rewrite(embedder / "sentence_bert_config.json", max_seq_length=512)
    words = json.loads((embedder / "tokenizer_config.json").read_text())
    rewrite(embedder / "tokenizer_config.json", **(words | {"model_max_length": 512}))
    loaded = SentenceEmbedder.load(embedder, "m", "cpu")
    assert loaded.limit == 60 and "it claims 512 tokens, but has 62 positions" in loaded.notes[0]
    assert len(loaded.embed([EmbedRequest("0", "Herons fish in shallow water. " * 40)])[0].vector) == 16


def test_an_embedder_without_pooling(embedder: Path) -> None:
    modules = [one for one in json.loads((embedder / "modules.json").read_text()) if "Transformer" in one["type"]]
    (embedder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigError, match=r"names no pooling \(Transformer\), so it gives no vector"):
        embed(embedder)


def test_an_embedder_of_another_size_than_it_claims(embedder: Path) -> None:
    (pooling,) = embedder.glob("*Pooling/config.json")
    rewrite(pooling, **{key: 24 for key in json.loads(pooling.read_text()) if "dimension" in key})
    with pytest.raises(ConfigError, match="claims vectors of 24 numbers, and gives 16"):
        embed(embedder)


def test_an_embedder_that_gives_no_numbers(embedder: Path) -> None:
    damage(embedder, next(name for name in load_file(embedder / "model.safetensors") if name.endswith("LayerNorm.weight")))
    with pytest.raises(ConfigError, match="its vectors are not finite: download it again"):
        embed(embedder)


def test_an_embedder_with_the_tokenizer_of_another(embedder: Path) -> None:
    words = AutoTokenizer.from_pretrained(embedder)
    words.add_tokens(["heronry"])
    words.save_pretrained(embedder)
    with pytest.raises(ConfigError, match="it has embeddings for"):
        embed(embedder)


def test_a_language_model_in_the_place_of_an_embedder_is_said(folder: Path) -> None:
    rewrite(folder / "tokenizer_config.json", pad_token="<|end_of_text|>")
    loaded = SentenceEmbedder.load(folder, "m", "cpu")
    assert "has no modules.json, so it is a language model" in loaded.notes[0]


def test_layers_that_a_quantization_does_not_suit(tmp_path: Path) -> None:
    folder = architectures.build(tmp_path / "mamba", "mamba")
    text = message(folder, family="auto", quantization="int8")
    assert "its layers do not suit the quantization: set quantization=none" in text and "config.json" not in text
