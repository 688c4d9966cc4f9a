"""LoRA adapters on real tiny models, in full precision and on quantised bases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from expertchat.backends.adapters import Adapters, linear_layers
from expertchat.backends.quantization import footprint
from expertchat.backends.weights import load_weights
from expertchat.config import ConfigError
from expertchat.experts.llama3 import Llama3
from tests import checkpoints

torch.set_num_threads(1)
IDS = torch.arange(40).view(2, 20) * 7 % 300
TARGETS = ("q_proj", "v_proj", "w1", "w2", "w3", "down_proj")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    return {kind: checkpoints.write(place / kind, kind) for kind in ("llama3", "mixtral")}


def base(folders: dict[str, Path], kind: str = "llama3", quantization: str = "none") -> Any:
    return load_weights(folders[kind], "m", dtype="fp32", device="cpu", quantization=quantization).model


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(IDS).logits
    return found


def move(adapters: Adapters, name: str, seed: int) -> None:
    """Give an adapter, which changes nothing when new, weights that do."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapters.parameters(name).values():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2


@pytest.mark.parametrize(("kind", "quantization"), [("llama3", "none"), ("llama3", "nf4"), ("mixtral", "nf4"), ("mixtral", "int8")])
def test_two_adapters_on_one_base(kind: str, quantization: str, folders: dict[str, Path], tmp_path: Path) -> None:
    model = base(folders, kind, quantization)
    plain = logits(model)
    adapters = Adapters(model)
    for name in ("one", "two"):
        adapters.attach(name, TARGETS, r=4, alpha=8)
        assert torch.equal(logits(model), plain)  # B is zero at first
        move(adapters, name, seed=len(name) + ord(name[0]))
    assert adapters.names == ("one", "two") and adapters.active == "two"
    two = logits(model)
    adapters.use("one")
    one = logits(model)
    assert (one - two).abs().max() > 0.1 and (one - plain).abs().max() > 0.1
    adapters.use(None)
    assert torch.equal(logits(model), plain)
    with adapters.using("two"):
        assert torch.equal(logits(model), two)
    assert adapters.active is None and torch.equal(logits(model), plain)
    adapters.save("one", tmp_path / "saved")
    again = Adapters(base(folders, kind, quantization))
    again.load("other", tmp_path / "saved")
    assert torch.equal(logits(again.base), one)


def test_an_adapter_alone_equals_one_of_two(folders: dict[str, Path]) -> None:
    alone, both = Adapters(base(folders)), Adapters(base(folders))
    both.attach("first", TARGETS, r=4, seed=1)
    move(both, "first", 1)
    for adapters in (alone, both):
        adapters.attach("second", TARGETS, r=4, seed=2)
        move(adapters, "second", 2)
    assert torch.equal(logits(alone.base), logits(both.base))


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_training_moves_the_adapter_that_is_on_and_nothing_else(quantization: str, folders: dict[str, Path]) -> None:
    model = base(folders, "mixtral", quantization)
    logits(model)  # the engine has generated before the update
    adapters = Adapters(model)
    adapters.attach("one", TARGETS, r=4, seed=1)
    adapters.attach("two", TARGETS, r=4, seed=2)
    adapters.use("one")
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if ".one." not in name}
    trained = [p for p in model.parameters() if p.requires_grad]
    # q, v of two layers, and w1, w2, w3 of their four experts where these are linear; A and B of each
    assert len(trained) == 2 * 2 * (2 + (12 if quantization != "none" else 0))
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    for _ in range(3):
        loss = model(IDS, labels=IDS).loss
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[2] < losses[0]
    moved = [p for name, p in adapters.parameters("one").items() if ".lora_B." in name and p.abs().max() > 0]
    assert len(moved) == len(trained) // 2  # every B, those of each expert too
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)


