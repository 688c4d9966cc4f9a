"""Mixtures of experts with every expert weight an nn.Linear, as in the published checkpoints, so that quantisation and LoRA reach them.

transformers 5 fuses the experts of a layer into two 3-D parameters; bitsandbytes passes over those without a word, and Mixtral-8x7B "in
4 bits" stays at 85 GiB. Attention, router, norms and the rest are transformers' own classes; only the block of experts is replaced. Which
architectures can be rebuilt so, and how their experts are called, is said in layouts.py.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM
from transformers.activations import ACT2FN
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from expertchat.backends.layouts import BLOCK, LINEAR, Experts, experts_of


class Expert(nn.Module):
    """One feed-forward expert, down(act(gate x) * up x); its layers are named as in the published checkpoints."""

    def __init__(self, config: Any, experts: Experts) -> None:
        super().__init__()
        hidden, width = config.hidden_size, getattr(config, experts.width)
        self.names = gate, up, down = experts.names
        self.add_module(gate, nn.Linear(hidden, width, bias=False))
        self.add_module(down, nn.Linear(width, hidden, bias=False))
        self.add_module(up, nn.Linear(hidden, width, bias=False))
        self.act = ACT2FN[config.hidden_act]

    def forward(self, x_M_H: Tensor) -> Tensor:
        gate, up, down = (getattr(self, name) for name in self.names)
        y_M_H: Tensor = down(self.act(gate(x_M_H)) * up(x_M_H))
        return y_M_H


class LinearExperts(nn.Module):
    """The experts of one layer behind transformers' own router. Only those that some token chose run, each once, on all of its tokens."""

    def __init__(self, config: Any, experts: Experts, router: nn.Module) -> None:
        super().__init__()
        self.jitter = getattr(config, "router_jitter_noise", 0.0)
        self.router = experts.router
        self.add_module(experts.router, router)
        self.experts = nn.ModuleList(Expert(config, experts) for _ in range(getattr(config, experts.count)))

    def forward(self, hidden_B_T_H: Tensor) -> Tensor:
        """Rows are sorted by expert once; the counts are the only thing that the host waits for."""
        shape = hidden_B_T_H.shape
        x_N_H = hidden_B_T_H.reshape(-1, shape[-1])
        if self.training and self.jitter > 0:
            x_N_H = x_N_H * torch.empty_like(x_N_H).uniform_(1.0 - self.jitter, 1.0 + self.jitter)
        _, weights_N_K, chosen_N_K = getattr(self, self.router)(x_N_H)
        if len(x_N_H) == 1:
            parts = [self.experts[i](x_N_H) for i in chosen_N_K[0].tolist()]
            y_N_K_H = torch.stack(parts, dim=1)
        else:
            y_N_K_H = self._grouped(x_N_H, chosen_N_K)
        y_N_H = (y_N_K_H * weights_N_K.unsqueeze(-1)).to(x_N_H.dtype).sum(dim=1)
        return y_N_H.reshape(shape)

    def _grouped(self, x_N_H: Tensor, chosen_N_K: Tensor) -> Tensor:
        """Each token's experts' answers, in the order of `chosen_N_K`."""
        n, k = chosen_N_K.shape
        chosen_M = chosen_N_K.flatten()
        order_M = chosen_M.argsort(stable=True)
        # Not bincount, which on a GPU waits for the largest number first.
        counts = (chosen_M.unsqueeze(1) == torch.arange(len(self.experts), device=chosen_M.device)).sum(0).tolist()
        groups = x_N_H[order_M // k].split(counts)
        parts = [expert(group) for expert, group in zip(self.experts, groups, strict=True) if len(group)]
        y_M_H = torch.cat(parts)
        back_M = torch.empty_like(order_M).scatter_(0, order_M, torch.arange(len(order_M), device=order_M.device))
        return y_M_H[back_M].view(n, k, -1)


@cache
def linear_class(model_type: str) -> type[Any]:
    """transformers' class of a mixture with LinearExperts in every layer that has experts. Loads and saves the published checkpoint layout.

    Its config has a model_type of its own: under the architecture's transformers would fuse the experts while loading.
    """
    found = experts_of(model_type)
    if found is None:
        raise ValueError(f"the layout of {model_type} names no experts")
    experts: Experts = found
    own_config: Any = CONFIG_MAPPING[model_type]
    own_model: Any = MODEL_FOR_CAUSAL_LM_MAPPING[own_config]
    kind = f"{model_type}{LINEAR}"

    class LinearConfig(own_config):  # type: ignore[misc]
        model_type = kind

    class LinearModel(own_model):  # type: ignore[misc]
        config_class = LinearConfig

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            for layer in self.model.layers:
                block = getattr(layer, BLOCK)
                if hasattr(block, "experts"):
                    setattr(layer, BLOCK, LinearExperts(config, experts, getattr(block, experts.router)))
            self.post_init()

    for new, own in ((LinearConfig, own_config), (LinearModel, own_model)):
        new.__name__ = new.__qualname__ = f"Linear{own.__name__}"
    register_checkpoint_conversion_mapping(kind, [WeightRenaming(f".{experts.block}.", f".{BLOCK}.")], overwrite=True)
    AutoConfig.register(kind, LinearConfig, exist_ok=True)
    AutoModelForCausalLM.register(LinearConfig, LinearModel, exist_ok=True)
    return LinearModel


def linear_config(config: Any) -> Any:
    """The same architecture, to be built with linear experts."""
    model = linear_class(config.model_type)
    return model.config_class(**_values(config), architectures=[model.__name__])


def published_config(config: Any) -> Any:
    """The config of the published architecture; of any but a model with linear experts the config itself."""
    if not config.model_type.endswith(LINEAR):
        return config
    own: Any = CONFIG_MAPPING[config.model_type.removesuffix(LINEAR)]
    model: Any = MODEL_FOR_CAUSAL_LM_MAPPING[own]
    return own(**_values(config), architectures=[model.__name__])


def _values(config: Any) -> dict[str, Any]:
    values: dict[str, Any] = config.to_dict()
    for name in ("model_type", "architectures", "transformers_version"):
        values.pop(name, None)
    return values


def unfused(tensors: dict[str, Tensor], experts: Experts) -> dict[str, Tensor]:
    """A checkpoint with fused experts (transformers' save_original_format=False) in the published names; views, no copies."""
    gate, up, down = experts.names
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        if leaf == "gate_up_proj" and tensor.ndim == 3:
            for i, both in enumerate(tensor):
                found[f"{path}.{i}.{gate}.weight"], found[f"{path}.{i}.{up}.weight"] = both.chunk(2)
        elif leaf == "down_proj" and tensor.ndim == 3:
            found |= {f"{path}.{i}.{down}.weight": matrix for i, matrix in enumerate(tensor)}
        else:
            found[name] = tensor
    return found
