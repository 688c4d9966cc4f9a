"""Every architecture talks, is judged, and learns as transformers computes it, or is refused in one message."""

from __future__ import annotations

import math
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
from expertchat.records import Message, PairIds, PreferencePair
from expertchat.training.learner import LoraLearner
from expertchat.training.update import Updater
from tests import architectures, tiny
from tests.test_decoding import reference
from tests.test_update import config, shake

torch.set_num_threads(1)
GREEDY = Decoding(method="greedy", max_new_tokens=6)
SAMPLING = Decoding(method="sampling", max_new_tokens=6)
CONTRASTIVE = Decoding(method="contrastive", max_new_tokens=5, penalty_alpha=0.6, top_k=3)
PROMPTS = [
    (Message("user", "What do herons eat, and where do they fish? " + "They nest in tall trees. " * 4),),
    (Message("user", "Hi."),),
    (Message("system", "You are a human expert."), Message("user", "Which owls hunt?"), Message("assistant", "Some."), Message("user", "Why?")),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = architectures.build(tmp_path_factory.mktemp(name), name)
        return made[name]

    return folder


def load(folder: Path, dtype: str = "fp32", **more: Any) -> LocalBackend:
    backend = load_backend(tiny.config(folder, family="auto", dtype=dtype, **more), seed=3)
    assert isinstance(backend, LocalBackend)
    return backend


def theirs(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


@torch.no_grad()
def plain_logps(model: Any, ids: list[int]) -> Tensor:
    logps: Tensor = model(torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)
    return logps


@torch.no_grad()
def greedy(model: Any, prompt: list[int], count: int, ends: tuple[int, ...]) -> list[int]:
    """transformers' own `generate` on one row."""
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count, eos_token_id=list(ends), pad_token_id=0)
    return [int(i) for i in out[0, len(prompt) :]]


def ask(backend: LocalBackend, decoding: Decoding, prompts: Any = PROMPTS) -> list[Completion]:
    return backend.generate([GenerateRequest(f"k{i}", prompt, decoding) for i, prompt in enumerate(prompts)])


@pytest.mark.parametrize("name", architectures.KINDS)
def test_talk(name: str, folders: Any) -> None:
    backend, model = load(folders(name)), theirs(folders(name))
    done = ask(backend, GREEDY)
    for one in done:
        assert list(one.ids) == greedy(model, list(one.prompt), 6, backend.end_ids)
    # the next turn goes on from what is kept
    later = [(*prompt, Message("assistant", one.text), Message("user", "And the owls?")) for prompt, one in zip(PROMPTS, done, strict=True)]
    for one in ask(backend, GREEDY, later):
        assert list(one.ids) == greedy(model, list(one.prompt), 6, backend.end_ids)


@pytest.mark.parametrize("name", architectures.KINDS)
def test_candidates(name: str, folders: Any) -> None:
    backend = load(folders(name))
    requests = [GenerateRequest(f"k{i}", PROMPTS[0], SAMPLING) for i in range(3)]
    together = backend.generate(requests)
    anew = load(folders(name), )
    alone = [anew.generate([request])[0] for request in requests]
    assert [one.ids for one in together] == [one.ids for one in alone]


@pytest.mark.parametrize("name", architectures.KINDS)
def test_contrastive(name: str, folders: Any) -> None:
    backend, model = load(folders(name)), theirs(folders(name))
    backend.end_ids = ()
    for one in ask(backend, CONTRASTIVE):
        prompt = list(one.prompt)
        assert list(one.ids) == reference(model, prompt, 0.6, 3, 5)[len(prompt) :]


@pytest.mark.parametrize("name", architectures.KINDS)
def test_judge(name: str, folders: Any) -> None:
    backend, model = load(folders(name)), theirs(folders(name))
    options = tuple(f" {n}" for n in range(1, 11))
    asked = [ScoreRequest(c, PROMPTS[0], options, prefix=f"Fine.\n{c}:") for c in ("Depth", "Clarity")]
    for request, found in zip(asked, backend.score(asked), strict=True):
        ids = backend.renderer.encode(request.messages, request.prefix)
        for option, logp in zip(options[1:9], found.logprobs[1:9], strict=True):
            more = backend.renderer.ids(backend.renderer.text(request.messages, request.prefix) + option)
            logps = plain_logps(model, more)
            assert logp == pytest.approx(sum(float(logps[i - 1, more[i]]) for i in range(len(ids), len(more))), abs=1e-3)


@pytest.mark.parametrize("name", architectures.KINDS)
def test_learn(name: str, folders: Any, tmp_path: Path) -> None:
    backend, model = load(folders(name)), theirs(folders(name))
    one, two = (backend.generate([GenerateRequest(f"k{i}", PROMPTS[0], SAMPLING)])[0] for i in range(2))
    from expertchat.experts.registry import family_class
    learner = LoraLearner("a", backend, config(), family_class("auto").family.lora_targets, Adapters(backend.model), name, 0)
    shake(learner)
    ids = PairIds(prompt=list(one.prompt), chosen=list(one.ids), rejected=list(two.ids))
    pair = PreferencePair(id="p", prompt=[], chosen=[], rejected=[], score_chosen=1.0, score_rejected=0.0, margin=1.0, round=1, policy_version=0, provenance={}, ids=ids)
    def logp(reply: list[int], adapter: str | None) -> float:
        whole = [*one.prompt, *reply]
        with learner.adapters.using(adapter):
            logps = plain_logps(backend.model, whole)
        return sum(float(logps[i - 1, whole[i]]) for i in range(len(one.prompt), len(whole)))
    gains = [logp(r, "expert_a") - logp(r, None) for r in (ids.chosen, ids.rejected)]
    wanted = math.log1p(math.exp(-0.5 * (gains[0] - gains[1])))
    done = Updater(learner, learner.config, rounds=4, seed=3, folder=tmp_path).update([pair], 1)
    assert done.figures["loss"] == pytest.approx(wanted, abs=1e-3)
    learner.save(tmp_path / "adapter")
    said = ask(learner.policy, GREEDY)
    fresh = load(folders(name))
    again = LoraLearner("a", fresh, config(), family_class("auto").family.lora_targets, Adapters(fresh.model), name, 0)
    again.load(tmp_path / "adapter")
    assert [o.ids for o in ask(again.policy, GREEDY)] == [o.ids for o in said]
