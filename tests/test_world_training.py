"""The recipe of the embedded models, really run, on a sip of the corpus."""

from __future__ import annotations

import math
import multiprocessing
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from expertchat.backends.base import EmbedRequest, GenerateRequest
from expertchat.backends.embedding import SentenceEmbedder
from expertchat.backends.local import LocalBackend
from expertchat.records import Message
from expertchat.world import embedder as embedder_recipe
from expertchat.world import train
from expertchat.world.check import HOT
from expertchat.world.corpus import (
    CONTEXT_SHARE,
    CONTEXT_WEIGHT,
    LABEL_WEIGHT,
    RATING_WEIGHT,
    REPLY_WEIGHT,
    Batches,
    Encoder,
    Micro,
    build_tokenizer,
)
from expertchat.world.facts import load
from expertchat.world.hints import dense_experts, labels_at_markers, look_at_markers, trunk
from expertchat.world.simulator import Simulator
from expertchat.world.team import Team, join
from expertchat.world.train import SHAPES, Course, make_model, train_expert, upcycle
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
    train_expert(simulator, tokenizer, "llama", out, Course(0.04, ("a",), samples=1), lines.append)  # a hundred steps, two reports
    return out, lines


@pytest.fixture(scope="module")
def model(tokenizer) -> Any:
    """A fresh Llama of the shipped shape."""
    torch.manual_seed(0)
    return make_model(SHAPES["llama"], len(tokenizer)).eval()


def test_markers_and_roles_are_single_tokens(tokenizer):
    ids = tokenizer(" [7] (48)", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == [" [7]", " (48)"]
    assert len(tokenizer("<|assistant|>", add_special_tokens=False)["input_ids"]) == 1


def test_aspects_are_single_tokens_wherever_they_stand(simulator: Simulator, tokenizer):
    for text in (" What do you know about rising magma?", " [1] rising magma again", " Open: plate edges, rising magma."):
        assert " rising magma" in tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])
    aspects = {f" {fact.aspect}" for facts in simulator.world.topics.values() for fact in facts}
    assert all(len(ids) == 1 for ids in tokenizer(sorted(aspects), add_special_tokens=False)["input_ids"])


def test_encoding_is_the_chat_template_and_weights_are_where_they_belong(simulator: Simulator, tokenizer):
    rng = random.Random(3)
    encoder = Encoder(tokenizer, PROMPTS.analysis_prefix)
    for _ in range(20):
        sample = simulator.judge_sample(rng, "a", limit=2)
        ((ids, weights, _),) = encoder([sample])
        assert ids == tokenizer.apply_chat_template([m._asdict() for m in sample], tokenize=True, return_dict=False)
        assert len(ids) == len(weights)
        assert set(weights) <= {0.0, 1.0, LABEL_WEIGHT, RATING_WEIGHT, REPLY_WEIGHT, CONTEXT_WEIGHT * CONTEXT_SHARE}
    labelled = [w for (_, weights, _) in encoder([simulator.label_sample(rng, "a")]) for w in weights]
    assert labelled.count(LABEL_WEIGHT) >= 4  # "Points:", a marker and a label of at least one token


def test_the_analysis_weighs_more_and_a_rating_most(tokenizer):
    encoder = Encoder(tokenizer, PROMPTS.analysis_prefix)
    answer = "Points: [1] wrong\nKnown: ash open.\nOpen: ash.\nDepth: 10\nClarity: 3"
    ((ids, weights, _),) = encoder([[Message("user", "Judge."), Message("assistant", answer)]])
    text = lambda weight: tokenizer.decode([i for i, w in zip(ids, weights, strict=True) if w == weight])  # noqa: E731
    assert text(LABEL_WEIGHT) == " " + answer.removesuffix("\nDepth: 10\nClarity: 3")
    assert text(RATING_WEIGHT).replace(" ", "") == "103"
    ((_, said, _),) = encoder([[Message("assistant", "Depth: 10")]])
    assert set(said[2:]) == {REPLY_WEIGHT}  # a number that anybody says is no rating


def test_marks_join_a_sentence_in_the_prompt_to_its_label_in_the_answer(tokenizer):
    encoder = Encoder(tokenizer, PROMPTS.analysis_prefix)
    sample = [
        Message("user", "A: Ash rose. [1] No. [2]\nB: Yes. (3)"),
        Message("assistant", "Points: [1] ash [2] wrong (3) remark\nKnown: ash said.\nOpen: nothing.\nDepth: 2"),
        Message("user", "And [1]?"),
        Message("assistant", "What is missing: [1] nothing."),
    ]
    ((ids, _, marks),) = encoder([sample])
    names = tokenizer.convert_ids_to_tokens(ids)
    assert [names[shown] for shown, _ in marks] == [names[place] for _, place in marks] == [" [1]", " [2]", " (3)"]
    assert tokenizer.decode([ids[marks[0][1] + 1]]) == " ash"
    assert all(shown < place for shown, place in marks)


def test_shifted_markers_are_the_same_judgement_counted_from_elsewhere(tokenizer):
    """Two marked sentences can begin at 1 to 47 of 48: a shift of 0 to 46, each as likely, of both kinds of marker alike."""
    encoder = Encoder(tokenizer, PROMPTS.analysis_prefix)
    one, talk = encoder(
        [
            [Message("user", "A: Ash rose. [1]\nB: Yes. (2)"), Message("assistant", "Points: [1] ash (2) remark\nOpen: nothing.")],
            [Message("user", "And [1]?"), Message("assistant", "Ash.")],
        ]
    )
    rng, texts = random.Random(0), set[str]()
    for _ in range(1000):
        moved = encoder.shifted(one, rng)
        assert (moved.weights, moved.marks) == (one.weights, one.marks)
        texts.add(tokenizer.decode(moved.ids))
    counted = [tokenizer.decode(one.ids).replace("[1]", f"[{1 + k}]").replace("(2)", f"({2 + k})") for k in range(47)]
    assert texts == set(counted)
    assert encoder.shifted(talk, rng) == talk  # nothing is labelled in it


