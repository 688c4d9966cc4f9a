"""What a model takes while it works: a reply, a judgement and a training step, measured on random texts."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.utils.checkpoint import checkpoint

from expertchat.backends.adapters import Adapters
from expertchat.backends.base import Decoding, GenerateRequest, ScoreRequest
from expertchat.backends.local import LocalBackend
from expertchat.backends.measuring import Memory
from expertchat.records import Message

OPTIONS = tuple(f" {i}" for i in range(1, 11))
CATEGORIES = ("Depth", "Accuracy", "Relevance", "Clarity", "Engagement", "Humanness")


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
    """Replies that end at `tokens` tokens, then the scores of six ratings after as long a text. Nothing is kept in between."""
    backend = LocalBackend(model, tokenizer, "random", max_batch=conversations, cache_gib=0)
    backend.end_ids = ()
    if backend.engine is not None:  # packed weights are a CPU's alone, and the plan is for GPUs
        backend.engine.packed.wanted = False
    plain = backend.count_tokens([Message(role="user", content="")])
    length = max(1, tokens - new - plain)
    messages = [(Message(role="user", content=words[i % len(words)] * length),) for i in range(conversations)]
    decoding = Decoding("contrastive", new, top_k=candidates) if candidates > 1 else Decoding("greedy", new)
    with Memory(model) as memory:
        began = time.perf_counter()
        done = backend.generate([GenerateRequest(f"r{i}", chat, decoding) for i, chat in enumerate(messages)])
        middle = time.perf_counter()
        backend.score([ScoreRequest(f"s{i}", chat, OPTIONS, f"{name}:") for i, chat in enumerate(messages) for name in CATEGORIES])
        ended = time.perf_counter()
    cache = backend.counts.peak_bytes if backend.counts is not None else 0
    return Talked(cache, max(0, memory.peak - cache), sum(reply.tokens for reply in done), middle - began, ended - middle)


# -- training -----------------------------------------------------------------------------------------------------------


class Texts(Protocol):
    """What a step is made on; `head_chunk`: tokens whose logits exist at a time, 0: all."""

    @property
    def rows(self) -> int: ...

    @property
    def tokens(self) -> int: ...

    @property
    def checkpointing(self) -> bool: ...

    @property
    def head_chunk(self) -> int: ...


@dataclass(frozen=True)
class Trained:
    """Bytes of a DPO step by part, and its seconds."""

    weights: int
    gradients: int
    optimizer: int
    moment: int
    seconds: float


def train(model: Any, targets: Sequence[str], rank: int, step: Texts) -> Trained:
    """One DPO update of a new adapter on random pairs (Rafailov et al. 2023, arXiv 2305.18290); the adapter is removed at the end."""
    adapters = Adapters(model)
    adapters.attach("rehearsal", targets, r=rank)
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


def _logps(model: Any, step: Texts) -> Tensor:
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
