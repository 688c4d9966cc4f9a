"""A plan tried out: models of a given shape with random weights, in the form that they would be loaded in, and what a reply, a judgement
and a training step really take.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import dispatch_model, init_empty_weights
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM

from expertchat.backends.adapters import Adapters
from expertchat.backends.base import Decoding, GenerateRequest, ScoreRequest
from expertchat.backends.hardware import DTYPES
from expertchat.backends.layouts import LAYOUTS
from expertchat.backends.linear_experts import linear_config
from expertchat.backends.local import LocalBackend
from expertchat.backends.measuring import Memory
from expertchat.backends.quantization import Kind, settle
from expertchat.backends.weights import lean_hooks
from expertchat.plan.memory import Lora, Shape, Step, matrices
from expertchat.records import Message

Places = Mapping[str, int | str]
OPTIONS = tuple(f" {i}" for i in range(1, 11))


def random_model(shape: Shape, dtype: str, quantization: Kind, places: Places) -> Any:
    """A model of `shape`, matrix by matrix: nothing is ever there in full precision but the one that is being made.

    `places`: module -> device, as accelerate has it; {"": "cpu"} puts everything on the CPU.
    """
    config = _config(shape)
    config._attn_implementation = "sdpa"
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype])
    model.tie_weights()
    if quantization != "none":
        _quantise(model, DTYPES[dtype], quantization, places)
        settle(model, quantization, "of random weights")
    made: dict[int, nn.Parameter] = {}
    for path, module in list(model.named_modules()):
        device = _place(path, places)
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                if id(parameter) not in made:
                    made[id(parameter)] = nn.Parameter(_random(parameter.shape, parameter.dtype, device), requires_grad=False)
                module.register_parameter(name, made[id(parameter)])
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, buffer.to(device), persistent=name not in module._non_persistent_buffers_set)
    if len(set(places.values())) > 1:
        dispatch_model(model, dict(places), force_hooks=True)
        lean_hooks(model)
    return model.eval().requires_grad_(False)


def _config(shape: Shape) -> Any:
    values: dict[str, Any] = {
        "hidden_size": shape.hidden, "intermediate_size": shape.ffn, "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim, "vocab_size": shape.vocab,
        "max_position_embeddings": shape.context or 8192, "tie_word_embeddings": shape.tied,
    }  # fmt: skip
    layout = LAYOUTS[shape.layout]
    biases = {layout.qkv_bias: shape.qkv_bias, layout.out_bias: shape.out_bias, layout.mlp_bias: shape.mlp_bias}
    values |= {key: there for key, there in biases.items() if isinstance(key, str)} | dict(layout.more)
    if experts := layout.experts:
        values |= {experts.count: shape.experts, experts.chosen: shape.experts_per_token, experts.width: shape.ffn}
    config = AutoConfig.for_model(shape.layout, **values)
    return linear_config(config) if layout.experts else config


def _random(size: Sequence[int], dtype: torch.dtype, device: Any) -> Tensor:
    return torch.ones(size, dtype=dtype, device=device) if len(size) == 1 else torch.randn(size, dtype=dtype, device=device) * 0.02


def _place(path: str, places: Places) -> torch.device:
    while path not in places and path:
        path = path.rpartition(".")[0]
    return torch.device(places.get(path, next(iter(places.values()))))


def _quantise(model: Any, dtype: torch.dtype, quantization: Kind, places: Places) -> None:
    """Every linear layer but the head becomes one of bitsandbytes', its random weight quantised on its device."""
    import bitsandbytes as bnb

    head = model.get_output_embeddings()
    for path, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear) or module is head:
            continue
        device, bias = _place(path, places), module.bias is not None
        weight = _random(module.weight.shape, dtype, device)
        if quantization == "nf4":
            new: Any = bnb.nn.Linear4bit(
                module.in_features, module.out_features, bias, dtype, compress_statistics=True, quant_type="nf4", device="meta"
            )
            packed: Any = bnb.nn.Params4bit(weight, requires_grad=False, compress_statistics=True, quant_type="nf4", module=new)
        else:
            new = bnb.nn.Linear8bitLt(module.in_features, module.out_features, bias, has_fp16_weights=False, device="meta")
            packed = bnb.nn.Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False)  # quantised on the way from there alone
        new.weight = packed.to(device)
        if bias:
            new.bias = nn.Parameter(torch.zeros(module.out_features, dtype=dtype, device=device), requires_grad=False)
        parent, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(parent), leaf, new)


