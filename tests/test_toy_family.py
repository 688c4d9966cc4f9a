"""A family that is added in one file and one line talks, is planned, learns by LoRA and is merged; a mixture of experts too, in 4 bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from expertchat.backends.adapters import Adapters, linear_layers
from expertchat.backends.folders import tensor_shapes
from expertchat.backends.layouts import LAYOUTS, has_linear_experts
from expertchat.backends.measuring import model_bytes
from expertchat.backends.weights import load_weights
from expertchat.backends.wholeness import tensors_problem
from expertchat.command.check_models import linear_names
from expertchat.config import ConfigError
from expertchat.experts.registry import FAMILIES
from expertchat.plan import memory
from expertchat.plan.rehearsal import random_model
from expertchat.talk.converse import run_converse
from expertchat.training.merge import run_merge
from expertchat.training.merge_config import MergeConfig
from tests import architectures
from tests.scripted import BagOfWords, Collect, config_of
from tests.toy_family import DENSE, MIXTURE, Heron

torch.set_num_threads(1)
IDS = torch.arange(30).view(2, 15) * 7 % 300
EXPERT = ("gate_proj", "up_proj", "down_proj")
KINDS = {"granite": DENSE, "qwen3_moe": MIXTURE}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: architectures.build(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of the family, which is registered in one line; and in one more, how its weights are laid out."""
    monkeypatch.setitem(FAMILIES, "heron", Heron)
    monkeypatch.setitem(LAYOUTS, request.param, KINDS[request.param])
    return folders[request.param]


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(IDS).logits.float()
    return found


def test_it_talks(folder: Path, tmp_path: Path) -> None:
    seats = [f"experts.{seat}.{key}" for seat in "ab" for key in ("family=heron", f"path={folder}", "device=cpu", "quantization=none")]
    config = config_of("model@experts.a=auto", "model@experts.b=auto", "decoding@experts.a.decoding=greedy", f"run.dir={tmp_path / 'run'}",
                       "conversation.count=1", "conversation.turns=2", "experts.a.decoding.reply.max_new_tokens=8",
                       "experts.b.decoding.reply.max_new_tokens=8", "experts.a.decoding.judge.max_new_tokens=8",
                       "experts.b.decoding.judge.max_new_tokens=8", "engine.threads=1", "judging.min_mass=0", *seats)  # fmt: skip
    sink = Collect()
    assert run_converse(config, ["expertchat", "converse"], sink, embedder=BagOfWords()) == 0
    (line,) = (tmp_path / "run" / "transcripts.jsonl").read_text().splitlines()
    transcript = json.loads(line)
    assert [turn["tokens"] > 0 for turn in transcript["turns"]] == [True, True]
    assert {expert["family"] for expert in transcript["experts"].values()} == {"heron"}


def test_it_is_planned_to_the_byte(folder: Path) -> None:
    shape = memory.shape_of(json.loads((folder / "config.json").read_text()))
    for bits in ("none", "nf4"):
        planned = memory.weights(shape, "fp32", bits).total
        assert model_bytes(load_weights(folder, "toy", dtype="fp32", device="cpu", quantization=bits).model) == planned
        assert model_bytes(random_model(shape, "fp32", bits, {"": "cpu"})) == planned


def test_its_folder_is_checked(folder: Path) -> None:
    assert tensors_problem(folder) is None
    wanted = {"q_proj", "k_proj", "v_proj", "o_proj"} | (set(EXPERT) if folder.name.startswith("granite") else set())
    assert linear_names(folder, "none") == wanted
    assert linear_names(folder, "nf4") == wanted | set(EXPERT)


def test_a_mixture_is_linear_experts_in_4_bits(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAYOUTS, "qwen3_moe", MIXTURE)
    place = folders["qwen3_moe"]
    own, linear = (load_weights(place, "toy", dtype="fp32", device="cpu", linear_experts=linear).model for linear in (False, True))
    assert not has_linear_experts(own.config.model_type) and has_linear_experts(linear.config.model_type)
    torch.testing.assert_close(logits(linear), logits(own), atol=1e-5, rtol=0)
    four = load_weights(place, "toy", dtype="fp32", device="cpu", quantization="nf4").model
    kinds = {type(p).__name__ for name, p in four.named_parameters() if name.endswith(tuple(f"{leaf}.weight" for leaf in EXPERT))}
    assert kinds == {"Params4bit"} and len(linear_layers(four)) == 2 * (4 + 4 * 3)  # 2 layers: attention, and 4 experts of 3


def test_a_mixture_that_lacks_an_expert_is_refused(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAYOUTS, "qwen3_moe", MIXTURE)
    from safetensors.torch import save_file

    place = architectures.build(tmp_path / "broken", "qwen3_moe")
    tensors = load_file(place / "model.safetensors")
    gone = next(name for name in sorted(tensors) if ".experts." in name)
    save_file({name: tensor for name, tensor in tensors.items() if name != gone}, place / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"its weights lack 1 tensors of experts \(model\.layers\.0\.mlp\.experts\."):
        load_weights(place, "toy", dtype="fp32", device="cpu")


def test_it_learns_and_is_merged(folder: Path, tmp_path: Path) -> None:
    mixture = folder.name.startswith("qwen3_moe")
    loaded = load_weights(folder, str(folder), dtype="fp32", device="cpu", linear_experts=True)
    adapters = Adapters(loaded.model)
    assert adapters.attach("toy", Heron.family.lora_targets, r=4, path=str(folder)) == ()
    generator = torch.Generator().manual_seed(1)
    for parameter in adapters.parameters("toy").values():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    adapters.save("toy", tmp_path / "adapter")
    wanted = logits(loaded.model)
    again = Adapters(load_weights(folder, "toy", dtype="fp32", device="cpu", linear_experts=True).model)
    again.load("toy", tmp_path / "adapter")
    assert torch.equal(logits(again.base), wanted)

    named = {"adapter": str(tmp_path / "adapter"), "out": str(tmp_path / "out"), "dtype": "fp32", "device": "cpu"}
    merged = run_merge(MergeConfig.model_validate(named))
    assert merged.difference < 1e-5 < 0.01 < merged.effect
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto", local_files_only=True)
    assert type(model).__name__ == ("Qwen3MoeForCausalLM" if mixture else "GraniteForCausalLM")
    torch.testing.assert_close(logits(model), wanted, atol=1e-4, rtol=0)
    assert tensor_shapes(tmp_path / "out") == tensor_shapes(folder)
