"""Mixtral with every expert weight an nn.Linear, as in the published checkpoints, so that quantisation and LoRA reach them.

transformers 5 fuses the experts of a layer into two 3-D parameters; bitsandbytes passes over those without a word, and Mixtral-8x7B "in
4 bits" stays at 85 GiB. Attention, router, norms and the rest are transformers' own classes; only the block of experts is replaced.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM
from transformers.activations import ACT2FN
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter

TYPE = "mixtral_linear"


class LinearMixtralConfig(MixtralConfig):
    """Mixtral's config under a model_type of its own: under "mixtral" transformers would fuse the experts while loading."""

    model_type = TYPE


class Expert(nn.Module):
    """One feed-forward expert, w2(act(w1 x) * w3 x), named as in the published checkpoints."""

    def __init__(self, config: MixtralConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.w3 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.act = ACT2FN[config.hidden_act]

    def forward(self, x_M_H: Tensor) -> Tensor:
        y_M_H: Tensor = self.w2(self.act(self.w1(x_M_H)) * self.w3(x_M_H))
        return y_M_H


class LinearExperts(nn.Module):
    """The experts of one layer behind their router. Only experts that some token chose are run, each once, on all of its tokens."""

    def __init__(self, config: MixtralConfig) -> None:
        super().__init__()
        self.jitter = config.router_jitter_noise
        self.gate = MixtralTopKRouter(config)
        self.experts = nn.ModuleList(Expert(config) for _ in range(config.num_local_experts))

    def forward(self, hidden_B_T_H: Tensor) -> Tensor:
        """Rows are sorted by expert once; the counts are the only thing that the host waits for."""
        shape = hidden_B_T_H.shape
        x_N_H = hidden_B_T_H.reshape(-1, shape[-1])
        if self.training and self.jitter > 0:
            x_N_H = x_N_H * torch.empty_like(x_N_H).uniform_(1.0 - self.jitter, 1.0 + self.jitter)
        _, weights_N_K, chosen_N_K = self.gate(x_N_H)
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


class LinearMixtralForCausalLM(MixtralForCausalLM):
    """transformers' Mixtral with LinearExperts in every layer. Loads and saves the published checkpoint layout."""

    config_class = LinearMixtralConfig

    def __init__(self, config: MixtralConfig) -> None:
        super().__init__(config)
        for layer in self.model.layers:
            layer.mlp = LinearExperts(config)
        self.post_init()


def linear_config(config: MixtralConfig) -> LinearMixtralConfig:
    """The same architecture, to be built with linear experts."""
    values: dict[str, Any] = config.to_dict()
    for name in ("model_type", "architectures", "transformers_version"):
        values.pop(name, None)
    return LinearMixtralConfig(**values, architectures=[LinearMixtralForCausalLM.__name__])


def unfused(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint with fused experts (transformers' save_original_format=False) in the published names; views, no copies."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        if leaf == "gate_up_proj" and tensor.ndim == 3:
            for i, both in enumerate(tensor):
                found[f"{path}.{i}.w1.weight"], found[f"{path}.{i}.w3.weight"] = both.chunk(2)
        elif leaf == "down_proj" and tensor.ndim == 3:
            found |= {f"{path}.{i}.w2.weight": one for i, one in enumerate(tensor)}
        else:
            found[name] = tensor
    return found


register_checkpoint_conversion_mapping(TYPE, [WeightRenaming(".block_sparse_moe.", ".mlp.")], overwrite=True)
AutoConfig.register(TYPE, LinearMixtralConfig, exist_ok=True)
AutoModelForCausalLM.register(LinearMixtralConfig, LinearMixtralForCausalLM, exist_ok=True)
