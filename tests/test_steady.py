"""Numbers that are not finite: steps that are not made, weights that are not saved, words that are not drawn; fp16, bf16 and dropout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from expertchat.backends.adapters import Adapters
from expertchat.backends.base import Decoding, GenerateRequest
from expertchat.backends.decoding import BROKEN, choose
from expertchat.backends.local import LocalBackend
from expertchat.config import ConfigError
from expertchat.records import Message
from expertchat.training import steady
from expertchat.training.dpo import drop
from expertchat.training.learner import Learner, LoraLearner, WeightLearner
from expertchat.training.method import Rows
from expertchat.training.steady import GROW_AFTER, START, Steady, all_finite
from tests import tiny
from tests.test_update import Answered, backend, config, lora, pairs, shake, updater, weights

torch.set_num_threads(1)
HUGE = float("inf")


def same(learner: Learner, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(p, before[name]) for name, p in learner.parameters().items())


def poisoned(learner: Learner, monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Give some steps (counted from 0) a gradient with a NaN in it."""
    real, at = Steady.lowered, iter(range(100))

    def lowered(self: Steady, of: Any, finite: bool) -> None:
        real(self, of, finite)
        if next(at) in steps:
            of[-1].grad.view(-1)[0] = torch.nan

    monkeypatch.setattr(Steady, "lowered", lowered)


# -- steps ----------------------------------------------------------------------------------------------------------------


def test_a_step_on_a_nan_is_not_made_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = lora(config(epochs=2))
    poisoned(learner, monkeypatch, 1, 2)
    told: list[int] = []
    done = updater(learner, on_step=lambda round, step, steps, loss: told.append(step)).update(Rows(pairs()), 1)
    assert (done.steps, done.skipped, told) == (2, 2, [1, 2, 3, 4]) and learner.version == 1
    assert all(torch.isfinite(torch.tensor(value)) for value in done.figures.values())
    assert all(bool(p.isfinite().all()) for p in learner.parameters().values())


def test_an_update_without_a_single_step_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = lora()
    before = weights(learner)
    poisoned(learner, monkeypatch, 0, 1)
    one = updater(learner)
    done = one.update(Rows(pairs()), 1)
    assert (done.steps, done.skipped, done.figures, learner.version) == (0, 2, {}, 0) and same(learner, before)
    assert not one.optimizer.state  # Adam has seen nothing


