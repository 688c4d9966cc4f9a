"""Training of one tiny expert from the simulator: Muon on the hidden matrices, AdamW on the rest, one linear decay."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expertchat.records import Speaker
from expertchat.world.corpus import Batches, Encoder, Micro, Step
from expertchat.world.hints import dense_experts, labels_at_markers, look_at_markers, trunk
from expertchat.world.simulator import Simulator
from expertchat.world.team import Team

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Shape:
    """The size of a tiny expert. `experts` = 0 makes a Llama, else a Mixtral that uses the best 2 of them."""

    hidden: int = 160
    layers: int = 4
    heads: int = 4
    ffn: int = 480
    experts: int = 0


SHAPES: dict[str, Shape] = {"llama": Shape(), "mixtral": Shape(ffn=240, experts=4)}
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


@dataclass(frozen=True)
class Course:
    """What one training is made of. `seats`: whose part is learnt; `init`: a trained folder to go on from, on the full mixture
    (a Mixtral can begin as a Llama); `peak`: the highest rate, of the base rates; `falls`: whether it falls, after a quarter; `hints`: of
    each hint's mean loss, beside that of the tokens; `state_every`: steps between two states on the disk.
    """

    million_tokens: float  # padding counted, over all processes
    seats: tuple[Speaker, ...] = ("a", "b")
    init: Path | None = None
    peak: float = 1.0
    falls: bool = True
    hints: float = 0.5
    seed: int = 0
    samples: int = 24
    parts: int = 3
    compiled: bool = False  # a minute at the beginning; then 1.6 times as fast
    state_every: int = 250


@dataclass
class Progress:
    """How far a training is; written with its state."""

    step: int = 0
    tokens: float = 0
    seconds: float = 0
    losses: list[float] = field(default_factory=list)  # of the last 50 steps

    def rate(self, course: Course) -> float:
        """The factor of the base rates in the next step: up, level, and, where the course falls, down to a fiftieth."""
        left = (1 - self.done(course)) / (1 - DECAY_FROM) if course.falls else 1.0
        return course.peak * min(1, (self.step + 1) / WARM_UP) * max(0.02, min(1, left))

    def done(self, course: Course) -> float:
        return self.tokens / 1e6 / course.million_tokens


def train_expert(
    simulator: Simulator,
    tokenizer: PreTrainedTokenizerFast,
    name: str,
    out: Path,
    course: Course,
    report: Callable[[str], None] = lambda line: None,
    team: Team | None = None,
) -> None:
    """Train the expert `name` and save it to `out` in bf16. What was trained before in this place, and stopped, goes on.

    All processes of a team call it alike; the first writes and reports.
    """
    import torch

    team = team or Team()
    torch.manual_seed(course.seed)
    model = _begin(name, len(tokenizer), course.init)
    optimizer, now = Optimizer(model), Progress()
    state = out.with_name(f"{out.name}.state")
    if state.exists():
        now = _restore(state, model, optimizer)
    encoder = Encoder(tokenizer, simulator.prompts.analysis_prefix)
    batches = Batches(
        simulator, encoder, course.seats, f"{course.seed} {out.name} {course.million_tokens}", course.samples, course.parts, team
    )
    report(f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters" + (f", from step {now.step}" if now.step else ""))
    passes = torch.compile(trunk, dynamic=True) if course.compiled else trunk
    parameters, began = list(model.parameters()), time.monotonic() - now.seconds
    while now.done(course) < 1:
        step = batches.step(now.step, 1.0 if course.init else now.done(course))
        loss, tokens = 0.0, 0.0
        for micro in step.micro:
            loss += _backward(model, passes, micro, step, course.hints)
            tokens += micro.ids.numel()
        loss, tokens = team.add(parameters, loss, tokens)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step(now.rate(course))
        model.zero_grad(set_to_none=True)
        now.step, now.tokens, now.losses = now.step + 1, now.tokens + tokens, [*now.losses[-49:], loss]
        now.seconds = time.monotonic() - began
        if now.step % 50 == 0 and team.leads:
            so_far = f"{now.tokens / 1e6:.2f} of {course.million_tokens:g} Mtok"
            report(f"{name}: step {now.step}, {so_far}, loss {sum(now.losses) / len(now.losses):.4f}, {now.seconds:.0f} s")
        if now.step % course.state_every == 0 and team.leads:
            _keep(state, model, optimizer, now)
    if team.leads:
        new = out.with_name(f"{out.name}.new")
        save(model, tokenizer, new)
        shutil.rmtree(out, ignore_errors=True)
        new.replace(out)  # a folder of this name is a whole one
        state.unlink(missing_ok=True)


def _begin(name: str, vocabulary: int, init: Path | None) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = make_model(SHAPES[name], vocabulary)
    if init is not None:
        begun = AutoModelForCausalLM.from_pretrained(init, dtype=torch.float32)
        if begun.config.model_type == model.config.model_type:
            model = begun
        else:
            upcycle(model, init)
    for module in model.modules():
        if type(module).__name__ == "MixtralExperts":
            module.forward = dense_experts.__get__(module)
    return model.train()


def _backward(model: Any, passes: Callable[..., tuple[torch.Tensor, torch.Tensor]], micro: Micro, step: Step, share: float) -> float:
    """Add one micro-batch's gradients; the loss of its tokens, without the hints."""
    import torch
    import torch.nn.functional as F

    weights = micro.weights[:, 1:]
    counted = weights > 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before, last = passes(model, micro.ids)
        logits = model.lm_head(last[:, :-1][counted])
        hints = [hint(model, before, micro) for hint in (labels_at_markers, look_at_markers)] if len(micro.marks) else []
    each = F.cross_entropy(logits.float(), micro.ids[:, 1:][counted], reduction="none")
    loss = (each * weights[counted]).sum() / step.weight
    (loss + share * sum(hints) / max(1, step.marks)).backward()
    return loss.item()


def _keep(file: Path, model: PreTrainedModel, optimizer: Optimizer, now: Progress) -> None:
    """The state on the disk, whole or not at all. In fp32: what goes on from it is what would have gone on."""
    import torch

    new = file.with_name(file.name + ".new")
    torch.save({"model": model.state_dict(), "optimizer": [part.state_dict() for part, _ in optimizer.parts], "now": vars(now)}, new)
    new.replace(file)


def _restore(file: Path, model: PreTrainedModel, optimizer: Optimizer) -> Progress:
    import torch

    state = torch.load(file, weights_only=True)
    model.load_state_dict(state["model"])
    for (part, _), kept in zip(optimizer.parts, state["optimizer"], strict=True):
        part.load_state_dict(kept)
    return Progress(**state["now"])


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write a model folder in bf16; the model itself stays as it is."""
    import torch

    state = {k: v.to(torch.bfloat16) for k, v in model.state_dict().items() if k != "lm_head.weight"}  # tied to the embeddings
    dtype, model.config.dtype = model.config.dtype, torch.bfloat16
    model.save_pretrained(out, state_dict=state)
    model.config.dtype = dtype
    tokenizer.save_pretrained(out)
