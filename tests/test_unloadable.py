"""Attention by what a model's class declares, and why a model could not be loaded: each cause with the remedy that is its own."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from expertchat.backends import weights
from expertchat.backends.architecture import architecture, attention_window, counts_places
from expertchat.backends.hardware import choose_attention
from expertchat.backends.unloadable import tokenizer_failure
from expertchat.backends.weights import Loaded, load_weights
from expertchat.config import ConfigError
from tests import architectures, tiny

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gemma 2 caps the scores of its attention, and its class has no sdpa."""
    return architectures.build(tmp_path_factory.mktemp("gemma2"), "gemma2")


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return tiny.build(tmp_path / "model", "llama3")


def load(folder: Path, **more: Any) -> Loaded:
    return load_weights(folder, "m", **({"dtype": "fp32", "device": "cpu"} | more))


# -- attention ----------------------------------------------------------------------------------------------------------


def test_auto_follows_the_class_and_says_why(gemma: Path, llama: Path) -> None:
    loaded = load(gemma)
    assert loaded.model.config._attn_implementation == "eager"
    why = "attention eager: Gemma2ForCausalLM declares no sdpa: it caps its attention scores at 5, which sdpa cannot"
    assert why in loaded.notes
    loaded = load(llama)
    assert loaded.model.config._attn_implementation == "sdpa" and not any("attention" in note for note in loaded.notes)


def test_what_the_class_has_not_is_refused_with_what_it_has(gemma: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(gemma, attention="sdpa")
    wanted = "model m: attention=sdpa, but Gemma2ForCausalLM supports eager, flash_attention_2 only: set attention=auto, or one of these"
    assert caught.value.problems == [wanted]
    mamba = architectures.build(tmp_path / "mamba", "mamba")
    with pytest.raises(ConfigError, match="MambaForCausalLM supports eager only"):
        load(mamba, attention="flash_attention_2")
    with pytest.raises(ConfigError, match=r"needs a GPU of compute 8\.0 or newer, not cpu: set attention=auto$"):
        choose_attention("flash_attention_2", "cpu", torch.bfloat16, architecture(gemma, "m"))
    assert load(gemma, attention="eager").model.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("name", "window", "places"),
    [("llama", None, False), ("mixtral", None, False), ("mistral_slides", 24, False), ("gemma3", 24, False), ("gpt_neo", 24, False),
     ("llama4", 24, False), ("smollm3", None, False), ("bloom", None, True), ("mpt", None, True), ("falcon", None, False)],
)  # fmt: skip
def test_what_a_config_says_of_its_attention(name: str, window: int | None, places: bool) -> None:
    config = architectures.model_of(name).config
    assert attention_window(config) == window and counts_places(config) is places


# -- causes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("no kernel for this"), "no kernel for this; its folder is whole, so one of dtype=fp32, device=cpu, attention=sdpa, "),
        (ImportError("Using nothing requires the package `flash_linear`"), "needs a package that is not here (Using nothing requires"),
        (MemoryError(), "does not fit into the memory of cpu"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "does not fit into the memory of cpu"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "does not fit into the memory of cpu"),
        (PermissionError(errno.EACCES, "Permission denied", "w.safetensors"), "w.safetensors may not be read: correct its permissions"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error: check the disk"),
        (RuntimeError("CUDA error: an illegal memory access"), "the device cpu fails (CUDA error: an illegal memory access)"),
    ],
)
def test_a_whole_folder_is_not_to_be_downloaded_again(llama: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str) -> None:
    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(weights, "_any", fail)
    with pytest.raises(ConfigError) as caught:
        load(llama)
    text = str(caught.value)
    assert words in text and "download it again" not in text and len(caught.value.problems) == 1 and "\n" not in text


def test_a_folder_that_is_not_whole_is(llama: Path) -> None:
    tensors = load_file(llama / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:5].clone()
    save_file(tensors, llama / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"1 tensors have another size than config.json says \(lm_head.weight: \[5, 32\]"):
        load(llama)


def test_causes_of_a_tokenizer() -> None:
    assert "it needs a package that is not here (no sentencepiece): install it" in tokenizer_failure(ImportError("no sentencepiece"))
    assert "may not be read" in tokenizer_failure(PermissionError(errno.EACCES, "denied", "tokenizer.json"))
    assert "download its tokenizer files again" in tokenizer_failure(ValueError("EOF while parsing"))
