"""Merging: the written folder answers as base and adapter did, in transformers' own classes, and nothing half is left behind."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from expertchat.backends.adapters import Adapters
from expertchat.backends.folders import find_folder
from expertchat.backends.weights import load_weights
from expertchat.command.compose import compose
from expertchat.config import ConfigError, validate
from expertchat.training import merge
from expertchat.training.learner import WEIGHTS
from expertchat.training.merge import run_merge, spread
from expertchat.training.merge_config import MergeConfig
from expertchat.views.outcomes import print_merged, print_step
from tests import checkpoints

torch.set_num_threads(1)
IDS = torch.arange(40).view(2, 20) * 7 % 300
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    return {kind: checkpoints.write(place / kind, kind) for kind in ("llama3", "mixtral", "smollm")}


def adapter(base: str, place: Path, targets: tuple[str, ...] = ATTENTION, size: float = 0.2, **loading: Any) -> tuple[Path, Tensor]:
    """A saved adapter with weights that do something, and the logits of the base with it."""
    model = load_weights(find_folder(base), base, dtype="fp32", device="cpu", **loading).model
    adapters = Adapters(model)
    adapters.attach("x", targets, r=4, alpha=8, path=base)
    generator = torch.Generator().manual_seed(1)
    for parameter in adapters.parameters("x").values():
        parameter.data = torch.randn(parameter.shape, generator=generator) * size
    adapters.save("x", place)
    return place, logits(model)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(IDS).logits.float()
    return found


def config(adapter: Path, out: Path, **changes: Any) -> MergeConfig:
    return MergeConfig.model_validate({"adapter": str(adapter), "out": str(out), "dtype": "fp32", "device": "cpu", **changes})


def plain(folder: Path) -> Any:
    """As anybody would load it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True)


