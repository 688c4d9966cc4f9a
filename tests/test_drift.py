"""How far a policy has gone from its base, on its own replies: by hand, in any batches, and nought for a policy that has not moved."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from expertchat.backends.base import Decoding, GenerateRequest
from expertchat.backends.engine import Engine
from expertchat.backends.likelihood import likelihoods
from expertchat.config import ConfigError
from expertchat.preferences.candidates import Sampled
from expertchat.records import Candidate, Message
from expertchat.training.drift import Moved, drift, moved
from expertchat.training.learner import LAYER, Learner, WeightLearner
from expertchat.training.method import Rows
from tests.test_update import backend, config, lora, pairs, shake, updater

torch.set_num_threads(1)


def talk(learner: Learner, histories: int = 2, replies: int = 3, version: int | None = None) -> list[Sampled]:
    """Replies of the policy to some histories, as a round keeps them."""
    found = []
    for i in range(histories):
        prompt = (Message("user", f"What do you know about the Moon{' and the tides' * i}?"),)
        asked = [GenerateRequest(f"h{i}/k{k}", prompt, Decoding("sampling", max_new_tokens=12 + 20 * k)) for k in range(replies)]
        done = learner.policy.generate(asked)
        candidates = [
            Candidate(
                id=f"h{i}/k{k}", transcript=f"h{i}", round=1, turn=1, index=k, speaker="a", text=one.text, ids=list(one.ids),
                ended=one.ended, policy_version=learner.version if version is None else version,
            )
            for k, one in enumerate(done)
        ]  # fmt: skip
        found.append(Sampled(prompt=list(prompt), prompt_ids=list(done[0].prompt), candidates=candidates))
    return found


def by_hand(model: Any, prompt: list[int], ids: list[int]) -> tuple[float, float]:
    """Sum of the log probabilities of a reply, and of the entropies before each of its tokens, from one plain pass."""
    with torch.no_grad():
        logps_T_V = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
    return sum(float(logps_T_V[t, word]) for t, word in enumerate(ids)), -float((logps_T_V.exp() * logps_T_V).sum())


def test_the_figures_by_hand() -> None:
    found = [[Moved("k0", 0.5, 2.0, 4), Moved("k1", -0.1, 1.0, 2)], [], [Moved("k2", 0.2, 0.6, 3)]]
    # 0.6 nats over 3 replies and 9 tokens; entropies of 3.6 nats over 9 tokens
    assert drift(found) == pytest.approx({"kl": 0.2, "kl_token": 0.6 / 9, "entropy": 0.4})
    nothing = {"kl": None, "kl_token": None, "entropy": None}
    assert drift([]) == drift([[]]) == drift([[Moved("k0", float("nan"), 1.0, 1)]]) == nothing


def test_an_untouched_policy_has_not_moved() -> None:
    learner = lora()
    found = moved(learner, talk(learner))
    assert [len(one) for one in found] == [3, 3]
    figures = drift(found)
    assert (figures["kl"], figures["kl_token"]) == (0.0, 0.0)  # the same numbers twice: exactly
    assert isinstance(figures["entropy"], float) and figures["entropy"] > 0.1


def test_log_policy_less_log_base_by_hand() -> None:
    learner = lora(config(reference="round_start"))  # whatever the reference of the loss is, it is the base that counts here
    shake(learner, 0.15)
    groups = talk(learner)
    found = moved(learner, groups)
    for one, of_history in zip(groups, found, strict=True):
        assert one.prompt_ids is not None
        for candidate, measured in zip(one.candidates, of_history, strict=True):
            assert candidate.ids is not None
            (mine, entropy), (its, _) = (by_hand(voice.model, one.prompt_ids, candidate.ids) for voice in (learner.policy, learner.base))
            assert measured.log_ratio == pytest.approx(mine - its, abs=1e-3)
            assert measured.entropy == pytest.approx(entropy, abs=1e-3) and measured.tokens == len(candidate.ids)
    assert float(str(drift(found)["kl"])) > 0.05


def test_replies_of_another_version_or_without_ids_do_not_count() -> None:
    learner = lora()
    assert moved(learner, talk(learner, version=1)) == [[], []]
    old = [one.model_copy(update={"prompt_ids": None}) for one in talk(learner)]
    assert moved(learner, old) == []


def test_other_methods_are_measured_against_their_frozen_copy() -> None:
    learner = WeightLearner("a", backend(), config(method="last_layer", learning_rate=1e-2))
    updater(learner).update(Rows(pairs()), 1)
    assert float(str(drift(moved(learner, talk(learner)))["kl"])) > 0.01


@pytest.mark.parametrize("engine", [True, False])
def test_batches_change_nothing(engine: bool) -> None:
    one = backend()
    asked = [((5, 9, 30 + i), [tuple(range(40, 44 + i)), (50,)]) for i in range(4)]
    wanted = likelihoods(one, asked)
    if not engine:
        one.engine = None
    for most in (1, 20 * one.model.config.vocab_size, 2**26):  # one reply at a time, some, all
        found = likelihoods(one, asked, most)
        for mine, others in zip(found, wanted, strict=True):
            assert [n for likely in mine for n in likely] == pytest.approx([n for likely in others for n in likely], abs=1e-4)
    assert one.engine is None or not one.engine.kept.bytes  # nothing of it is kept


def test_without_memory_for_all_it_takes_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    one, sizes, least = backend(), [], [3]
    asked = [((5, 9, 30 + i), [(40, 41), (50,)]) for i in range(4)]
    wanted = likelihoods(one, asked)
    real = Engine.continuations

    def tight(self: Engine, contexts: Any, tails: Any) -> Any:
        sizes.append(sum(map(len, tails)))
        if sizes[-1] >= least[0]:
            raise torch.OutOfMemoryError
        return real(self, contexts, tails)

    monkeypatch.setattr(Engine, "continuations", tight)
    found = likelihoods(one, asked)
    assert sizes[0] == 8 and max(sizes[-3:]) < 3
    numbers = [[n for of in answer for likely in of for n in likely] for answer in (found, wanted)]
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-4)
    least[0] = 1
    with pytest.raises(ConfigError, match="out of memory with a single row"):
        likelihoods(one, asked)


@pytest.mark.parametrize("name", ["model.layers.1.up_proj", "transformer.h.1.mlp.c_fc", "transformer.blocks.1.ffn", "encoder.layer.1.x"])
def test_a_layer_is_found_by_its_number(name: str) -> None:
    found = LAYER.search(f"{name}.weight")
    assert found is not None and found[1] == "1"
    assert LAYER.search("model.embed_tokens.weight") is None