# -- talking ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Talked:
    """Bytes of caches and of everything else at most, and what it took: new tokens and seconds of the replies, seconds of the scores."""

    cache: int
    moment: int
    tokens: int
    reply_seconds: float
    judge_seconds: float


def talk(model: Any, tokenizer: Any, words: Sequence[str], conversations: int, tokens: int, candidates: int = 1, new: int = 16) -> Talked:
    """Replies that end at `tokens` tokens, then the scores of ten ratings after as long a text. Nothing is kept in between."""
    backend = LocalBackend(model, tokenizer, "random", max_batch=conversations, cache_gib=0)
    backend.end_ids = ()
    plain = backend.count_tokens([Message(role="user", content="")])
    length = max(1, tokens - new - plain)
    messages = [(Message(role="user", content=words[i % len(words)] * length),) for i in range(conversations)]
    decoding = Decoding("contrastive", new, top_k=candidates) if candidates > 1 else Decoding("greedy", new)
    with Memory(model) as memory:
        began = time.perf_counter()
        done = backend.generate([GenerateRequest(f"r{i}", chat, decoding) for i, chat in enumerate(messages)])
        middle = time.perf_counter()
        backend.score([ScoreRequest(f"s{i}", chat, OPTIONS) for i, chat in enumerate(messages)])
        ended = time.perf_counter()
    cache = backend.counts.peak_bytes if backend.counts is not None else 0
    return Talked(cache, max(0, memory.peak - cache), sum(reply.tokens for reply in done), middle - began, ended - middle)


# -- training -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """Bytes of a DPO step by part, and its seconds."""

    weights: int
    gradients: int
    optimizer: int
    moment: int
    seconds: float


def train(model: Any, shape: Shape, lora: Lora, step: Step) -> Trained:
    """One DPO update of a new adapter on random pairs (Rafailov et al. 2023, arXiv 2305.18290); the adapter is removed at the end."""
    adapters = Adapters(model)
    adapters.attach("rehearsal", sorted({m.name for m in matrices(shape) if lora.reaches(m)}), r=lora.rank)
    parameters = [p for p in adapters.parameters("rehearsal").values() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, foreach=False)
    for parameter in parameters:  # there before the step, so that its peak is that of activations alone
        parameter.grad = torch.zeros_like(parameter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # older versions of transformers have the old names alone
        if step.checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    model.train()
    try:
        began = time.perf_counter()
        with Memory(model) as memory:
            with torch.no_grad(), adapters.using(None):
                reference_B = _logps(model, step)
            policy_B = _logps(model, step)
            chosen_P, rejected_P = (policy_B - reference_B).chunk(2)
            (-logsigmoid(0.1 * (chosen_P - rejected_P)).mean()).backward()
        gradients = sum(p.grad.nbytes for p in parameters if p.grad is not None)
        optimizer.step()
        states = sum(t.nbytes for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor) and t.ndim)
        weights = sum(p.nbytes for p in parameters)
        return Trained(weights, gradients, states, memory.peak, time.perf_counter() - began)
    finally:
        adapters.remove("rehearsal")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model.gradient_checkpointing_disable()
        model.disable_input_require_grads()
        model.eval()


def _logps(model: Any, step: Step) -> Tensor:
    """Summed log probability [B] of random rows, the last of them shorter; the logits of `head_chunk` tokens exist at a time."""
    device = model.get_input_embeddings().weight.device
    words = model.config.vocab_size
    ids_B_T = torch.randint(0, words, (step.rows, step.tokens), generator=torch.Generator().manual_seed(0)).to(device)
    mask_B_T = torch.ones_like(ids_B_T)
    mask_B_T[-1, : max(1, step.tokens // 8)] = 0
    hidden_N_D = model.model(input_ids=ids_B_T, attention_mask=mask_B_T, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
    head, label_N = model.lm_head, ids_B_T[:, 1:].flatten().to(hidden_N_D.device)
    if step.head_chunk:
        pieces = zip(hidden_N_D.split(step.head_chunk), label_N.split(step.head_chunk), strict=True)
        logp_N = torch.cat([checkpoint(_chosen, head, hidden, label, use_reentrant=False) for hidden, label in pieces])
    else:
        logp_N = _chosen(head, hidden_N_D, label_N)
    kept_B_T = mask_B_T[:, 1:].to(logp_N.device)
    return (logp_N.view(kept_B_T.shape) * kept_B_T).sum(-1)


def _chosen(head: Any, hidden_N_D: Tensor, label_N: Tensor) -> Tensor:
    logps_N_V = head(hidden_N_D).float().log_softmax(-1)
    return logps_N_V.gather(-1, label_N[:, None].to(logps_N_V.device))[:, 0]
