"""The recipe of the embedded models, really run, on a sip of the corpus."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from expertchat.backends.base import EmbedRequest, GenerateRequest
from expertchat.backends.embedding import SentenceEmbedder
from expertchat.backends.local import LocalBackend
from expertchat.records import Message
from expertchat.world import embedder as embedder_recipe
from expertchat.world.check import HOT
from expertchat.world.corpus import CONTEXT_SHARE, CONTEXT_WEIGHT, LABEL_WEIGHT, Encoder, build_tokenizer
from expertchat.world.facts import load
from expertchat.world.simulator import Simulator
from expertchat.world.train import SHAPES, make_model, train_expert, upcycle
from tests.test_world import PROMPTS


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    torch.set_num_threads(1)
    return Simulator(load(), PROMPTS)


@pytest.fixture(scope="module")
def tokenizer(simulator: Simulator):
    return build_tokenizer(simulator, vocabulary=1024, samples=300)


@pytest.fixture(scope="module")
def llama(simulator: Simulator, tokenizer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    lines: list[str] = []
    out = tmp_path_factory.mktemp("world") / "llama"
    train_expert(simulator, tokenizer, "llama", out, 0.04, samples=1, report=lines.append)  # a hundred steps, two reports
    return out, lines


def test_markers_and_roles_are_single_tokens(tokenizer):
    ids = tokenizer(" [7] (48)", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == [" [7]", " (48)"]
    assert len(tokenizer("<|assistant|>", add_special_tokens=False)["input_ids"]) == 1


def test_encoding_is_the_chat_template_and_weights_are_where_they_belong(simulator: Simulator, tokenizer):
    rng = random.Random(3)
    encoder = Encoder(tokenizer, PROMPTS.analysis_prefix)
    for _ in range(20):
        sample = simulator.judge_sample(rng, "a", limit=2)
        ((ids, weights),) = encoder([sample])
        assert ids == tokenizer.apply_chat_template([m._asdict() for m in sample], tokenize=True, return_dict=False)
        assert len(ids) == len(weights)
        assert set(weights) <= {0.0, 1.0, LABEL_WEIGHT, CONTEXT_WEIGHT * CONTEXT_SHARE}
    labelled = [w for (_, weights) in encoder([simulator.label_sample(rng, "a")]) for w in weights]
    assert labelled.count(LABEL_WEIGHT) >= 4  # "Points:", a marker and a label of at least one token


@pytest.mark.slow
def test_training_learns(llama):
    _, lines = llama
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in lines if "loss" in line]
    assert len(losses) >= 2
    assert losses[0] < 9  # far below is the uniform loss: 3 (label weight) * ln 1024 = 20.8
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
def test_a_trained_folder_loads_and_speaks(llama):
    backend = LocalBackend.load(llama[0], "llama", dtype="fp32", device="cpu")
    (answer,) = backend.generate([GenerateRequest("k", (Message("user", "Propose a topic."),), HOT)])
    assert answer.tokens > 0
    assert backend.info.context_length == 2048


@pytest.mark.slow
def test_the_mixtral_begins_as_the_llama(llama, tokenizer):
    model = make_model(SHAPES["mixtral"], len(tokenizer))
    upcycle(model, llama[0])
    dense = AutoModelForCausalLM.from_pretrained(llama[0], dtype=torch.float32)
    ours, theirs = model.state_dict(), dense.state_dict()
    for name in ("model.embed_tokens.weight", "model.layers.3.self_attn.o_proj.weight", "model.norm.weight"):
        assert torch.equal(ours[name], theirs[name])
    # With the router's two weights at a half each, experts 0 and 1 together are the whole dense FFN.
    layer, mlp = model.model.layers[0].mlp.experts, dense.model.layers[0].mlp
    x = torch.randn(5, 128)
    halves = []
    for expert in (0, 1):
        gate, up = (x @ layer.gate_up_proj[expert].T).chunk(2, dim=-1)
        halves.append((torch.nn.functional.silu(gate) * up) @ layer.down_proj[expert].T)
    assert torch.allclose(0.5 * halves[0] + 0.5 * halves[1], mlp(x), atol=1e-5)


@pytest.mark.slow  # as the others here: who changes the world runs them, and expertchat world check
def test_the_embedder_recipe_makes_unit_vectors(simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fewer = partial(embedder_recipe.build_tokenizer, samples=300)
    monkeypatch.setattr(embedder_recipe, "build_tokenizer", fewer)
    lines: list[str] = []
    embedder_recipe.train_embedder(load(), simulator, tmp_path / "e", steps=3, report=lines.append)
    embedder = SentenceEmbedder.load(tmp_path / "e", "e", "cpu")
    (found,) = embedder.embed([EmbedRequest("k", "Most volcanoes lie along the edges of tectonic plates.")])
    assert len(found.vector) == embedder_recipe.HIDDEN
    assert sum(x * x for x in found.vector) == pytest.approx(1, abs=1e-5)
