"""Models with random weights, in the form that trained ones are loaded in: to try out whether a shape fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import dispatch_model, init_empty_weights
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from expertchat.backends.hardware import DTYPES
from expertchat.backends.layouts import experts_of
from expertchat.backends.linear_experts import linear_config
from expertchat.backends.quantization import Kind, settle
from expertchat.backends.weights import lean_hooks

Places = Mapping[str, int | str]


def random_model(model_type: str, values: Mapping[str, Any], dtype: str, quantization: Kind, places: Places) -> Any:
    """A model whose config.json says `values`, matrix by matrix: nothing is ever there in full precision but the one that is being made.

    `places`: module -> device, as accelerate has it; {"": "cpu"} puts everything on the CPU. The experts of a mixture are linear layers.
    """
    config = AutoConfig.for_model(model_type, **values)
    if experts_of(model_type):
        config = linear_config(config)
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