def test_same_seed_same_adapter_whatever_was_drawn_before(folders: dict[str, Path]) -> None:
    first, second, third = (Adapters(base(folders)) for _ in range(3))
    first.attach("x", TARGETS, seed=3)
    torch.rand(5)
    state = torch.random.get_rng_state()
    second.attach("x", TARGETS, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    third.attach("x", TARGETS, seed=4)
    values = [torch.cat([p.flatten() for p in a.parameters("x").values()]) for a in (first, second, third)]
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_adapters_are_fp32_on_a_half_precision_base(quantization: str, folders: dict[str, Path]) -> None:
    loaded = load_weights(folders["llama3"], "m", dtype="fp16", device="cpu", quantization=quantization)
    adapters = Adapters(loaded.model)
    adapters.attach("x", Llama3.family.lora_targets, r=16)
    assert {p.dtype for p in adapters.parameters("x").values()} == {torch.float32}
    assert loaded.model.lm_head.weight.dtype == torch.float16
    # a layer: q 64+64, k and v 64+32 each, o 64+64, gate and up 64+96 each, down 96+64: 928 numbers for each of 16 ranks
    assert footprint(loaded.model)["adapters"] == 2 * 928 * 16 * 4
    assert torch.isfinite(logits(loaded.model)).all()
    adapters.attach("narrow", ("q_proj",), dtype=torch.bfloat16)
    assert {p.dtype for p in adapters.parameters("narrow").values()} == {torch.bfloat16}


def test_targets(folders: dict[str, Path]) -> None:
    model = base(folders, "mixtral")
    assert {path.rpartition(".")[2] for path in linear_layers(model)} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    adapters = Adapters(model)
    with pytest.raises(ConfigError, match=r"no linear layers named w1, w2; choose among k_proj, o_proj, q_proj, v_proj"):
        adapters.attach("x", ("w1", "w2"))
    assert adapters.names == ()
    assert adapters.attach("x", ("q_proj", "w1")) == ("w1",)
    assert len(linear_layers(model)) == 8 and linear_layers(model)["model.layers.1.self_attn.k_proj"] == (32, 64)


@pytest.mark.parametrize("name", ["", "lora", "a", "x.y", "x", "half"])
def test_names_that_are_refused(name: str, folders: dict[str, Path]) -> None:
    adapters = Adapters(base(folders))
    adapters.attach("x", ("q_proj",))
    with pytest.raises(ConfigError, match="choose a name"):
        adapters.attach(name, ("q_proj",))
    with pytest.raises(ConfigError, match="there is no adapter y; there are x"):
        adapters.use("y")


def test_removed_adapters_leave_the_base(folders: dict[str, Path]) -> None:
    model = base(folders)
    plain, adapters = logits(model), Adapters(model)
    adapters.attach("x", TARGETS)
    move(adapters, "x", 1)
    adapters.remove("x")
    assert adapters.names == () and torch.equal(logits(model), plain)
    adapters.attach("x", TARGETS)
    move(adapters, "x", 1)
    assert (logits(model) - plain).abs().max() > 0.1


# -- folders ----------------------------------------------------------------------------------------------------------


def test_a_saved_folder_is_a_peft_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    from peft import PeftModel

    adapters = Adapters(base(folders))
    adapters.attach("x", TARGETS, r=4)
    move(adapters, "x", 1)
    adapters.save("x", tmp_path / "here")
    adapters.save("x", tmp_path / "here")  # again, over itself
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert torch.equal(logits(PeftModel.from_pretrained(base(folders), tmp_path / "here")), logits(adapters.base))


def rewrite(change: Callable[[dict[str, Tensor]], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        state = load_file(folder / "adapter_model.safetensors")
        change(state)
        save_file(state, folder / "adapter_model.safetensors")

    return damage


def config(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return damage


A = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda f: (f / "adapter_config.json").unlink(), "holds no adapter_config.json"),
        (lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"), "holds no adapter_model.safetensors"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "adapter_config.json cannot be read"),
        (lambda f: (f / "adapter_config.json").write_text("[]"), "is not that of a LoRA adapter"),
        (config(peft_type="IA3"), "is not that of a LoRA adapter"),
        (lambda f: (f / "adapter_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"), "is a git-lfs pointer"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\xff" * 99), "is no safetensors file"),
        (rewrite(lambda s: s.pop(A)), "lacks the weights of"),  # type: ignore[arg-type,return-value]
        (rewrite(lambda s: [s.pop(k) for k in list(s) if "layers.1" in k]), "lacks the weights of model.layers.1.self_attn.q_proj"),  # type: ignore[arg-type,return-value]
        (rewrite(lambda s: s.update({A.replace("layers.1", "layers.7"): s.pop(A)})), "a layer model.layers.7.self_attn.q_proj"),
        (rewrite(lambda s: s.update({A: s[A][:, :32].contiguous()})), r"the shape \(4, 32\), but this model needs \(4, 64\)"),
        (config(r=8), r"has the shape \(4, 64\), but this model needs \(8, 64\)"),
    ],
)
def test_wrong_folders_are_one_message(damage: Callable[[Path], Any], expected: str, folders: dict[str, Path], tmp_path: Path) -> None:
    adapters = Adapters(base(folders))
    adapters.attach("x", ("q_proj",), r=4)
    adapters.save("x", tmp_path / "saved")
    damage(tmp_path / "saved")
    fresh = Adapters(base(folders))
    with pytest.raises(ConfigError, match=expected) as caught:
        fresh.load("y", tmp_path / "saved")
    assert len(caught.value.problems) == 1 and str(tmp_path / "saved") in str(caught.value)
    assert fresh.names == ()


def test_the_adapter_of_another_model_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    adapters = Adapters(base(folders, "mixtral", "nf4"))
    adapters.attach("x", ("w1", "w2", "w3"))
    adapters.save("x", tmp_path / "saved")
    layer = r"model\.layers\.0\.block_sparse_moe\.experts\.0\.w1"
    with pytest.raises(ConfigError, match=f"is for a model with a layer {layer}, which this one has not"):
        Adapters(base(folders)).load("x", tmp_path / "saved")