def test_a_loss_that_is_not_finite_makes_no_step_either(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = lora()
    shake(learner, 1e30)  # finite weights, but their product is not
    before = weights(learner)
    done = updater(learner).update(Rows(pairs()), 1)
    assert (done.steps, done.skipped) == (0, 2) and same(learner, before)


def test_many_such_steps_in_a_row_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = lora(config(batch=1, micro_batch=1))
    poisoned(learner, monkeypatch, *range(1, 99))
    with pytest.raises(ConfigError, match=r"expert a \(float32\) had 4 steps in a row .* not finite.*lower train\.learning_rate"):
        updater(learner).update(Rows(pairs() + pairs()), 1)
    assert not learner.backend.model.training and learner.adapters.names == ("expert_a",)


@pytest.mark.parametrize("make", [lora, lambda: WeightLearner("a", backend(), config(method="last_layer"))])
def test_weights_that_are_not_finite_are_not_saved(make: Any, tmp_path: Path) -> None:
    learner = make()
    next(iter(learner.parameters().values())).data.view(-1)[3] = torch.nan
    with pytest.raises(ConfigError, match=r"1 of the \d+ trained weights of expert a are not finite any more"):
        learner.save(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


# -- fp16 and bf16 --------------------------------------------------------------------------------------------------------


def test_the_scale_by_hand() -> None:
    weight, one = nn.Parameter(torch.zeros(2)), Steady(True, "expert a (float16)")
    for gradient, finite in ((torch.tensor([START, 2 * START]), True), (torch.tensor([HUGE, 1.0]), True), (torch.ones(2), False)):
        weight.grad = gradient.clone()
        one.lowered([weight], finite)
        if gradient[0] == START:
            assert weight.grad is not None and weight.grad.tolist() == [1.0, 2.0]
        one.judge([weight])
    assert one.made == [True, False, False] and one.scale == START / 4 and weight.grad is None  # halved twice
    assert one.bad == 0  # not counted while a smaller scale may help
    for _ in range(GROW_AFTER):
        one.judge([weight])
    assert one.scale == START / 2
    other = Steady(True, "")
    other.restore(one.state())
    assert (other.scale, other.good, other.bad) == (START / 2, 0, 0)
    assert float(other.raised(torch.tensor(0.5))) == START / 4 and Steady(False, "").raised(weight) is weight
    one.scale = 1.0
    for _ in range(steady.MOST - 1):
        one.lowered([weight], False)
        one.judge([weight])
    with pytest.raises(ConfigError, match="4 steps in a row"):
        one.lowered([weight], False)
        one.judge([weight])


def test_gradients_on_several_gpus_are_judged() -> None:
    with FakeTensorMode(), Answered():
        weights = [nn.Parameter(torch.empty(2, 2, device=f"cuda:{gpu}")) for gpu in (0, 1, 1)]
        for weight in weights:
            weight.grad = torch.empty_like(weight)
        one = Steady(False, "")
        one.judge(weights)
    assert one.made == [True]


@pytest.mark.parametrize("odd", [torch.nan, HUGE, -HUGE])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_one_odd_number_of_one_tensor_is_found(odd: float, dtype: torch.dtype) -> None:
    tensors = [torch.full((3, 5), -torch.finfo(dtype).max, dtype=dtype), torch.zeros(7, dtype=dtype)]
    assert all_finite(tensors) and all_finite([])
    tensors[1][4] = odd
    assert not all_finite(tensors)


def gradients(folder: Path, dtype: str, scaled: bool, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The first step's gradient of an adapter on a model in `dtype`, with a weight on the loss that makes it small."""
    one = LocalBackend.load(folder, "tiny", 0, dtype=dtype, device="cpu")
    learner = LoraLearner("a", one, config(beta=1e-6), ("q_proj", "v_proj"), Adapters(one.model), "tiny", 0)
    found: list[Tensor] = []

    def judge(self: Steady, of: list[nn.Parameter]) -> None:
        found.append(torch.cat([p.grad.flatten() for p in of if p.grad is not None]))
        self.made.append(True)

    with monkeypatch.context() as patch:
        patch.setattr(Steady, "judge", judge)
        mine = updater(learner)
        assert mine.steady.scaled == (dtype == "fp16")
        mine.steady = Steady(scaled, "")
        mine.update(Rows(pairs()[:2]), 1)
    return found[0]


def test_small_gradients_survive_in_fp16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.build(tmp_path, "llama3")
    exact, plain_, scaled = (gradients(folder, *how, monkeypatch) for how in (("fp32", False), ("fp16", False), ("fp16", True)))
    off = [float((one - exact).norm() / exact.norm()) for one in (plain_, scaled)]
    assert off[1] < 0.05 < off[0]  # below 6e-8 there is nothing in fp16


@pytest.mark.parametrize("method", ["full", "last_layer"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_weights_of_half_precision_are_not_trained_in_place(method: str, dtype: str, tmp_path: Path) -> None:
    # Near 1 two bf16 numbers are 1/128 apart: a step of Adam of 1e-4 is rounded away.
    assert torch.tensor(1.0, dtype=torch.bfloat16) + 1e-3 == 1.0
    one = LocalBackend.load(tiny.build(tmp_path, "llama3"), "tiny", 0, dtype=dtype, device="cpu")
    with pytest.raises(ConfigError, match=rf"train\.method={method} needs the model of expert a in fp32.*set experts\.a\.dtype=fp32"):
        WeightLearner("a", one, config(method=method))


# -- dropout --------------------------------------------------------------------------------------------------------------


def first_loss(dropout: float, reference: str, round: int = 1) -> float:
    """The loss of the first step of a learner that has moved. With round_start as reference it is ln 2 unless something is dropped."""
    told: list[float] = []
    learner = lora(config(dropout=dropout, reference=reference))
    shake(learner)
    updater(learner, on_step=lambda round, step, steps, loss: told.append(loss)).update(Rows(pairs()), round)
    return told[0]


def test_dropout_is_on_in_the_policy_and_off_in_the_reference() -> None:
    assert first_loss(0.0, "round_start") == pytest.approx(0.693147, abs=1e-5)  # -log sigmoid(0)
    dropped = [first_loss(0.5, "round_start", round) for round in (1, 1, 2)]
    assert dropped[0] == dropped[1] and abs(dropped[0] - 0.693147) > 1e-3  # a round made again is the same
    assert dropped[2] != dropped[0]  # another round drops others


def test_dropout_leaves_the_reference_and_the_talking_alone() -> None:
    learner = lora(config(dropout=0.5, reference="round_start"))
    shake(learner)
    model, seen = learner.adapters.model, []
    real = model.add_adapter

    def add(name: str, *more: Any) -> Any:
        made = real(name, *more)
        seen.append(name)
        return made

    model.add_adapter = add
    one = updater(learner)
    one.update(Rows(pairs()[:2]), 1)
    assert seen == ["ref"]
    layers = [module.lora_dropout for module in model.modules() if hasattr(module, "lora_dropout")]
    assert {layer["expert_a"].p for layer in layers} == {0.5} and not any(layer.training for layer in layers)
    asked = GenerateRequest("k", (Message("user", "Hello."),), Decoding("greedy", max_new_tokens=8))
    assert len({learner.policy.generate([asked])[0].ids for _ in range(3)}) == 1
    one.update(Rows(pairs()[:2]), 2)
    assert {layer["expert_a"].p for layer in layers} == {0.5}  # TRL has switched it off again meanwhile


def test_no_layer_of_the_base_drops_anything() -> None:
    """GPT-2 is published with dropout of its own, which the tokens were not drawn with."""
    base: Any = nn.Sequential(nn.Dropout(0.1), nn.Linear(2, 2))
    base[1].attention_dropout, base[1].lora_dropout = 0.1, nn.ModuleDict({"mine": nn.Dropout(0.0), "other": nn.Dropout(0.3)})
    drop(base, "mine", 0.5)
    assert (base[0].p, base[1].attention_dropout, base[1].lora_dropout["mine"].p, base[1].lora_dropout["other"].p) == (0, 0.0, 0.5, 0)


def test_dropout_belongs_to_adapters() -> None:
    with pytest.raises(ValueError, match=r"train\.dropout=0\.1 is that of LoRA adapters; with train\.method=full set train\.dropout=0"):
        config(method="full", dropout=0.1)


# -- words ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoding", [Decoding("greedy"), Decoding("sampling"), Decoding("sampling", top_p=0.9, top_k=2, min_p=0.1)])
def test_no_word_is_chosen_from_broken_logits(decoding: Decoding) -> None:
    nan, low = torch.nan, -torch.inf
    logits_B_V = torch.tensor([[0.0, 9.0, 1.0], [nan, 0.0, 0.0], [low, low, 2.0], [0.0, torch.inf, 0.0], [nan, nan, nan]])
    assert choose(logits_B_V, decoding, torch.full((5,), 0.5)).tolist() == [1, BROKEN, 2, BROKEN, BROKEN]


@pytest.mark.parametrize("engine", [True, False])
@pytest.mark.parametrize("method", ["greedy", "sampling", "contrastive", "beam"])
def test_a_model_with_broken_logits_is_named_with_its_type(method: Any, engine: bool, tmp_path: Path) -> None:
    one = LocalBackend.load(tiny.build(tmp_path, "llama3"), "my-model", 0, dtype="fp32", device="cpu", engine=engine)
    one.model.lm_head.weight.data[7] = torch.nan
    asked = GenerateRequest("k", (Message("user", "Hello."),), Decoding(method, max_new_tokens=4, top_k=4))
    with pytest.raises(ConfigError, match=r"model my-model: its logits are not finite \(float32\).*check its weights"):
        one.generate([asked, asked])
    assert "set its dtype to bf16" in LocalBackend.load(tiny.build(tmp_path, "llama3"), "m", 0, dtype="fp16", device="cpu")._broken()
