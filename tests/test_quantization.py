"""The choice of numbers by card and size, and the bytes that come of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from expertchat.backends.quantization import (
    Card,
    bits_config,
    choose_quantization,
    find_card,
    footprint,
    footprint_note,
    saved_kind,
    settle,
    unquantised,
)
from expertchat.config import ConfigError

GIB = 2**30
V100 = Card("V100", (7, 0), int(15.8 * GIB))
LLAMA_8B = int(15.0 * GIB)


@pytest.mark.parametrize(
    ("card", "size", "kind", "note"),
    [
        (Card("RTX 4090", (8, 9), int(23.5 * GIB)), LLAMA_8B, "none", "not quantised: its 15.0 GiB fit into the 23.5 GiB free on RTX 4090"),
        # 15.0 x 1.25 = 18.75 GiB are more than 15.8
        (V100, LLAMA_8B, "nf4", "nf4: its 15.0 GiB and a quarter more for the work do not fit into the 15.8 GiB free on V100"),
        (Card("4 x V100", (7, 0), int(63.2 * GIB)), 87 * GIB, "nf4", "nf4: its 87.0 GiB and"),
        (Card("4 x V100", (7, 0), int(63.2 * GIB)), 50 * GIB, "none", "not quantised: its 50.0 GiB"),  # 50 x 1.25 = 62.5
        (Card("cpu", None, GIB), 2**20, "none", "not quantised: its 1.0 MiB fit into the 1.0 GiB free on cpu"),
        (Card("mps"), LLAMA_8B, "none", "the free memory of mps is not known"),
    ],
)
def test_auto_goes_by_size_and_says_why(card: Card, size: int, kind: str, note: str) -> None:
    chosen, why = choose_quantization("auto", card, size)
    assert chosen == kind and why is not None and note in why


def test_what_is_wanted_is_what_one_gets() -> None:
    assert choose_quantization("none", V100, 100 * GIB) == ("none", None)
    assert choose_quantization("nf4", V100, GIB) == ("nf4", None)
    assert choose_quantization("int8", Card("T4", (7, 5), 15 * GIB), GIB) == ("int8", None)
    assert choose_quantization("int8", Card("cpu", None, 15 * GIB), GIB) == ("int8", None)


def test_int8_is_refused_on_a_v100() -> None:
    with pytest.raises(ConfigError, match=r"needs a GPU of compute 7\.5 or newer \(LLM\.int8\), and V100 has 7\.0: set quantization=nf4"):
        choose_quantization("int8", V100, GIB)


def test_a_folder_that_is_quantised_already() -> None:
    assert choose_quantization("auto", V100, GIB, "nf4") == ("nf4", "nf4: the folder holds its weights in it")
    assert choose_quantization("int8", Card("T4", (7, 5)), GIB, "int8")[0] == "int8"
    with pytest.raises(ConfigError, match=r"quantization=none, but the folder holds its weights in nf4: set quantization=nf4, or auto"):
        choose_quantization("none", V100, GIB, "nf4")
    with pytest.raises(ConfigError, match=r"compute 7\.5"):
        choose_quantization("auto", V100, GIB, "int8")
    with pytest.raises(ConfigError, match="weights in gptq, which is not loaded"):
        choose_quantization("auto", V100, GIB, "gptq")


def test_saved_kinds() -> None:
    bits: dict[str, Any] = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "load_in_8bit": False}
    assert saved_kind({"quantization_config": bits}) == "nf4"
    assert saved_kind({"quantization_config": bits | {"load_in_4bit": False, "load_in_8bit": True}}) == "int8"
    assert saved_kind({"quantization_config": {"quant_method": "gptq"}}) == "gptq"
    assert saved_kind({}) is None and saved_kind({"quantization_config": None}) is None


def test_the_config_of_bitsandbytes() -> None:
    four = bits_config("nf4", torch.float16)
    assert four is not None and four.load_in_4bit and four.bnb_4bit_use_double_quant and four.bnb_4bit_quant_type == "nf4"
    assert four.bnb_4bit_compute_dtype == torch.float16
    eight = bits_config("int8", torch.float16)
    assert eight is not None and eight.load_in_8bit and bits_config("none", torch.float16) is None


def test_no_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs the package bitsandbytes: pip install bitsandbytes"):
        choose_quantization("nf4", V100, GIB)
    # What chooses by itself chooses what there is.
    assert choose_quantization("auto", V100, LLAMA_8B)[0] == "none"


def test_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_card("cpu").capability is None and (find_card("cpu").free or 0) > 0
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: ["V100", "A100"][i])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: [(7, 0), (8, 0)][i])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: ({"cuda:0": 10, "cuda:1": 30}[str(device)], 99))
    assert find_card("balanced") == Card("2 x A100, V100", (7, 0), 40)
    assert find_card("cuda:1") == Card("A100", (8, 0), 30)


# -- what came about --------------------------------------------------------------------------------------------------


class Small(nn.Module):
    """Two linear layers, a fused weight where wanted, an output layer tied to the embedding."""

    def __init__(self, fused: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4, dtype=torch.bfloat16)
        self.up, self.down = nn.Linear(4, 8, bias=False), nn.Linear(8, 4, bias=False)
        if fused:
            self.experts = nn.Parameter(torch.zeros(2, 4, 4))
        self.head = nn.Linear(4, 10, bias=False, dtype=torch.bfloat16)
        self.head.weight = self.embed.weight
        self.register_buffer("turn", torch.zeros(3))

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def test_footprint_counts_each_tensor_once() -> None:
    # bf16: 10 x 4 x 2 (tied: once); fp32: 2 x 4 x 8 x 4; buffers: 3 x 4
    assert footprint(Small()) == {"bf16": 80, "fp32": 256, "buffers": 12}
    assert footprint_note(nn.Linear(1024, 1024, bias=False)) == "4.0 MiB: fp32 4.0"


def test_nf4_bytes_by_hand() -> None:
    from bitsandbytes.nn import Linear4bit

    layer = Linear4bit(512, 256, bias=False, quant_type="nf4", compress_statistics=True).to("cpu")
    # 512 x 256 = 131072 numbers: half a byte each; 2048 blocks of 64 with a byte each; 8 groups of 256 blocks with an fp32 each;
    # the tables of 16 and of 256 fp32, and one fp32 offset.
    assert footprint(layer) == {"nf4": 65536, "quantisation state": 2048 + 8 * 4 + 16 * 4 + 256 * 4 + 4}


def test_what_stayed_as_it_was_is_refused() -> None:
    assert list(unquantised(Small(), "nf4")) == ["up.weight", "down.weight"]
    assert list(unquantised(Small(fused=True), "nf4")) == ["experts", "up.weight", "down.weight"]
    with pytest.raises(ConfigError, match=r"model m: quantization=nf4 left 3 weights as they were \(experts, \.\.\.: 0\.0 MiB\).*=none"):
        settle(Small(fused=True), "nf4", "m")


def test_gradients_pass_through_a_4_bit_layer_that_has_generated() -> None:
    """On a CPU with AVX512-BF16, bitsandbytes packs a layer at its first use in evaluation; no gradient comes through it then."""
    from bitsandbytes.nn import Linear4bit

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Linear4bit(64, 64, bias=False, quant_type="nf4").to("cpu")

        def get_output_embeddings(self) -> None:
            return None

    model = One().eval()
    settle(model, "nf4", "m")
    with torch.inference_mode():
        model.layer(torch.ones(1, 64))
    x = torch.ones(1, 64, requires_grad=True)
    model.layer(x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
