"""Training of one tiny expert from the simulator: Muon on the hidden matrices, AdamW on the rest, linear decay."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expertchat.records import Speaker
from expertchat.world.corpus import Encoder, batches
from expertchat.world.simulator import Simulator

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Shape:
    """The size of a tiny expert. `experts` = 0 makes a Llama, else a Mixtral that uses the best 2 of them."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    ffn: int = 384
    experts: int = 0


SHAPES: dict[str, Shape] = {"llama": Shape(), "mixtral": Shape(ffn=192, experts=4)}
SEATS: dict[str, Speaker] = {"llama": "a", "mixtral": "b"}
MUON_RATE, ADAM_RATE, WARM_UP, DECAY_FROM = 0.02, 3e-3, 40, 0.25


def make_model(shape: Shape, vocabulary: int) -> PreTrainedModel:
    """A fresh LlamaForCausalLM or MixtralForCausalLM in fp32."""
    from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

    common: dict[str, Any] = dict(
        vocab_size=vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    if shape.experts:
        return MixtralForCausalLM(MixtralConfig(num_local_experts=shape.experts, num_experts_per_tok=2, sliding_window=None, **common))
    return LlamaForCausalLM(LlamaConfig(**common))


def upcycle(model: PreTrainedModel, dense: Path) -> None:
    """Give a Mixtral the attention, norms and embeddings of a trained Llama of the same hidden size, and each expert one half of its FFN.

    Sparse upcycling (Komatsuzaki et al. 2022, arXiv 2212.05055) with experts of half the size: experts 0 and 2 take the first half, 1 and 3
    the second. The router's two weights add up to 1, so the halves are doubled. Reading a long judgement is learnt late and
    suddenly; from scratch the Mixtral needs more than twice the tokens for it.
    """
    import torch
    from transformers import AutoModelForCausalLM

    source = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32).state_dict()
    state = model.state_dict()
    with torch.no_grad():
        for name, target in state.items():
            if name in source and source[name].shape == target.shape:
                target.copy_(source[name])
            elif name.endswith(("experts.gate_up_proj", "experts.down_proj")):
                mlp = name[: name.index(".mlp.") + 5]
                parts = [source[f"{mlp}{part}_proj.weight"] for part in ("gate", "up", "down")]
                half = parts[0].shape[0] // 2
                for expert in range(target.shape[0]):
                    rows = slice(half * (expert % 2), half * (expert % 2) + half)
                    gate, up, down = parts[0][rows], parts[1][rows], 2 * parts[2][:, rows]
                    target[expert].copy_(down if name.endswith("down_proj") else torch.cat([gate, up]))


class Optimizer:
    """Muon for the hidden matrices, AdamW for the rest, with one rate factor for both.

    Muon takes matrices only: Mixtral's fused expert weights (experts, rows, columns) are given to it as views, one an expert.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        import torch

        hidden, rest = [], []
        self.views: list[tuple[torch.nn.Parameter, torch.nn.Parameter, int]] = []
        for name, parameter in model.named_parameters():
            if parameter.ndim == 3:
                views = [torch.nn.Parameter(parameter.data[i]) for i in range(len(parameter))]
                self.views += [(view, parameter, i) for i, view in enumerate(views)]
                hidden += views
            elif parameter.ndim == 2 and not any(part in name for part in ("embed", "lm_head", "gate.weight")):
                hidden.append(parameter)
            else:
                rest.append(parameter)
        self.parts = [
            (torch.optim.Muon(hidden, lr=MUON_RATE, weight_decay=0.02), MUON_RATE),
            (torch.optim.AdamW(rest, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0), ADAM_RATE),
        ]

    def step(self, factor: float) -> None:
        """One update at `factor` times the base rates."""
        for view, fused, i in self.views:
            view.grad = None if fused.grad is None else fused.grad[i]
        for optimizer, base in self.parts:
            for group in optimizer.param_groups:
                group["lr"] = base * factor
            optimizer.step()


def train_expert(
    simulator: Simulator,
    tokenizer: PreTrainedTokenizerFast,
    name: str,
    out: Path,
    million_tokens: float,
    seed: int = 0,
    samples: int = 24,
    parts: int = 3,
    report: Callable[[str], None] = lambda line: None,
    init: Path | None = None,
    peak: float = 1.0,
) -> None:
    """Train the expert `name` on `million_tokens` tokens (padding counted) and save it to `out` in bf16.

    With `init`, a trained folder, training goes on from there (a Mixtral can begin as a Llama) on the full mixture.
    """
    import torch
    import torch.nn.functional as F
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model: Any = make_model(SHAPES[name], len(tokenizer))
    if init is not None:
        begun = AutoModelForCausalLM.from_pretrained(init, dtype=torch.float32)
        if begun.config.model_type == model.config.model_type:
            model = begun
        else:
            upcycle(model, init)
    optimizer = Optimizer(model)
    progress = [0.0 if init is None else 1.0]
    encoder = Encoder(tokenizer, simulator.prompts.analysis_prefix)
    stream = batches(simulator, encoder, SEATS[name], random.Random(f"{seed} {name} {init}"), progress, samples, parts)
    report(f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters")
    tokens, step, losses, began = 0, 0, list[float](), time.monotonic()
    model.train()
    while (done := tokens / 1e6 / million_tokens) < 1:
        if init is None:
            progress[0] = done
        rate = peak * min(1, (step + 1) / WARM_UP) * max(0.02, min(1, (1 - done) / (1 - DECAY_FROM)))
        micro = next(stream)
        total = sum(weights.sum() for _, weights in micro)
        loss_sum = 0.0
        for ids_B_T, weights_B_T in micro:
            weights = weights_B_T[:, 1:]
            counted = weights > 0
            with torch.autocast("cpu", dtype=torch.bfloat16):
                hidden = model.model(input_ids=ids_B_T, use_cache=False).last_hidden_state[:, :-1]
                logits = model.lm_head(hidden[counted])
            loss = (F.cross_entropy(logits.float(), ids_B_T[:, 1:][counted], reduction="none") * weights[counted]).sum() / total
            loss.backward()
            loss_sum += loss.item()
            tokens += ids_B_T.numel()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(rate)
        model.zero_grad(set_to_none=True)
        step += 1
        losses.append(loss_sum)
        if step % 50 == 0:
            seconds = time.monotonic() - began
            so_far = f"{tokens / 1e6:.2f} of {million_tokens:g} Mtok"
            report(f"{name}: step {step}, {so_far}, loss {sum(losses[-50:]) / 50:.4f}, {seconds:.0f} s")
    save(model, tokenizer, out)


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write a model folder in bf16; the model itself stays as it is."""
    import torch

    state = {k: v.to(torch.bfloat16) for k, v in model.state_dict().items() if k != "lm_head.weight"}  # tied to the embeddings
    dtype, model.config.dtype = model.config.dtype, torch.bfloat16
    model.save_pretrained(out, state_dict=state)
    model.config.dtype = dtype
    tokenizer.save_pretrained(out)
