"""Real-format checkpoints of every family through the product's own way in; Mixtral's experts really in 4 bits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import DynamicCache, MixtralConfig, MixtralForCausalLM
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter

from expertchat.backends import hardware
from expertchat.backends.base import Decoding, GenerateRequest
from expertchat.backends.folders import find_folder, tensor_shapes
from expertchat.backends.layouts import Experts
from expertchat.backends.linear_experts import Expert, LinearExperts, linear_class, linear_config
from expertchat.backends.loading import load_backend
from expertchat.backends.local import LocalBackend
from expertchat.backends.quantization import footprint
from expertchat.backends.weights import Loaded, lean_hooks, load_weights
from expertchat.config import ConfigError
from expertchat.plan import memory
from expertchat.records import Message
from tests import checkpoints, tiny

torch.set_num_threads(1)
IDS = torch.arange(60).view(3, 20) * 5 % 300
GIB = 2**30


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published Mixtral in three shards; not to be changed."""
    return checkpoints.write(tmp_path_factory.mktemp("published") / "mixtral", "mixtral")


@pytest.fixture(scope="module")
def four_bit(mixtral: Path) -> Loaded:
    return load(mixtral, quantization="nf4")


def load(folder: Path, **more: Any) -> Loaded:
    return load_weights(find_folder(folder), "m", **{"dtype": "fp32", "device": "cpu", **more})


def copy(folder: Path, to: Path) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


# -- every family -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(checkpoints.CONFIGS))
@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_published_checkpoints_load_and_talk(kind: str, quantization: str, tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / kind, kind)
    family = checkpoints.FAMILIES[kind]
    backend = load_backend(tiny.config(folder, family=family, quantization=quantization, dtype="fp32"), seed=0)
    assert isinstance(backend, LocalBackend)
    greedy = Decoding(method="greedy", max_new_tokens=4)
    done = backend.generate([GenerateRequest("k", (Message("user", "What do herons eat?"),), greedy)])[0]
    assert 1 <= done.tokens <= 4
    linear = ("_proj.weight", ".w1.weight", ".w2.weight", ".w3.weight")
    kinds = {type(p).__name__ for name, p in backend.model.named_parameters() if name.endswith(linear)}
    assert kinds == {{"none": "Parameter", "nf4": "Params4bit", "int8": "Int8Params"}[quantization]}
    assert any("MiB: fp32 " in note for note in backend.info.notes) is (quantization != "none")


@pytest.mark.parametrize("kind", ["llama3", "qwen3"])
def test_int8_and_nf4_keep_the_logits_near(kind: str, tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / kind, kind)
    exact = load(folder).model(IDS).logits
    error = {q: float((load(folder, quantization=q).model(IDS).logits - exact).std() / exact.std()) for q in ("int8", "nf4")}
    assert error["int8"] < 0.1 and error["int8"] < error["nf4"] < 0.6  # 8 bits: about 1 % a layer, 4 bits: about 10 %


# -- Mixtral ----------------------------------------------------------------------------------------------------------


