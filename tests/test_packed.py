"""The packed pass does what transformers' forward does, with adapters and without, and follows weights that change."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from expertchat.backends.budget import Budget
from expertchat.backends.engine import Engine, make_engine
from expertchat.backends.kept import Context
from expertchat.backends.packed import Packed, packable
from expertchat.backends.voice import Voice

pytestmark = pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="no bf16 products on this CPU")

SIZES: dict[str, Any] = {
    "hidden_size": 96, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16,
    "vocab_size": 200, "max_position_embeddings": 256, "pad_token_id": 0,
}  # fmt: skip
LINEARS = ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama 3.1": ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
                                                 "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
}  # fmt: skip


def tiny(kind: str, dtype: torch.dtype = torch.bfloat16, **more: Any) -> Any:
    torch.manual_seed(3)
    config = AutoConfig.for_model(kind, **{**SIZES, **more})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa").eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():  # norms and biases that a mistake would show in
            if weight.dim() == 1:
                weight.copy_(torch.rand_like(weight) + (0.5 if "norm" in name else -0.5))
            else:
                weight.mul_(4)
    return model.to(dtype)


def engine_of(model: Any) -> Engine:
    made = make_engine(model, 128, Budget(0))
    assert isinstance(made, Engine)
    return made


CONTEXTS = [Context([7, 3, 9, 100, 42, 17, 5]), Context([11, 13, 150])]


def logits(engine: Engine, packed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and states after two ragged contexts."""
    engine.packed.wanted = packed
    with torch.inference_mode():
        filled = engine.prefill(engine.slab(2, 16), 0, CONTEXTS, hidden=True)
    assert filled.states_B_L_D is not None
    return filled.logits_B_V.float(), filled.states_B_L_D


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().mean() / wanted.abs().mean())


@pytest.mark.parametrize("name", KINDS)
def test_as_near_to_fp32_as_the_models_own_pass(name: str) -> None:
    kind, more = KINDS[name]
    model = tiny(kind, **more)
    exact = copy.deepcopy(model).float()
    engine = engine_of(model)
    assert engine.packed.wanted
    (packed, states), (own, _) = logits(engine, True), logits(engine, False)
    with torch.inference_mode():
        for row, context in enumerate(CONTEXTS):
            wanted = exact(input_ids=torch.tensor([context.ids]), output_hidden_states=True)
            last = wanted.logits[0, -1]
            assert error(packed[row], last) <= 1.2 * error(own[row], last) + 0.002  # bf16 itself: about .01
            unit = torch.nn.functional.normalize(wanted.hidden_states[-1][0], dim=-1)
            assert float((states[row, : len(context.ids)] * unit).sum(-1).min()) > 0.999  # a cosine


def test_a_step_of_several_tokens_and_scores_in_fp32() -> None:
    model = tiny("qwen3")
    exact, engine = copy.deepcopy(model).float(), engine_of(tiny("qwen3"))
    found = engine.continuations(CONTEXTS, [[[5, 6, 7], [8]], [[9, 1]]])
    for context, tails, of_context in zip(CONTEXTS, [[[5, 6, 7], [8]], [[9, 1]]], found, strict=True):
        for tail, logps in zip(tails, of_context, strict=True):
            assert logps.dtype == torch.float32
            with torch.inference_mode():
                wanted = exact(input_ids=torch.tensor([[*context.ids, *tail]])).logits[0, len(context.ids) - 1 :].log_softmax(-1)
            assert float((logps - wanted).abs().mean()) < 0.05


def test_adapters_speak_where_they_are_on_and_as_they_are_now() -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny("llama"), LoraConfig(r=4, target_modules=LINEARS))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    model.eval()
    engine = engine_of(model)
    assert engine.packed.wanted

    def off() -> None:
        model.base_model.disable_adapter_layers()

    def on() -> None:
        model.base_model.enable_adapter_layers()

    shared = Engine(Voice(model, off), engine.shapes, Budget(0), engine.packed)
    adapted, base = logits(engine, True)[0], logits(shared, True)[0]
    assert shared.packed is engine.packed
    on()
    own = logits(engine, False)[0]
    assert error(adapted, own) < 0.03 < 0.3 < error(base, own)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.mul_(-1)
    assert error(logits(engine, True)[0], logits(engine, False)[0]) < 0.03


def test_weights_that_changed_are_packed_anew() -> None:
    model = tiny("llama")
    engine = engine_of(model)
    before = logits(engine, True)[0]
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(-1)
    assert torch.equal(logits(engine, True)[0], before)
    engine.free()  # what a backend's refresh() does
    after = logits(engine, True)[0]
    assert error(after, before) > 0.1
    assert error(after, logits(engine, False)[0]) < 0.03


def test_what_is_not_packed() -> None:
    assert packable(tiny("llama"))
    assert not packable(tiny("llama", torch.float32))
    assert not packable(tiny("llama", hidden_act="gelu"))
    assert not packable(tiny("llama", rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}))
    assert not packable(tiny("mixtral", num_local_experts=2, num_experts_per_tok=1, sliding_window=None))
    assert not packable(tiny("olmo2"))
    replaced = tiny("llama")
    replaced.model.layers[1].mlp.up_proj = torch.nn.Sequential(replaced.model.layers[1].mlp.up_proj)
    assert not packable(replaced)


def test_memory_that_does_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = Packed(tiny("llama"))
    monkeypatch.setattr("expertchat.backends.packed.free_memory", lambda device: 1000)
    assert packed.get() is None and not packed.wanted


def test_adapters_that_are_put_on_later_speak_too() -> None:
    from expertchat.backends.adapters import Adapters

    model = tiny("llama")
    engine = engine_of(model)
    base = logits(engine, True)[0]
    adapters = Adapters(model)
    adapters.attach("late", LINEARS, r=4)
    with torch.no_grad():
        for name, weight in adapters.parameters("late").items():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    with adapters.using("late"):
        adapted, own = logits(engine, True)[0], logits(engine, False)[0]
    assert error(adapted, own) < 0.03 < 0.3 < error(base, own)
    adapters.remove("late")
    assert error(logits(engine, True)[0], base) < 0.001
