"""A round of online DPO on bases in 4 bits, on the CPU: a dense model of middle size, and Mixtral with experts as linear layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from expertchat.backends.adapters import Adapters
from expertchat.backends.base import Decoding, GenerateRequest
from expertchat.backends.local import LocalBackend
from expertchat.preferences.config import PairsConfig
from expertchat.preferences.pairs import Choice, make_pairs
from expertchat.records import Candidate, Message
from expertchat.training.config import TrainConfig
from expertchat.training.dpo import Dpo
from expertchat.training.learner import LoraLearner
from expertchat.training.merge import run_merge
from expertchat.training.merge_config import MergeConfig
from expertchat.training.method import Rows, Updated
from tests import checkpoints

torch.set_num_threads(1)
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
IDS = torch.arange(24).view(2, 12) * 7 % 300
TRAIN: dict[str, Any] = {
    "method": "lora", "rank": 4, "alpha": 8, "dropout": 0.0, "loss": ["sigmoid"], "beta": 0.1, "label_smoothing": 0.0, "reference": "base",
    "batch": 4, "micro_batch": 2, "epochs": 2, "learning_rate": 1e-3, "schedule": "constant", "warmup_rounds": 0, "weight_decay": 0.0,
    "max_grad_norm": 1.0, "checkpointing": True, "sharding": "pipeline",
}  # fmt: skip


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(IDS).logits.float()
    return found


def learner_of(folder: Path, targets: tuple[str, ...]) -> LoraLearner:
    backend = LocalBackend.load(folder, "m", 0, dtype="fp32", device="cpu", quantization="nf4")
    config = TrainConfig.model_validate(TRAIN)
    return LoraLearner("a", backend, config, targets, Adapters(backend.model), str(folder), 0)


def one_round(learner: LoraLearner, folder: Path, losses: list[float], histories: int = 4, tokens: int = 8) -> Updated:
    """Two candidates of each history; the one with more letters "e" (then the first in the alphabet) is the better."""
    sampled = Decoding(method="sampling", temperature=0.9, max_new_tokens=tokens)
    prompts = [(Message("user", f"What do you know about the tides of place {i}?"),) for i in range(histories)]
    done = learner.policy.generate([GenerateRequest(f"r1/h{i}/k{k}", p, decoding=sampled) for i, p in enumerate(prompts) for k in (0, 1)])
    choices = []
    for i, prompt in enumerate(prompts):
        replies = [done[2 * i].text, done[2 * i + 1].text]
        candidates = tuple(
            Candidate(id=f"h{i}/k{k}", transcript=f"h{i}", round=1, turn=1, index=k, speaker="a", text=text, policy_version=0)
            for k, text in enumerate(replies)
        )
        rewards = tuple(text.count("e") + 0.5 * (text == min(replies)) for text in replies)
        choices.append(Choice(prompt, candidates, rewards, "letters"))
    pairs = make_pairs(choices, PairsConfig(mode="best_worst", min_margin=0.0, length_ratio=1.0, max_lag=0, cut="no_end"), 0).pairs
    assert len(pairs) == histories
    updater = Dpo(
        learner, learner.config, rounds=1, seed=0, folder=folder, on_step=lambda round, step, steps, loss: losses.append(loss)
    )
    return updater.update(Rows(pairs), 1)


def check_round(learner: LoraLearner, folder: Path) -> dict[str, Tensor]:
    """A round moves the adapter and nothing else, in fp32, from a loss of ln 2 downwards; returns the adapter's weights."""
    model = learner.backend.model
    before = logits(learner.base.model)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if ".lora_" not in name}
    losses: list[float] = []
    updated = one_round(learner, folder, losses)
    assert (updated.steps, updated.rows, learner.version) == (2, 4, 1)  # four pairs a step, twice
    # The first step's policy is its reference, -log sigmoid(0) = 0.6931; the second step sees the same pairs again.
    assert losses[0] == pytest.approx(0.6931, abs=1e-3) and losses[1] < losses[0]
    for name, parameter in model.named_parameters():
        if ".lora_" not in name:
            assert torch.equal(parameter.view(torch.uint8), frozen[name].view(torch.uint8)), name
    weights = {name: p.detach() for name, p in learner.parameters().items()}
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert torch.equal(logits(learner.base.model), before)  # the reference is the base still
    assert (logits(learner.policy.model) - before).abs().max() > 1e-4
    return weights


def in_bits(model: Any) -> set[str]:
    """Last names of the layers whose weights are kept in 4 bits."""
    there = model.named_modules()
    return {name.removesuffix(".base_layer").rpartition(".")[2] for name, module in there if type(module).__name__ == "Linear4bit"}


def test_qlora_on_a_dense_model_of_middle_size(tmp_path: Path) -> None:
    # 4 layers of 4 x 256 x 256 (q, o; k and v half) and 3 x 256 x 1024: about 4 million weights
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4}
    folder = checkpoints.write(tmp_path / "model", "llama3", **sizes)
    learner = learner_of(folder, (*ATTENTION, "gate_proj", "up_proj", "down_proj"))
    assert in_bits(learner.backend.model) >= {"q_proj", "down_proj"}
    weights = check_round(learner, tmp_path)
    assert len(weights) == 2 * 4 * 7 and all(tensor.abs().max() > 0 for tensor in weights.values())


@pytest.mark.parametrize("targets", [ATTENTION, (*ATTENTION, "w1", "w2", "w3")])
def test_mixtral_with_linear_experts(targets: tuple[str, ...], tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "model", "mixtral")
    learner = learner_of(folder, targets)
    assert in_bits(learner.backend.model) == {*ATTENTION, "w1", "w2", "w3"}
    weights = check_round(learner, tmp_path)
    experts = 4 if "w1" in targets else 0  # of each of two layers; A and B of each matrix
    assert len(weights) == 2 * 2 * (4 + 3 * experts)
    moved = {name for name, tensor in weights.items() if ".lora_B." in name and tensor.abs().max() > 0}
    assert len(moved) == len(weights) // 2  # every expert of both layers, because four prompts visit all of them
    learner.save(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(folder)
    merge = {"adapter": str(tmp_path / "adapter"), "out": str(tmp_path / "out"), "dtype": "fp32", "device": "cpu"}
    merged = run_merge(MergeConfig.model_validate(merge))
    assert merged.difference < 1e-5 < merged.effect
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == set(checkpoints.load_shards(folder))
