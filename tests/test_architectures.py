"""Every architecture talks, is judged and learns as transformers computes it: tiny real models against plain passes and `generate`.

Where the engine cannot run one it says why, and the plain way does; none gives other texts or numbers without a word.
"""

from __future__ import annotations

import math
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from expertchat.backends.adapters import Adapters
from expertchat.backends.base import Completion, Decoding, GenerateRequest, ScoreRequest
from expertchat.backends.loading import load_backend
from expertchat.backends.local import LocalBackend
from expertchat.config import ConfigError
from expertchat.experts.auto import Auto
from expertchat.experts.registry import make_expert
from expertchat.judging.requests import rating_request, score_request, wim_request
from expertchat.judging.view import Judgement
from expertchat.records import Message, PairIds, PreferencePair, Turn
from expertchat.training.dpo import Dpo
from expertchat.training.learner import LoraLearner
from expertchat.training.method import Rows
from tests import architectures, tiny
from tests.test_decoding import reference
from tests.test_update import config, shake

torch.set_num_threads(1)
OPTIONS = (" 2", " 7")  # neither goes on as the other does
GREEDY = Decoding(method="greedy", max_new_tokens=5)
SAMPLING = Decoding(method="sampling", max_new_tokens=5)
CONTRASTIVE = Decoding(method="contrastive", max_new_tokens=4, penalty_alpha=0.6, top_k=3)
LONG = (Message("user", "What do herons eat, and where do they fish? They nest in tall trees."),)
PROMPTS = (LONG, (Message("user", "Hi."),), (Message("user", "Which owls hunt?"), Message("assistant", "Some."), Message("user", "Why?")))
# Built like others that are tried each time: `python -m pytest -m slow` tries them too.
RELATIVES = {"llama_tied", "qwen3_moe", "gptj", "opt", "falcon", "cohere", "smollm3", "llama4", "deepseek_v3", "bloom", "jamba"}
ALL = [pytest.param(name, marks=pytest.mark.slow) if name in RELATIVES else name for name in architectures.KINDS]
# Why the engine does not run some; all others it does.
PLAIN = {
    **dict.fromkeys(("mistral_slides", "gemma2", "gemma3", "gpt_neo", "gpt_oss", "llama4"), "attends to the last 24 tokens only"),
    **dict.fromkeys(("bloom", "mpt"), "its attention counts places (ALiBi)"),
    **dict.fromkeys(("mamba", "jamba", "deepseek_v3"), "its layers keep something other than keys and values"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """name -> a backend over the model, and the model as transformers runs it, from one folder."""

    @cache
    def both(name: str) -> tuple[LocalBackend, Any]:
        folder = architectures.build(tmp_path_factory.mktemp(name), name)
        return load(folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()

    return both


def load(folder: Path | str, dtype: str = "fp32") -> LocalBackend:
    backend = load_backend(tiny.config(folder, family="auto", dtype=dtype), seed=3)
    assert isinstance(backend, LocalBackend)
    return backend


@torch.no_grad()
def logps_of(model: Any, ids: list[int]) -> Tensor:
    """Log probabilities [T, V] after each token, by one plain pass over one row."""
    logps: Tensor = model(torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)
    return logps


def logp_of(model: Any, prompt: list[int], reply: list[int]) -> float:
    logps = logps_of(model, [*prompt, *reply])
    return sum(float(logps[len(prompt) + i - 1, token]) for i, token in enumerate(reply))


@torch.no_grad()
def greedy(model: Any, backend: LocalBackend, one: Completion) -> list[int]:
    """What transformers' own `generate` writes after a completion's prompt, alone in its batch."""
    ids, ends = torch.tensor([one.prompt]), list(backend.end_ids)
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=5, eos_token_id=ends, pad_token_id=backend.pad_id
    )
    return [int(i) for i in out[0, len(one.prompt) :]]


def ask(backend: LocalBackend, decoding: Decoding, prompts: Any = PROMPTS) -> list[Completion]:
    return backend.generate([GenerateRequest(f"k{i}", prompt, decoding) for i, prompt in enumerate(prompts)])


@pytest.mark.parametrize("name", ALL)
def test_talk(name: str, made: Any) -> None:
    """Ragged prompts together, then the next turn of each dialogue: token for token what `generate` writes for each alone."""
    backend, model = made(name)
    notes = [note for note in backend.info.notes if "no kept key/value caches" in note]
    assert [PLAIN[name] in note for note in notes] == [True] if name in PLAIN else backend.engine is not None
    done = ask(backend, GREEDY)
    assert min(len(one.prompt) for one in done[::2]) > architectures.WINDOW
    later = [(*p, Message("assistant", one.text), Message("user", "And the owls?")) for p, one in zip(PROMPTS, done, strict=True)]
    for one in [*done, *ask(backend, GREEDY, later)]:
        assert list(one.ids) == greedy(model, backend, one)


@pytest.mark.parametrize("name", ALL)
def test_contrastive_search(name: str, made: Any) -> None:
    backend, model = made(name)
    ends, backend.end_ids = backend.end_ids, ()
    try:
        for one in ask(backend, CONTRASTIVE):
            assert list(one.ids) == reference(model, list(one.prompt), 0.6, 3, 4)[len(one.prompt) :]
    finally:
        backend.end_ids = ends


@pytest.mark.parametrize("name", ALL)
def test_candidates(name: str, made: Any) -> None:
    """Replies that share a row of the engine are those that each of them is alone."""
    backend, _ = made(name)
    requests = [GenerateRequest(f"k{i}", LONG, SAMPLING) for i in range(3)]
    together = [one.ids for one in backend.generate(requests)]
    assert together == [backend.generate([request])[0].ids for request in requests]


@pytest.mark.parametrize("name", ALL)
def test_judgement(name: str, made: Any) -> None:
    """A rating scored by its options' probabilities, one that is written, and what is missing, asked as a judge asks."""
    backend, model = made(name)
    judge = make_expert("a", tiny.config("unused", family="auto"), backend.info)
    asked = judgement()
    for request in (score_request(judge, "s", asked, "Fine.", "depth"), ScoreRequest("n", LONG, OPTIONS, "Depth:")):
        request = ScoreRequest(request.key, request.messages, OPTIONS, request.prefix)
        text = backend.renderer.text(request.messages, request.prefix)
        prompt, *whole = (backend.renderer.ids(text + option) for option in ("", *OPTIONS))
        for ids, found in zip(whole, backend.score([request])[0].logprobs, strict=True):
            assert ids[: len(prompt)] == prompt
            assert found == pytest.approx(logp_of(model, prompt, ids[len(prompt) :]), abs=1e-3)
    written = [rating_request(judge, "r", asked, "Fine.", "depth"), wim_request(judge, "w", asked, "Fine.", {"depth": 7}, "missing")]
    for one in backend.generate([GenerateRequest(r.key, r.messages, GREEDY, r.prefix) for r in written]):
        assert list(one.ids) == greedy(model, backend, one)


def judgement() -> Judgement:
    turns = (Turn(speaker="a", text="What do herons eat?", tokens=5, seconds=0.0), Turn(speaker="b", text="Fish.", tokens=2, seconds=0.0))
    return Judgement("herons", turns, subject="b", categories={"depth": "how deep it goes"})


@pytest.mark.parametrize("name", ALL)
def test_update_and_resume(name: str, made: Any, tmp_path: Path) -> None:
    """One DPO step on sampled ids with the usual LoRA targets: its loss by plain passes; the saved adapter speaks as the trained one."""
    backend = made(name)[0]

    def learner() -> LoraLearner:
        one = LocalBackend(deepcopy(backend.model), backend.tokenizer, name, 3)
        return LoraLearner("a", one, config(), Auto.family.lora_targets, Adapters(one.model), name, 0)

    mine = learner()
    shake(mine)
    one, two = (mine.policy.generate([GenerateRequest(f"k{i}", LONG, SAMPLING)])[0] for i in range(2))
    prompt, replies = list(one.prompt), [list(one.ids), list(two.ids)]

    def gain(reply: list[int]) -> float:
        with mine.adapters.using("expert_a"):
            policy = logp_of(mine.backend.model, prompt, reply)
        with mine.adapters.using(None):
            return policy - logp_of(mine.backend.model, prompt, reply)

    gains = [gain(reply) for reply in replies]
    ids = PairIds(prompt=prompt, chosen=replies[0], rejected=replies[1])
    numbers: dict[str, Any] = {"score_chosen": 1.0, "score_rejected": 0.0, "margin": 1.0, "round": 1, "policy_version": 0}
    pair = PreferencePair(id="p", prompt=[], chosen=[], rejected=[], provenance={}, ids=ids, **numbers)
    done = Dpo(mine, mine.config, rounds=4, seed=3, folder=tmp_path).update(Rows([pair]), 1)
    # -log sigmoid(0.5 * (gain of the chosen reply - gain of the rejected one))
    assert done.figures["loss"] == pytest.approx(math.log1p(math.exp(-0.5 * (gains[0] - gains[1]))), abs=1e-3)
    assert abs(gains[0] - gains[1]) > 1e-3 and done.steps == 1
    mine.save(tmp_path / "adapter")
    again = learner()
    before = [one.ids for one in ask(again.policy, GREEDY)]
    again.load(tmp_path / "adapter")
    after = [one.ids for one in ask(again.policy, GREEDY)]
    assert after == [one.ids for one in ask(mine.policy, GREEDY)] != before


@pytest.mark.parametrize("name", ALL)
def test_bf16(name: str, made: Any) -> None:
    """In bf16 the last bits depend on the batch: each word is the likeliest of a plain pass, or next to it."""
    backend = load(made(name)[0].model.name_or_path, "bf16")
    assert (backend.engine is None) == (name in PLAIN)
    for one in ask(backend, GREEDY):
        logps = logps_of(backend.model, [*one.prompt, *one.ids])[len(one.prompt) - 1 :]
        for word, logps_V in zip(one.ids, logps, strict=False):
            assert float(logps_V.max() - logps_V[word]) < 0.1 < float(logps_V.max() - logps_V.median())


# -- targets of LoRA ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("llama", ("q_proj", "k_proj", "v_proj", "o_proj")),
        ("gpt_neox", ("dense", "query_key_value")),
        ("phi3", ("o_proj", "qkv_proj")),
        ("gpt2", ("c_attn", "c_proj")),
        ("mpt", ("Wqkv", "out_proj")),
        ("opt", ("k_proj", "out_proj", "q_proj", "v_proj")),
        ("jamba", ("k_proj", "o_proj", "q_proj", "v_proj")),
        ("mamba", ("dt_proj", "in_proj", "x_proj")),
    ],
)
def test_targets_by_other_names_are_found_and_said(name: str, targets: tuple[str, ...], made: Any) -> None:
    one = load(made(name)[0].model.name_or_path)
    learner = LoraLearner("a", one, config(), Auto.family.lora_targets, Adapters(one.model), name, 0)
    assert {path.split(".lora_")[0].rpartition(".")[2] for path in learner.parameters()} == set(targets)
    assert any(f"LoRA on {', '.join(targets)}, which its model has" in note for note in learner.notes) is (name not in ("llama", "jamba"))


def test_targets_that_no_adapter_can_change_are_refused(made: Any) -> None:
    for name, wanted, words in [
        ("gpt_neox", ["q_proj"], "no linear layers named q_proj; choose among dense, dense_4h_to_h, dense_h_to_4h, query_key_value"),
        ("mamba", ["out_proj"], "out_proj"),
    ]:
        one = load(made(name)[0].model.name_or_path)
        with pytest.raises(ConfigError, match=words):
            LoraLearner("a", one, config(targets=wanted), Auto.family.lora_targets, Adapters(one.model), name, 0)
