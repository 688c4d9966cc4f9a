"""One DPO update through TRL: its loss by hand, its reference, what it leaves behind, and that it goes on where it was."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from expertchat.backends.adapters import Adapters
from expertchat.backends.folders import find_folder
from expertchat.backends.local import LocalBackend
from expertchat.config import ConfigError
from expertchat.records import PreferencePair
from expertchat.training import dpo
from expertchat.training.config import TrainConfig
from expertchat.training.dpo import Dpo, on_gpu
from expertchat.training.learner import Learner, LoraLearner, WeightLearner, _learner, one_learner
from expertchat.training.method import Rows, Stopped
from expertchat.training.one_prompt import one_prompt
from expertchat.training.rows import row_of
from expertchat.training.update import in_place, rate
from tests import tiny

UNUSED = Path(tempfile.gettempdir()) / "expertchat-unused"  # nothing is saved there, but Trainer makes the folder
PROMPT = [
    {"role": "system", "content": "You are a human expert on tides."},
    {"role": "user", "content": "What do you know about the Moon?"},
]
TEXTS = ("The Moon pulls the sea.", "Good question.", "I am not sure about the Moon.", "Tides come twice a day. What about the Sun?")


def config(**values: Any) -> TrainConfig:
    plain: dict[str, Any] = {
        "method": "lora", "targets": [], "rank": 4, "alpha": 8, "dropout": 0.0, "loss": ["sigmoid"], "beta": 0.5, "label_smoothing": 0.0,
        "reference": "base", "batch": 2, "micro_batch": 2, "epochs": 1, "learning_rate": 1e-2, "schedule": "constant", "warmup_rounds": 0.0,
        "weight_decay": 0.0, "max_grad_norm": 1.0, "checkpointing": False, "sharding": "pipeline",
    }  # fmt: skip
    return TrainConfig.model_validate(plain | values)


def backend() -> LocalBackend:
    folder = find_folder("embedded:llama", None)
    return LocalBackend.load(folder, "embedded:llama", 0, dtype="fp32", device="cpu")


def lora(settings: TrainConfig | None = None) -> LoraLearner:
    one = backend()
    return LoraLearner("a", one, settings or config(), ("q_proj", "v_proj"), Adapters(one.model), "embedded:llama", 0)


def updater(learner: Learner, **more: Any) -> Dpo:
    return Dpo(learner, learner.config, rounds=4, seed=3, folder=UNUSED, **more)


def pair(i: int, chosen: str, rejected: str) -> PreferencePair:
    return PreferencePair(
        id=f"r0001/c{i:04d}/t01/k0-k1", prompt=PROMPT, chosen=[{"role": "assistant", "content": chosen}],
        rejected=[{"role": "assistant", "content": rejected}], score_chosen=1.0, score_rejected=0.0, margin=1.0, round=1, policy_version=0,
        provenance={},
    )  # fmt: skip


def pairs() -> list[PreferencePair]:
    return [pair(i, one, two) for i, (one, two) in enumerate((TEXTS[:2], TEXTS[2:], TEXTS[1:3], (TEXTS[3], TEXTS[0])))]


def weights(learner: Learner) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in learner.parameters().items()}


def logp(learner: LoraLearner, text: str, adapter: str | None) -> float:
    """Log probability of a reply, its end token included, from a plain pass over the whole chat."""
    renderer = learner.backend.renderer
    prompt = learner.tokenizer.apply_chat_template(PROMPT, add_generation_prompt=True, return_dict=True)["input_ids"]
    whole = learner.tokenizer.apply_chat_template([*PROMPT, {"role": "assistant", "content": text}], return_dict=True)["input_ids"]
    assert whole[: len(prompt)] == prompt and renderer is not None
    with torch.no_grad(), learner.adapters.using(adapter):
        logps_T_V = learner.backend.model(torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(float(logps_T_V[i - 1, whole[i]]) for i in range(len(prompt), len(whole)))


def shake(learner: Learner, scale: float = 0.3) -> None:
    """Give the adapter weights under which policy and base differ."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in learner.parameters().values():
            p.add_(scale * torch.randn(p.shape, generator=generator))
    learner.refresh()