class Contiguous(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(x.contiguous())


def test_fp32_logits_are_those_of_transformers(mixtral: Path) -> None:
    ours = load(mixtral, linear_experts=True).model
    theirs = MixtralForCausalLM.from_pretrained(mixtral, dtype=torch.float32, experts_implementation="eager")
    assert isinstance(ours, linear_class("mixtral")) and ours(IDS).logits.abs().max() > 1
    torch.testing.assert_close(ours(IDS).logits, theirs(IDS).logits, atol=1e-5, rtol=0)
    # What is left between them is one function: theirs takes the SiLU of a strided half of the fused product, and torch rounds that
    # otherwise than one that lies together. With that alone made equal, nothing is left.
    for layer in theirs.model.layers:
        layer.mlp.experts.act_fn = Contiguous()
    assert torch.equal(ours(IDS).logits, theirs(IDS).logits)
    assert torch.equal(ours(IDS[:1, :1]).logits, theirs(IDS[:1, :1]).logits)


def test_what_the_engine_relies_on(mixtral: Path) -> None:
    """A cache of an own class, a 4-D additive mask and explicit positions: ragged rows, left-padded, equal single rows."""

    class OwnCache(DynamicCache):
        pass

    model = load(mixtral, linear_experts=True).model
    rows = [IDS[0, :7], IDS[1, :4]]
    ids_B_S = torch.stack([rows[0], torch.cat([torch.zeros(3, dtype=torch.long), rows[1]])])
    real_B_S = torch.tensor([[1] * 7, [0] * 3 + [1] * 4])
    causal_S_S = torch.tril(torch.ones(7, 7, dtype=torch.bool))
    allowed = (causal_S_S & real_B_S[:, None, :].bool()) | torch.eye(7, dtype=torch.bool)
    mask_B_1_S_S = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)[:, None]
    positions_B_S = (real_B_S.cumsum(1) - 1).clamp(min=0)
    cache = OwnCache()
    out = model(input_ids=ids_B_S, attention_mask=mask_B_1_S_S, position_ids=positions_B_S, past_key_values=cache, use_cache=True)
    assert isinstance(out.past_key_values, OwnCache) and cache.get_seq_length() == 7
    for b, row in enumerate(rows):
        torch.testing.assert_close(out.logits[b, -1], model(row[None]).logits[0, -1], atol=1e-5, rtol=0)


def test_only_chosen_experts_run() -> None:
    torch.manual_seed(0)
    config = MixtralConfig(hidden_size=8, intermediate_size=12, num_local_experts=6, num_experts_per_tok=2)
    block = LinearExperts(config, Experts(names=("w1", "w3", "w2")), MixtralTopKRouter(config)).eval()
    nn.init.normal_(block.gate.weight)
    ran: dict[int, int] = {}
    for i, expert in enumerate(block.experts):
        expert.register_forward_hook(lambda module, args, out, i=i: ran.__setitem__(i, ran.get(i, 0) + len(args[0])))
    for rows in (1, 2, 5):
        x = torch.randn(rows, 1, 8)
        _, weights, chosen = block.gate(x)
        ran.clear()
        out = block(x)
        counts = torch.bincount(chosen.flatten(), minlength=6).tolist()
        assert ran == {i: count for i, count in enumerate(counts) if count}
        by_hand = [sum(w * block.experts[i](x[n]) for w, i in zip(weights[n], chosen[n].tolist(), strict=True)) for n in range(rows)]
        torch.testing.assert_close(out, torch.stack(by_hand))  # type: ignore[arg-type]


def test_every_expert_weight_is_4_bit(four_bit: Loaded) -> None:
    model = four_bit.model
    experts = [module for module in model.modules() if isinstance(module, Expert)]
    weights: list[Any] = [layer.weight for expert in experts for layer in (expert.w1, expert.w2, expert.w3)]
    assert len(weights) == 2 * 4 * 3  # layers x experts x w1, w2, w3
    assert {(type(p).__name__, p.dtype) for p in weights} == {("Params4bit", torch.uint8)}
    assert {p.quant_state.quant_type for p in weights} == {"nf4"} and all(p.quant_state.nested for p in weights)


def test_footprint_is_the_planned_one(four_bit: Loaded, mixtral: Path) -> None:
    """Of the arithmetic that plans memory, to the byte; but for the tables of each layer, it is 4 bits and a quarter a number."""
    found = footprint(four_bit.model)
    shape = memory.shape_of(json.loads((mixtral / "config.json").read_text()))
    layers = sum(m.times * memory.matrix_bytes(m, "fp32", "nf4") for m in memory.matrices(shape)) * shape.layers
    assert found["nf4"] + found["quantisation state"] == layers
    # q, o: 64 x 64; k, v: 32 x 64; experts: 4 x 3 x 96 x 64; half a byte each, two layers
    assert found["nf4"] == 2 * (2 * 64 * 64 + 2 * 32 * 64 + 4 * 3 * 96 * 64) // 2
    assert any(note.startswith("0.") and "nf4 0.1" in note for note in four_bit.notes)


