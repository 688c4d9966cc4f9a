"""The usual way, over transformers' `generate`: left-padded batches that run to their end, every prompt computed anew.

For models that the engine cannot serve, for beam search, and as the measure that `expertchat bench` compares the engine with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from expertchat.backends.base import Decoding
from expertchat.backends.decoding import Finite, KeyedSampling, NotFinite, contrastive_scores, is_exact, last_hidden, left_pad, positions
from expertchat.backends.head import exact_head
from expertchat.backends.ngrams import NoRepeats
from expertchat.backends.scoring import Tokens
from expertchat.backends.streaming import BeamStops, Row, Watch
from expertchat.backends.unloadable import out_of_memory, pass_failure
from expertchat.config import ConfigError

Stop = Callable[[Tensor, Any], Tensor]
"""(ids_B_S, None) -> done_B, called after every new token."""


@torch.inference_mode()
def write(
    model: Any,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    rows: list[Row],
    watch: Watch,
    noise: Sequence[Sequence[float]],
    pad_id: int,
) -> None:
    """Fill `rows` with new tokens. `noise` has one number for each new token of each row. Raises NotFinite."""
    ids_B_S, mask_B_S = left_pad(prompts, pad_id, model.device)
    limit = max(row.limit for row in rows)
    unrepeated = [NoRepeats(decoding.no_repeat_ngram, watch.end_ids)] if decoding.no_repeat_ngram else []
    if decoding.method == "contrastive":
        contrastive_search(model, ids_B_S, mask_B_S, decoding, limit, watch, *unrepeated)
        return
    settings = GenerationConfig(
        do_sample=False,
        num_beams=decoding.beams if decoding.method == "beam" else 1,
        max_new_tokens=limit,
        pad_token_id=pad_id,
        eos_token_id=sorted(watch.end_ids) or None,
    )
    if decoding.method == "beam":
        out_B_S = model.generate(
            input_ids=ids_B_S, attention_mask=mask_B_S, generation_config=settings,
            logits_processor=LogitsProcessorList([Finite(), *unrepeated]),
            stopping_criteria=StoppingCriteriaList([BeamStops(rows, ids_B_S.shape[1])] if decoding.stop else []),
        )  # fmt: skip
        for row, tokens in zip(rows, out_B_S[:, ids_B_S.shape[1] :].tolist(), strict=True):
            for token in tokens:
                if row.finish is None:
                    row.add(token, token in watch.end_ids)
        return
    drawn = KeyedSampling(noise, ids_B_S.shape[1], decoding) if decoding.method == "sampling" else Finite()
    draw = LogitsProcessorList([*unrepeated, drawn])
    stop = StoppingCriteriaList([watch])
    model.generate(input_ids=ids_B_S, attention_mask=mask_B_S, generation_config=settings, logits_processor=draw, stopping_criteria=stop)


@torch.inference_mode()
def contrastive_search(
    model: Any, ids_B_S: Tensor, mask_B_S: Tensor, decoding: Decoding, max_new_tokens: int, stop: Stop, *processors: LogitsProcessor
) -> Tensor:
    """Contrastive search (Su et al. 2022, arXiv 2202.06417) over left-padded rows; returns the ids with the new tokens.

    The cache holds K equal copies of each row. One pass over the K candidates of a row gives their hidden states and, for the one that is
    chosen, the next probabilities too; then its cache is copied over the other K - 1. A model whose cache cannot be copied so (state-space
    layers) is shown each row anew.
    """
    batch, alpha = ids_B_S.shape[0], decoding.penalty_alpha
    rows_B = torch.arange(batch, device=ids_B_S.device)
    with last_hidden(model) as hidden:
        out = model(input_ids=ids_B_S, attention_mask=mask_B_S, position_ids=positions(mask_B_S), use_cache=True, logits_to_keep=1)
        logits_B_V, cache = out.logits[:, -1].to(ids_B_S.device), _copied(out, min(decoding.top_k, out.logits.shape[-1]))
        context_B_S_D = normalize(hidden[0].float(), dim=-1).to(ids_B_S.device)
        k = min(decoding.top_k, logits_B_V.shape[-1])
        for _ in range(max_new_tokens):
            for processor in processors:
                logits_B_V = processor(ids_B_S, logits_B_V)
            probs_B_K, words_B_K = torch.softmax(logits_B_V.float(), dim=-1).topk(k, dim=-1)
            if not bool(probs_B_K.isfinite().all()):
                raise NotFinite
            context_mask_B_S = mask_B_S
            mask_B_S = torch.cat([mask_B_S, mask_B_S.new_ones(batch, 1)], dim=1)
            new_R_1, mask_R_S, positions_B_S = words_B_K.reshape(-1, 1), mask_B_S.repeat_interleave(k, dim=0), positions(mask_B_S)
            if cache is None:
                new_R_1 = torch.cat([ids_B_S.repeat_interleave(k, dim=0), new_R_1], dim=1)
            placed = positions_B_S[:, -new_R_1.shape[1] :].repeat_interleave(k, dim=0)
            cached = {"use_cache": False} if cache is None else {"past_key_values": cache, "use_cache": True}
            out = model(input_ids=new_R_1, attention_mask=mask_R_S, position_ids=placed, logits_to_keep=1, **cached)
            hidden_B_K_D = normalize(hidden[0][:, -1].float(), dim=-1).to(ids_B_S.device).view(batch, k, -1)
            best_B = contrastive_scores(probs_B_K, hidden_B_K_D, context_B_S_D, context_mask_B_S, alpha).argmax(-1)
            if cache is not None:
                cache.batch_select_indices((rows_B * k + best_B).repeat_interleave(k))
            logits_B_V = out.logits[:, -1].to(ids_B_S.device).view(batch, k, -1)[rows_B, best_B]
            context_B_S_D = torch.cat([context_B_S_D, hidden_B_K_D[rows_B, best_B][:, None]], dim=1)
            ids_B_S = torch.cat([ids_B_S, words_B_K[rows_B, best_B][:, None]], dim=1)
            if bool(stop(ids_B_S, None).all()):
                break
    return ids_B_S


@torch.inference_mode()
def ragged_rows_agree(model: Any, pad_id: int, name: str) -> bool:
    """Whether two words after a short row are the same beside a longer one, by their logits. Raises ConfigError if it cannot write any."""
    words = min(model.config.get_text_config().vocab_size, 1000)
    long, short = [i * 7 % words for i in range(3, 9)], [i * 5 % words for i in range(2, 5)]
    settings = GenerationConfig(do_sample=False, max_new_tokens=2, pad_token_id=pad_id, output_logits=True, return_dict_in_generate=True)
    found = []
    for rows in ([long, short], [short]):
        ids_B_S, mask_B_S = left_pad(rows, pad_id, model.device)
        try:
            out = model.generate(input_ids=ids_B_S, attention_mask=mask_B_S, generation_config=settings)
        except Exception as error:  # whatever a model does whose config.json and weights do not fit
            if out_of_memory(error):
                raise
            raise ConfigError(f"model {name}: its first words fail: {pass_failure(error, model)}") from None
        found.append(torch.stack([logits_B_V[-1].float() for logits_B_V in out.logits]))
    beside, alone = found
    if not bool(alone.isfinite().all()):
        return True  # said elsewhere
    return float((beside - alone).abs().max()) <= float(alone.abs().max()) * (1e-3 if is_exact(model) else 0.1) + 1e-6


def _copied(out: Any, times: int) -> Any:
    """The cache of a pass, each row copied, or None where it holds something other than keys and values."""
    cache: Any = getattr(out, "past_key_values", None)
    if not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in getattr(cache, "layers", [None])):
        return None
    cache.batch_repeat_interleave(times)
    return cache


@torch.inference_mode()
def continuations(model: Any, rows: Sequence[tuple[Tokens, Tokens]], pad_id: int) -> list[Tensor]:
    """For each row (context, tail): log probabilities [tail + 1, V] after the context and after each of the tail's tokens."""
    ids_B_S, mask_B_S = left_pad([[*context, *tail] for context, tail in rows], pad_id, model.device)
    keep = max(len(tail) for _, tail in rows) + 1
    with exact_head(model):
        out = model(input_ids=ids_B_S, attention_mask=mask_B_S, position_ids=positions(mask_B_S), use_cache=False, logits_to_keep=keep)
    logps_B_T_V = out.logits[:, -keep:].float().log_softmax(-1)
    return [logps_B_T_V[b, keep - 1 - len(tail) :] for b, (_, tail) in enumerate(rows)]