@pytest.mark.parametrize(
    ("kind", "targets", "loading"),
    [
        ("llama3", (*ATTENTION, "gate_proj", "up_proj", "down_proj"), {}),
        ("smollm", ATTENTION, {}),  # output layer and embedding are one
        ("mixtral", ATTENTION, {}),
        ("mixtral", (*ATTENTION, "w1", "w2", "w3"), {"linear_experts": True}),
    ],
)
def test_the_merged_folder_answers_as_base_and_adapter(
    kind: str, targets: tuple[str, ...], loading: dict[str, Any], folders: dict[str, Path], tmp_path: Path
) -> None:
    saved, wanted = adapter(str(folders[kind]), tmp_path / "adapter", targets, **loading)
    merged = run_merge(config(saved, tmp_path / "out"))
    model = plain(tmp_path / "out")
    assert type(model).__name__ == {"mixtral": "MixtralForCausalLM"}.get(kind, "LlamaForCausalLM")
    assert model.dtype == torch.float32 and torch.allclose(logits(model), wanted, atol=1e-4)
    assert merged.difference < 1e-5 and merged.effect > 0.1 and merged.notes == ()
    assert (merged.out, merged.base, merged.dtype) == (tmp_path / "out", str(folders[kind]), "fp32")
    before, after = (AutoTokenizer.from_pretrained(place) for place in (folders[kind], tmp_path / "out"))
    assert after.chat_template == before.chat_template and after("Grey herons.")["input_ids"] == before("Grey herons.")["input_ids"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []  # nothing half is left


def test_mixtral_goes_back_to_its_published_layout(folders: dict[str, Path], tmp_path: Path) -> None:
    saved, _ = adapter(str(folders["mixtral"]), tmp_path / "adapter", ("q_proj", "w1", "w2", "w3"), linear_experts=True)
    run_merge(config(saved, tmp_path / "out", dtype="auto"))
    before = checkpoints.load_shards(folders["mixtral"])
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in after.items()} == {n: (t.shape, t.dtype) for n, t in before.items()}
    moved = {name.rpartition(".")[0].rpartition(".")[2] for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved == {"q_proj", "w1", "w2", "w3"}
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (written["model_type"], written["architectures"]) == ("mixtral", ["MixtralForCausalLM"])


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_the_embedded_models(name: str, tmp_path: Path) -> None:
    saved, wanted = adapter(f"embedded:{name}", tmp_path / "run" / "adapter", size=0.02)
    merged = run_merge(config(tmp_path / "run", tmp_path / "out", dtype="auto"))  # a run's folder, its base by its own name
    assert (merged.base, merged.dtype, merged.source) == (f"embedded:{name}", "fp32", saved)
    assert torch.allclose(logits(plain(tmp_path / "out")), wanted, atol=1e-4)
    chat = [{"role": "user", "content": "Tell me about tides."}]
    words = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert words.apply_chat_template(chat, tokenize=False) == "<s><|user|> Tell me about tides.</s>"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "library_name: transformers" in card and "base_model" not in card  # the hub takes hub ids there, and no others


def test_weights_that_were_trained_themselves(folders: dict[str, Path], tmp_path: Path) -> None:
    model = load_weights(folders["llama3"], "m", dtype="fp32", device="cpu").model
    last = {name: p.detach() + 0.1 for name, p in model.named_parameters() if ".layers.1." in name}
    place = tmp_path / "run" / "rounds" / "000003" / "adapter"
    place.mkdir(parents=True)
    save_file(last, place / WEIGHTS)
    (place.parent / "DONE").touch()
    with pytest.raises(ConfigError, match="does not say which model it is for; name it with base=PATH"):
        run_merge(config(place, tmp_path / "out"))
    expert = f"{{path: '{folders['llama3']}', quantization: none}}"
    (tmp_path / "run" / "config.yaml").write_text(f"learner: a\nexperts: {{a: {expert}, b: {expert}}}\n")
    with pytest.raises(ConfigError, match=r"model\.layers\.1\.mlp\.gate_proj\.weight has no place|model\.layers\.1\.\S+ has no place"):
        run_merge(config(place, tmp_path / "out", base=str(folders["mixtral"])))
    run_merge(config(place.parent, tmp_path / "out"))
    with torch.no_grad():
        for name, tensor in last.items():
            model.get_parameter(name).copy_(tensor)
    assert torch.allclose(logits(plain(tmp_path / "out")), logits(model), atol=1e-5)


def test_a_quantised_run_is_merged_into_unquantised_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    place = tmp_path / "run" / "adapter"
    adapter(str(folders["mixtral"]), place, ("q_proj", "w1", "w2", "w3"), quantization="nf4")
    expert = f"{{path: '{folders['mixtral']}', quantization: nf4}}"
    (tmp_path / "run" / "config.yaml").write_text(f"learner: both\nexperts: {{a: {expert}, b: {expert}}}\n")
    merged = run_merge(config(tmp_path / "run", tmp_path / "out", dtype="auto"))
    assert merged.dtype == "bf16"  # as in the base's files
    assert "quantization=nf4: the adapter is merged into unquantised weights, bf16" in merged.notes[0]
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_an_adapter_that_rounding_swallows_is_told(folders: dict[str, Path], tmp_path: Path) -> None:
    saved, _ = adapter(str(folders["llama3"]), tmp_path / "adapter", size=0.005)
    merged = run_merge(config(saved, tmp_path / "out", dtype="bf16"))
    assert merged.difference > merged.effect / 2
    assert "much of it is lost; dtype=fp32 keeps it" in merged.notes[0]
    stream = io.StringIO()
    print_step("loading m", stream)
    print_merged(merged, stream)
    assert stream.getvalue().startswith(f"loading m ...\n{tmp_path / 'out'}: ") and "much of it is lost" in stream.getvalue()


def test_what_does_not_answer_alike_is_not_kept(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved, _ = adapter(str(folders["llama3"]), tmp_path / "adapter")
    monkeypatch.setattr(merge, "write", lambda model, base, place: folders["llama3"].rename(place))  # the base instead of the merged model
    try:
        with pytest.raises(ConfigError, match=r"do not answer as the base with .* does: .*; nothing was written\. Set dtype=fp32"):
            run_merge(config(saved, tmp_path / "out"))
    finally:
        checkpoints.write(folders["llama3"], "llama3")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def test_the_command_line_gives_the_config() -> None:
    found = validate(MergeConfig, compose("merge", ["adapter=runs/1", "out=merged", "base=embedded:llama"]))
    assert (found.adapter, found.out, found.base, found.dtype, found.device) == ("runs/1", "merged", "embedded:llama", "auto", "cpu")


def test_spread_is_of_the_median_token() -> None:
    # Spreads of the wanted logits: sqrt(1 + 0 + 1) for each of three tokens. Off by sqrt(2) x 0.1, 0 and 9: 0.1, 0, 9 / sqrt(2).
    wanted = torch.tensor([[-1.0, 0.0, 1.0]]).repeat(3, 1)
    found = wanted + torch.tensor([[0.1, 0.0, 0.1], [0.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    assert spread(found, wanted) == pytest.approx(0.1)


def test_a_second_folder_is_never_overwritten(folders: dict[str, Path], tmp_path: Path) -> None:
    saved, _ = adapter(str(folders["llama3"]), tmp_path / "adapter")
    (tmp_path / "out").mkdir()
    run_merge(config(saved, tmp_path / "out"))  # an empty folder is no loss
    with pytest.raises(ConfigError, match="is there already; name a new folder"):
        run_merge(config(saved, tmp_path / "out"))


def test_adapters_that_cannot_be_found(folders: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="no such folder"):
        run_merge(config(tmp_path / "nowhere", out))
    with pytest.raises(ConfigError, match=r"holds neither adapter_config\.json .*; it is a whole model already"):
        run_merge(config(folders["llama3"], out))
    for name in ("adapter_a", "adapter_b"):
        adapter(str(folders["llama3"]), tmp_path / "run" / name)
    with pytest.raises(ConfigError, match=r"holds several: name one of .*adapter_a, .*adapter_b"):
        run_merge(config(tmp_path / "run", out))
    with pytest.raises(ConfigError, match="is for a model with a layer"):
        run_merge(config(adapter(str(folders["llama3"]), tmp_path / "mlp", ("gate_proj",))[0], out, base=str(folders["mixtral"])))
    quantised = checkpoints.write(tmp_path / "nf4", "llama3", quantization_config={"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"})
    with pytest.raises(ConfigError, match="hold nf4 weights, into which nothing can be merged exactly"):
        run_merge(config(tmp_path / "run" / "adapter_a", out, base=str(quantised)))
    assert not out.exists()


def test_an_adapter_that_is_not_a_number(folders: dict[str, Path], tmp_path: Path) -> None:
    saved, _ = adapter(str(folders["llama3"]), tmp_path / "adapter", size=float("inf"))
    with pytest.raises(ConfigError, match="take another round's"):
        run_merge(config(saved, tmp_path / "out"))