def test_save_and_reload_in_4_bits(four_bit: Loaded, tmp_path: Path) -> None:
    four_bit.model.save_pretrained(tmp_path)
    four_bit.tokenizer.save_pretrained(tmp_path)
    assert "model.layers.1.block_sparse_moe.experts.3.w2.weight.quant_state.bitsandbytes__nf4" in tensor_shapes(tmp_path)
    again = load(tmp_path, quantization="auto")
    assert "nf4: the folder holds its weights in it" in again.notes
    assert torch.equal(again.model(IDS).logits, four_bit.model(IDS).logits)
    with pytest.raises(ConfigError, match="model m: quantization=none, but the folder holds its weights in nf4"):
        load(tmp_path, quantization="none")


@pytest.mark.parametrize("original", [True, False])
def test_checkpoints_that_transformers_5_saved(original: bool, mixtral: Path, tmp_path: Path) -> None:
    """By default it writes the published names again, with save_original_format=False the fused ones."""
    words = load(mixtral)
    words.model.save_pretrained(tmp_path, save_original_format=original)
    words.tokenizer.save_pretrained(tmp_path)
    assert ("model.layers.0.mlp.experts.gate_up_proj" in tensor_shapes(tmp_path)) is not original
    expected = load(mixtral, linear_experts=True).model(IDS).logits
    assert torch.equal(load(tmp_path, linear_experts=True).model(IDS).logits, expected)
    in_four = load(mixtral, quantization="nf4").model(IDS).logits
    assert torch.equal(load(tmp_path, quantization="nf4").model(IDS).logits, in_four)


def test_unquantised_mixtral_is_transformers_own(mixtral: Path) -> None:
    assert type(load(mixtral).model) is MixtralForCausalLM
    assert type(load(find_folder("embedded:mixtral")).model) is MixtralForCausalLM


# -- what is refused --------------------------------------------------------------------------------------------------