def test_before_the_first_step_policy_and_base_agree_so_the_loss_is_ln_2() -> None:
    done = updater(lora()).update(Rows(pairs()[:2]), 1)
    assert done.figures["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert done.figures["log_ratio"] == pytest.approx(0.0, abs=1e-5)
    assert (done.steps, done.rows, done.too_long) == (1, 2, 0)


def test_the_loss_by_hand() -> None:
    learner = lora()
    shake(learner)
    (one,) = pairs()[:1]
    # -log sigmoid(beta * ((log pi(y+) - log ref(y+)) - (log pi(y-) - log ref(y-)))), beta = 0.5
    gains = [logp(learner, text, "expert_a") - logp(learner, text, None) for text in TEXTS[:2]]
    wanted = -math.log(1 / (1 + math.exp(-0.5 * (gains[0] - gains[1]))))
    done = updater(learner).update(Rows([one]), 1)
    assert abs(gains[0] - gains[1]) > 0.05
    assert done.figures["loss"] == pytest.approx(wanted, abs=1e-4)
    assert done.figures["log_ratio"] == pytest.approx((gains[0] + gains[1]) / 2, abs=1e-3)  # nats a reply


def test_with_the_start_of_the_round_as_reference_every_round_begins_at_ln_2() -> None:
    learner = lora(config(reference="round_start"))
    shake(learner)
    one = updater(learner)
    for number in (1, 2):
        assert one.update(Rows(pairs()[:2]), number).figures["loss"] == pytest.approx(math.log(2), abs=1e-5)
        assert learner.adapters.names == ("expert_a",)  # the copy that TRL trains against is gone


def test_an_update_prefers_the_chosen_replies_and_leaves_the_model_as_it_found_it() -> None:
    learner = lora(config(epochs=6))
    before = [logp(learner, text, None) for text in TEXTS]
    updater(learner).update(Rows(pairs()[:2]), 1)
    after = [logp(learner, text, "expert_a") for text in TEXTS]
    assert after[0] - before[0] > after[1] - before[1]  # chosen against rejected
    assert after[2] - before[2] > after[3] - before[3]
    assert [logp(learner, text, None) for text in TEXTS] == before  # the base is the same to the bit
    model = learner.backend.model
    assert "forward" not in vars(model) and not model.training
    assert "default" not in learner.adapters.model.peft_config
    assert all(p.dtype == torch.float32 for p in learner.parameters().values())


def test_replies_that_share_their_prompt_are_trained_as_if_they_stood_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[Any] = []

    @contextlib.contextmanager
    def counted(inner: Any, replies: int) -> Iterator[None]:
        entered.append(inner)
        with one_prompt(inner, replies):
            yield

    def trained(how: Any) -> tuple[dict[str, float], dict[str, Tensor]]:
        monkeypatch.setattr(dpo, "one_prompt", how)
        learner = lora()
        shake(learner)
        return updater(learner).update(Rows(pairs()), 1).figures, weights(learner)

    (shared, mine), (apart, others) = trained(counted), trained(lambda inner, replies: contextlib.nullcontext())
    assert len(entered) == 1 and "forward" not in vars(entered[0])
    assert shared == {name: pytest.approx(value, rel=1e-4, abs=1e-5) for name, value in apart.items()}
    assert all(torch.allclose(mine[name], others[name], atol=1e-4) for name in mine)


def test_no_pairs_change_nothing() -> None:
    learner = lora()
    before = weights(learner)
    done = updater(learner).update(Rows([]), 1)
    assert (done.steps, done.rows, learner.version) == (0, 0, 0)
    assert all(torch.equal(before[name], p) for name, p in learner.parameters().items())


def test_pairs_that_are_too_long_are_left_out_and_counted() -> None:
    long = pair(9, "The Moon pulls the sea. " * 20, "No.")
    done = updater(lora(config(max_tokens=64))).update(Rows([*pairs()[:2], long]), 1)
    assert (done.rows, done.too_long) == (2, 1)


def test_token_ids_are_those_of_trl_itself() -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    learner = lora()
    with learner.training() as model:
        trainer = DPOTrainer(
            model=backend().model,
            ref_model=backend().model,
            args=DPOConfig(output_dir=str(UNUSED), use_cpu=True, bf16=False, report_to="none"),
            train_dataset=Dataset.from_list([{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in pairs()]),
            processing_class=learner.tokenizer,
        )
        assert model is learner.adapters.model
    mine = [row_of(p, learner.backend.renderer) for p in pairs()]
    for row, theirs in zip(mine, trainer.train_dataset, strict=True):
        assert row == {name: theirs[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids")}


def test_two_rounds_in_two_starts_are_two_rounds_in_one(tmp_path: Path) -> None:
    whole = lora(config(schedule="linear", warmup_rounds=1.0))
    one = updater(whole)
    one.update(Rows(pairs()), 1)
    one.lower(0.1)
    one.update(Rows(pairs()[::-1]), 2)

    first = lora(config(schedule="linear", warmup_rounds=1.0))
    two = updater(first)
    two.update(Rows(pairs()), 1)
    two.lower(0.1)
    first.save(tmp_path / "adapter")
    two.save(tmp_path / "optimizer.pt")
    second = lora(config(schedule="linear", warmup_rounds=1.0))
    shake(second)
    three = updater(second)
    second.load(tmp_path / "adapter")
    second.version = 1
    three.load(tmp_path / "optimizer.pt")
    three.update(Rows(pairs()[::-1]), 2)
    assert all(torch.equal(p, second.parameters()[name]) for name, p in whole.parameters().items())


def test_the_optimizer_steps_in_place_on_gpus_whatever_machine_wrote_its_state(tmp_path: Path) -> None:
    with FakeTensorMode():
        weights_ = [torch.empty(2, device=f"cuda:{gpu}") for gpu in (0, 1)]
    assert in_place(weights_) is True and in_place([torch.empty(2)]) is None
    one, other = updater(lora()), updater(lora())
    assert one.optimizer.param_groups[0]["fused"] is None
    one.update(Rows(pairs()[:2]), 1)
    one.save(tmp_path / "optimizer.pt")
    other.fused = True  # which a CPU has too
    other.load(tmp_path / "optimizer.pt")
    assert [group["fused"] for group in other.optimizer.param_groups] == [True]
    assert other.update(Rows(pairs()[2:]), 2).steps == 1


def test_a_signal_between_two_steps_ends_the_update() -> None:
    asked: list[int] = []
    learner = lora()
    with pytest.raises(Stopped):
        updater(learner, stop=lambda: asked.append(1) is None and len(asked) == 2).update(Rows(pairs() + pairs()), 1)
    assert len(asked) == 2
    assert learner.version == 0 and not learner.backend.model.training and learner.adapters.names == ("expert_a",)


def test_steps_are_told_with_their_loss() -> None:
    told: list[tuple[int, int, int, float]] = []
    updater(lora(), on_step=lambda *step: told.append(step)).update(Rows(pairs()), 7)
    assert [step[:3] for step in told] == [(7, 1, 2), (7, 2, 2)]
    assert told[0][3] == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize("method", ["full", "last_layer"])
def test_other_methods_change_what_they_should_and_keep_their_base(method: str) -> None:
    one = backend()
    before = {name: p.detach().clone() for name, p in one.model.named_parameters()}
    learner = WeightLearner("a", one, config(method=method, learning_rate=1e-3))
    done = updater(learner).update(Rows(pairs()), 1)
    assert done.steps == 2
    changed = {name for name, p in one.model.named_parameters() if not torch.equal(p, before[name])}
    last = {name for name in before if ".layers.3." in name}
    assert changed == (set(before) if method == "full" else last)
    assert all(torch.equal(p, before[name]) for name, p in learner.reference().named_parameters())
    shared = {p.data_ptr() for p in one.model.parameters()} & {p.data_ptr() for p in learner.reference().parameters()}
    assert len(shared) == (0 if method == "full" else len(before) - len(last))  # what stays as it is exists once


def test_the_last_layer_is_named_whatever_its_architecture_calls_layers() -> None:
    from tests import architectures

    model = deepcopy(architectures.model_of("gpt2"))  # transformer.h.1.attn.c_attn.weight
    learner = WeightLearner("a", LocalBackend(model, tiny.tokenizer("qwen3"), "m"), config(method="last_layer"), compared=False)
    assert "those of layer 1, ln_1, ln_1.bias, attn.c_attn, attn.c_attn.bias" in learner.notes[0]


def test_weights_come_back_as_they_were(tmp_path: Path) -> None:
    learner = WeightLearner("a", backend(), config(method="last_layer"))
    updater(learner).update(Rows(pairs()), 1)
    learner.save(tmp_path)
    other = WeightLearner("a", backend(), config(method="last_layer"))
    other.load(tmp_path)
    assert all(torch.equal(p, other.parameters()[name]) for name, p in learner.parameters().items())
    with pytest.raises(ConfigError, match=r"another train\.method"):
        WeightLearner("a", backend(), config(method="full")).load(tmp_path)


def test_an_adapter_says_at_which_revision_its_base_was(tmp_path: Path) -> None:
    """Whoever loads it elsewhere would take the newest weights for it else."""
    model: Any = SimpleNamespace(path="OWNER/MODEL", revision="0123abc", family="llama3")
    one, train = backend(), config(rank=2, targets=["q_proj"])
    cast: Any = SimpleNamespace(backends={"a": one}, experts={"a": SimpleNamespace(family=SimpleNamespace(lora_targets=("q_proj",)))})
    run: Any = SimpleNamespace(train=train, experts={"a": model}, run=SimpleNamespace(seed=0))
    for name, learner in (("online", _learner(run, cast, "a", {})), ("rows", one_learner(model, backend(), train, 0, False))):
        learner.save(tmp_path / name)
        told = json.loads((tmp_path / name / "adapter_config.json").read_text("utf-8"))
        assert (told["base_model_name_or_path"], told["revision"]) == ("OWNER/MODEL", "0123abc")


def test_policy_and_base_speak_with_their_own_weights() -> None:
    from expertchat.backends.base import Decoding, GenerateRequest
    from expertchat.records import Message

    learner = lora()
    request = GenerateRequest("k", tuple(Message(m["role"], m["content"]) for m in PROMPT), Decoding("greedy", max_new_tokens=12))  # type: ignore[arg-type]
    (first,) = learner.base.generate([request])
    assert learner.policy.generate([request])[0].text == first.text  # a new adapter changes nothing
    shake(learner, 1.0)
    assert learner.policy.generate([request])[0].text != first.text
    assert learner.base.generate([request])[0].text == first.text


@pytest.mark.parametrize(
    ("begin", "schedule", "share"),
    # 10 rounds, 2 of warm-up, a step a quarter of a round: the rise reaches end / 2; later (begin - 2) / 8 of the way is done
    [(0.0, "linear", 0.125), (1.5, "linear", 0.875), (2.0, "linear", 1.0), (6.0, "linear", 0.5), (10.0, "linear", 0.0),
     (6.0, "cosine", 0.5), (4.0, "cosine", 0.853553), (9.0, "constant", 1.0)],
)  # fmt: skip
def test_the_learning_rate(begin: float, schedule: str, share: float) -> None:
    assert rate(begin, begin + 0.25, 10, 2.0, schedule) == pytest.approx(share, abs=1e-5)


# -- on whatever GPU the model stands -----------------------------------------------------------------------------------


class Answered(TorchDispatchMode):
    """Tensors without data, of other devices than the CPU: every number that is asked for is 1."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        asked = function is torch.ops.aten._local_scalar_dense.default and args[0].device.type != "cpu"
        return 1 if asked else function(*args, **(kwargs or {}))


def test_the_update_runs_where_the_model_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import PartialState
    from transformers import Trainer, TrainingArguments

    learner = lora(config(loss=["exo_pair"], label_smoothing=0.1))  # TRL makes a tensor of the smoothing
    # The first GPU is another one than this model's: here "meta", where nothing can be computed, and from where no number comes back.
    first = torch.device("meta")
    monkeypatch.setattr(PartialState, "set_device", lambda self: setattr(self, "device", first))
    monkeypatch.setattr(TrainingArguments, "device", property(lambda self: (self._setup_devices, first)[1]))
    monkeypatch.setattr(Trainer, "_prepare_input", lambda self, data: data)
    before = weights(learner)
    with Answered():
        assert updater(learner).update(Rows(pairs()), 1).steps == 2
    assert {p.device.type for p in learner.backend.model.parameters()} == {"cpu"}
    assert any(not torch.equal(before[name], p) for name, p in learner.parameters().items())


def test_a_quantised_model_is_trained_on_the_second_gpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = lora()
    model = learner.backend.model
    model.is_loaded_in_4bit, model.hf_device_map = True, {"": 1}  # all of it on cuda:1
    # Where this is False, accelerate looks at the index of a CPU as at a GPU's.
    monkeypatch.setattr("accelerate.accelerator.is_bitsandbytes_multi_backend_available", lambda: False)
    assert updater(learner).update(Rows(pairs()), 1).steps == 2
    assert model.hf_device_map == {"": 1}


def test_the_output_layers_gpu_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[str] = []

    @contextlib.contextmanager
    def device(which: torch.device) -> Iterator[None]:
        current.append(str(which))
        yield
        current.append("left")

    monkeypatch.setattr(torch.cuda, "device", device)
    asked: list[torch.device] = []
    monkeypatch.setattr(dpo, "on_gpu", lambda head, forward: asked.append(head) or on_gpu(torch.device("cuda:3"), forward))
    updater(lora(config(epochs=2))).update(Rows(pairs()[:2]), 1)
    # Two steps, each with a pass of the reference and one of the policy.
    assert current == ["cuda:3", "left"] * 4 and asked == [torch.device("cpu")]
    assert on_gpu(torch.device("cpu"), pairs) is pairs
