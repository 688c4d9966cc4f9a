"""What a model folder claims, held against what it holds, at load: token ids and embedding rows, positions, end tokens, one short pass.

Each of these is an IndexError, a NaN or a nonsense deep in a run else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from expertchat.backends.architecture import SENSES
from expertchat.backends.decoding import is_exact
from expertchat.backends.rendering import Renderer
from expertchat.backends.unloadable import out_of_memory, pass_failure
from expertchat.config import ConfigError
from expertchat.records import Message

_PROBE = 8  # tokens of the pass
_TRIED = 64  # tokens without an embedding that are tried out
_POSITIONS = re.compile(r"pos|wpe", re.IGNORECASE)


def embedding_rows(model: Any) -> int:
    """How many token ids a model has embeddings for."""
    return int(model.get_input_embeddings().weight.shape[0])


def nameless_ids(tokenizer: Any, rows: int) -> range:
    """Ids for which a model has an output (many vocabularies are padded to a round number) and its tokenizer no text at all."""
    known = [*tokenizer.get_vocab().values(), *tokenizer.added_tokens_decoder]  # some have gaps, and their ids go beyond their number
    return range(max([len(tokenizer), *(i + 1 for i in known)]), rows)


def unusable_ids(ends: Sequence[int], pad: int | None, rows: int) -> list[str]:
    """Notes on end and padding tokens that lie beyond a model's `rows` embeddings, and on a model that is left without an end token."""
    notes = []
    beyond = [i for i in ends if not 0 <= i < rows]
    if beyond:
        notes.append(f"end token {', '.join(map(str, beyond))} is beyond its {rows} embeddings and can never be said: not used")
    if pad is not None and not 0 <= pad < rows:
        notes.append(f"padding token {pad} is beyond its {rows} embeddings: another one is used")
    if ends and len(beyond) == len(ends):
        notes.append("no token ends its messages: every reply runs to its limit (max_new_tokens)")
    return notes


def check(model: Any, tokenizer: Any, renderer: Renderer, name: str, context_length: int, broken: str) -> None:
    """Raise ConfigError with everything that a model's folder does not hold. `broken`: what is said of logits that are not finite."""
    problems = [*_tokens(model, tokenizer, renderer), *_positions(model, context_length)]
    if not problems:  # an id without an embedding would end the pass, and on a GPU all that comes after it
        problems = list(_pass(model, renderer, broken))
    if problems:
        raise ConfigError([problem if problem.startswith("model ") else f"model {name}: {problem}" for problem in problems])


# -- tokens -------------------------------------------------------------------------------------------------------------


def _tokens(model: Any, tokenizer: Any, renderer: Renderer) -> Iterator[str]:
    """Tokens without an embedding that a chat can hold. Those that no text makes do no harm, as published models have some."""
    rows = embedding_rows(model)
    if max([len(tokenizer), *(i + 1 for i in tokenizer.added_tokens_decoder)]) <= rows:
        return
    beyond = sorted((i, token) for token, i in tokenizer.get_vocab().items() if i >= rows)
    chats = [[Message("user", "Hello.")], *([Message("user", f"Hello {token}")] for _, token in beyond[:_TRIED])]
    made = {i for chat in chats for i in renderer.encode(chat) if i >= rows}
    found = [(i, token) for i, token in beyond if i in made]
    if found:
        more = f" and {len(beyond) - 1} more" if len(beyond) > 1 else ""
        yield (
            f"its tokenizer makes the token {found[0][1]!r} ({found[0][0]}){more}, but the model has embeddings for {rows} only: use the "
            "tokenizer that belongs to it, or enlarge the model (resize_token_embeddings) and save it again"
        )


# -- positions ----------------------------------------------------------------------------------------------------------


def position_table(model: Any, tokens: Any) -> tuple[str, int] | None:
    """The table in which a model looks a text's positions up, with the number of them, or None; `tokens` is its embedding of tokens."""
    for path, module in model.named_modules():
        if not isinstance(module, nn.Embedding) or module is tokens or not _POSITIONS.search(path.rpartition(".")[2]):
            continue
        if re.fullmatch(SENSES, path):
            continue
        # Some begin behind the place of the padding token (RoBERTa, MPNet), some keep two rows for it (OPT).
        unused = getattr(module, "offset", None)
        unused = (module.padding_idx + 1 if module.padding_idx is not None else 0) if unused is None else unused
        return path, module.num_embeddings - unused
    for path, buffer in model.named_buffers():
        if path.endswith("embed_positions") and buffer.ndim == 2:
            return path, int(buffer.shape[0])
    most = getattr(model.config, "max_seq_len", None)
    return ("max_seq_len", most) if getattr(model.config, "model_type", "") == "mpt" and most else None


def _positions(model: Any, context_length: int) -> Iterator[str]:
    table = position_table(model, model.get_input_embeddings())
    if table is not None and context_length > table[1]:
        yield f"context_length={context_length}, but it has {table[1]} positions ({table[0]}): set at most {table[1]}, or leave it out"


# -- a short pass -------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def _pass(model: Any, renderer: Renderer, broken: str) -> Iterator[str]:
    """Two rows that differ in their last token alone."""
    ids = renderer.encode([Message("user", "Hello.")])[:_PROBE]
    rows = [ids, [*ids[:-1], ids[-1] - 1 if ids[-1] else 1]]
    try:
        logits_B_T_V = model(input_ids=torch.tensor(rows, device=model.device), use_cache=False).logits.float()
    except Exception as error:  # whatever a model does whose config.json and weights do not fit
        if out_of_memory(error):
            raise ConfigError("out of memory with two rows of a few tokens; use a smaller or quantised model") from None
        yield f"its first pass fails: {pass_failure(error, model)}"
        return
    if not bool(logits_B_T_V.amax(-1).isfinite().all()):  # -inf rules a word out, and is fine
        names = [path for path, parameter in model.named_parameters() if not _finite(parameter)]
        shown = ", ".join(names[:2]) + (", ..." if len(names) > 2 else "")
        yield f"{len(names)} of its weights are not finite ({shown}): download it again" if names else broken
        return
    first, second = logits_B_T_V[:, :-1]
    if float((first - second).abs().max()) > float(first.abs().max()) * (1e-3 if is_exact(model) else 0.1) + 1e-6:
        yield "its words depend on what follows them, so it is an encoder and no language model: name a decoder-only instruct model"


def _finite(parameter: torch.Tensor) -> bool:
    return not parameter.is_floating_point() or bool(parameter.isfinite().all())