def change(folder: Path, old: str, new: str | None) -> None:
    """Rename a tensor, in its shard and in the index, or take it out."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    file = index["weight_map"].pop(old)
    state = load_file(folder / file)
    tensor = state.pop(old)
    if new:
        state[new] = tensor
        index["weight_map"][new] = file
    save_file(state, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


KEY = "model.layers.1.block_sparse_moe.experts.2.w3.weight"


LACKS = r"its weights lack 1 tensors of experts \(model\.layers\.1\.block_sparse_moe\.experts\.2\.w3\.weight\)"


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (KEY.replace("w3", "w4"), LACKS + r" and hold 1 tensors of experts \(.*\.experts\.2\.w4\.weight\), which its config\.json has no"),
        # transformers fuses what there is: without a look at the names, expert 9 would become the last one
        (KEY.replace("experts.2", "experts.9"), LACKS + r" and hold 1 tensors of experts \(.*\.experts\.9\.w3"),
        (None, LACKS + ": download it again"),
    ],
)
def test_renamed_and_missing_experts_are_refused(mixtral: Path, tmp_path: Path, quantization: str, new: str | None, expected: str) -> None:
    folder = copy(mixtral, tmp_path / "m")
    change(folder, KEY, new)
    with pytest.raises(ConfigError, match=expected) as caught:
        load(folder, quantization=quantization)
    assert len(caught.value.problems) == 1


def test_a_renamed_router_is_refused(mixtral: Path, tmp_path: Path) -> None:
    folder = copy(mixtral, tmp_path / "m")
    change(folder, "model.layers.0.block_sparse_moe.gate.weight", "model.layers.0.block_sparse_moe.router.weight")
    with pytest.raises(ConfigError, match=r"its weights lack 1 tensors \(model\.layers\.0\.mlp\.gate\.weight"):
        load(folder, quantization="nf4")


@pytest.mark.parametrize("experts", [3, 5])
def test_another_number_of_experts_is_refused(mixtral: Path, tmp_path: Path, experts: int) -> None:
    folder = copy(mixtral, tmp_path / "m")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"num_local_experts": 4', f'"num_local_experts": {experts}'))
    with pytest.raises(ConfigError, match=f"its weights {'hold' if experts == 3 else 'lack'} 6 tensors of experts"):  # 2 layers x 3
        load(folder)


def test_missing_shard_is_refused(mixtral: Path, tmp_path: Path) -> None:
    folder = copy(mixtral, tmp_path / "m")
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"lacks model-00002-of-00003\.safetensors of 3 weight files; download the model again"):
        load(folder, quantization="nf4")


def test_a_broken_model_ends_the_command_with_2(mixtral: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from expertchat.cli import main

    folder = copy(mixtral, tmp_path / "m")
    change(folder, KEY, KEY.replace("w3", "w4"))
    which = ["model@experts.b=mixtral_8x7b", f"experts.b.path={folder}", "experts.b.device=cpu", "experts.b.quantization=nf4"]
    assert main(["converse", *which, "embedder.path=embedded:embedder", "view=none", f"run.dir={tmp_path / 'run'}"]) == 2
    text = capsys.readouterr().err
    assert str(folder) in text and "its weights lack 1 tensors of experts" in text and "Traceback" not in text


# -- the real size ----------------------------------------------------------------------------------------------------


def test_mixtral_8x7b_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = linear_class("mixtral")(linear_config(MixtralConfig()))  # its defaults are Mixtral-8x7B's
    experts = [module for name, module in model.named_modules() if isinstance(module, nn.Linear) and ".experts." in name]
    assert len(experts) == 32 * 8 * 3
    assert sum(p.numel() for p in model.parameters()) == 46_702_792_704  # what its makers call 46.7 B
    head = model.get_output_embeddings()
    quantised, rest = 0, 0
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if isinstance(module, nn.Linear) and module is not head:
                blocks = parameter.numel() // 64
                quantised += parameter.numel() // 2 + blocks + blocks // 256 * 4 + 16 * 4 + 256 * 4 + 4
            else:
                rest += parameter.numel() * 2
    assert (quantised + rest) / GIB == pytest.approx(22.8, abs=0.1)
    assert rest / GIB == pytest.approx(2 * 32000 * 4096 * 2 / GIB, rel=0.01)  # embedding and output layer, near enough
    assert quantised + rest == pytest.approx(memory.weights(memory.shape_of(MixtralConfig().to_dict()), "fp16", "nf4").total, rel=1e-6)


# -- devices ----------------------------------------------------------------------------------------------------------


def test_hooks_stay_at_the_borders_only(mixtral: Path) -> None:
    from accelerate import dispatch_model

    model = load(mixtral, linear_experts=True).model
    expected = model(IDS).logits
    parts = ["model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "model.rotary_emb", "lm_head"]
    model.hf_device_map = dict.fromkeys(parts, "cpu")
    dispatch_model(model, model.hf_device_map, force_hooks=True)
    hooked = [name for name, module in model.named_modules() if hasattr(module, "_hf_hook")]
    assert len(hooked) > 30
    lean_hooks(model)
    assert sorted(name for name, module in model.named_modules() if hasattr(module, "_hf_hook")) == sorted(["", *parts])
    assert torch.equal(model(IDS).logits, expected)


def test_v100_rules(mixtral: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told that the card is a V100: fp16 compute in nf4 layers, sdpa, int8 refused; the weights stay on the CPU here."""
    from expertchat.backends import weights
    from expertchat.backends.quantization import Card

    monkeypatch.setattr(weights, "find_card", lambda device, gpus: Card("V100", (7, 0), 16 * GIB))
    with pytest.raises(ConfigError, match=r"model m: quantization=int8 needs a GPU of compute 7\.5 or newer"):
        load(mixtral, quantization="int8")
    model = load(mixtral, quantization="nf4", dtype="fp16").model
    assert model.model.layers[0].mlp.experts[0].w1.compute_dtype == torch.float16
    assert model.config._attn_implementation == "sdpa" and model.lm_head.weight.dtype == torch.float16
    assert hardware.DTYPES["fp16"] == torch.float16