def test_the_processes_of_a_team_share_a_step_out(simulator: Simulator, tokenizer):
    encoder = Encoder(tokenizer, PROMPTS.analysis_prefix)
    make = lambda rank, of: Batches(simulator, encoder, ("a", "b"), "seed", 8, 2, Team(rank, of)).step(5, 1.0)  # noqa: E731 - shorter than a function
    alone, both = make(0, 1), [make(0, 2), make(1, 2)]
    rows = lambda steps: sorted(tuple(row[row > 0].tolist()) for step in steps for micro in step.micro for row in micro.ids)  # noqa: E731
    assert rows([alone]) == rows(both) and len(rows(both)) == 8
    assert len({(step.weight, step.marks) for step in (alone, *both)}) == 1  # each knows the whole's, whatever it takes
    assert alone.weight == pytest.approx(sum(float(micro.weights[:, 1:].sum()) for micro in alone.micro), rel=1e-5)
    assert alone.marks == sum(len(micro.marks) for step in both for micro in step.micro)


def test_the_passes_are_those_of_the_model(model):
    ids = torch.arange(40).reshape(2, 20) % 30 + 7
    with torch.no_grad():
        before, last = trunk(model, ids)
        whole = model.model(input_ids=ids, output_hidden_states=True, use_cache=False)
    assert torch.allclose(last, whole.last_hidden_state, atol=1e-5)
    assert torch.allclose(before, whole.hidden_states[-2], atol=1e-5)


def test_all_experts_computed_are_those_that_are_chosen(tokenizer):
    torch.manual_seed(1)
    experts = make_model(SHAPES["mixtral"], 64).model.layers[0].mlp.experts
    hidden, index = torch.randn(7, 160), torch.tensor([[0, 1], [2, 3], [1, 3], [3, 0], [2, 0], [1, 2], [0, 3]])
    weights = torch.softmax(torch.randn(7, 2), dim=-1)
    with torch.no_grad():
        assert torch.allclose(dense_experts(experts, hidden, index, weights), experts(hidden, index, weights), atol=1e-5)


def test_the_hints_are_losses_of_the_label_and_of_the_look(model):
    """Uniform attention over the n tokens up to the answer's marker costs ln n; looking at the prompt's marker alone costs 0."""
    ids = torch.arange(12)[None] + 20
    micro = Micro(ids, torch.ones(1, 12), torch.tensor([[0, 3, 9]]))
    with torch.no_grad():
        hidden, _ = trunk(model, ids)
        logits = model.lm_head(model.model.norm(hidden[0, 3]))
        assert labels_at_markers(model, hidden, micro).item() == pytest.approx(-torch.log_softmax(logits, -1)[ids[0, 10]].item(), abs=1e-4)
        layer = model.model.layers[-1].self_attn
        kept = layer.q_proj.weight.clone()
        layer.q_proj.weight.zero_()
        assert look_at_markers(model, hidden, micro).item() == pytest.approx(math.log(10), abs=1e-4)
        layer.q_proj.weight.copy_(kept)
        attention = model.set_attn_implementation("eager") or model.model(input_ids=ids, output_attentions=True).attentions[-1]
        assert look_at_markers(model, hidden, micro).item() == pytest.approx(-math.log(attention[0, 0, 9, 3].item()), abs=1e-3)


@pytest.mark.slow
def test_a_training_that_was_stopped_goes_on_bit_by_bit(simulator: Simulator, tokenizer, tmp_path: Path):
    course = Course(0.02, ("a",), samples=2, parts=1, state_every=3)
    (tmp_path / "whole").mkdir()
    (tmp_path / "halves").mkdir()
    train_expert(simulator, tokenizer, "llama", tmp_path / "whole" / "m", course)

    class Stop(Exception):
        pass

    kept = train._keep

    def keep_and_stop(*arguments: Any) -> None:
        kept(*arguments)
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_keep", keep_and_stop)
        with pytest.raises(Stop):
            train_expert(simulator, tokenizer, "llama", tmp_path / "halves" / "m", course)
    assert (tmp_path / "halves" / "m.state").exists()
    train_expert(simulator, tokenizer, "llama", tmp_path / "halves" / "m", course)
    assert not (tmp_path / "halves" / "m.state").exists()
    whole, halves = (load_file(tmp_path / name / "m" / "model.safetensors") for name in ("whole", "halves"))
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


@pytest.mark.slow
def test_two_processes_learn_what_one_does(simulator: Simulator, tokenizer, tmp_path: Path):
    """Gradients are added in another order, so the weights agree to rounding, and after a few steps no more than nearly."""
    course = Course(0.004, samples=4, parts=2)
    train_expert(simulator, tokenizer, "llama", tmp_path / "one", course)
    spawn = multiprocessing.get_context("spawn")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    team = [spawn.Process(target=_of_a_team, args=(rank, tmp_path, course)) for rank in (0, 1)]
    [process.start() for process in team]
    [process.join(120) for process in team]
    assert [process.exitcode for process in team] == [0, 0]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name in one:
        assert torch.allclose(one[name].float(), two[name].float(), atol=0.02), name


def _of_a_team(rank: int, folder: Path, course: Course) -> None:
    torch.set_num_threads(1)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    team = join(rank, 2, str(folder / "meeting"))
    train_expert(Simulator(load(), PROMPTS), tokenizer, "llama", folder / "two", course, team=team)
    team.leave()


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
    x = torch.randn(5, 160)
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
