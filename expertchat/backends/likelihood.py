"""How likely given replies are to a model: log probabilities of their tokens and the entropy of each choice, by token ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from expertchat.backends import plain
from expertchat.backends.engine import Engine
from expertchat.backends.kept import Context
from expertchat.backends.local import LocalBackend
from expertchat.backends.scoring import MOST, Tokens
from expertchat.backends.unloadable import out_of_memory

T = TypeVar("T")
LIKE = 0.75  # rows of a pass have at least this share of the widest one's tokens: the rest is padding
OWNER = "likelihood"  # of what the engine keeps meanwhile


class Likely(NamedTuple):
    """Of one reply, in nats, at temperature 1 over the whole vocabulary: the sum of its tokens' log probabilities, and of the entropies."""

    logp: float
    entropy: float


class _Piece(NamedTuple):
    """Some replies to one prompt: `wanted` are their places in the answer."""

    prompt: Tokens
    replies: list[Tokens]
    wanted: list[tuple[int, int]]


def likelihoods(backend: LocalBackend, asked: Sequence[tuple[Tokens, Sequence[Tokens]]], most: int = MOST) -> list[list[Likely]]:
    """For each (prompt, its replies): what each reply's tokens are to the model, the end token included where it is one of them.

    A prompt goes through the model once for all its replies. Raises ConfigError where not even one reply fits into memory.
    """
    return over_replies(backend, asked, _likely, most)


@torch.inference_mode()
def over_replies(
    backend: LocalBackend,
    asked: Sequence[tuple[Tokens, Sequence[Tokens]]],
    read: Callable[[Tokens, Tensor], T],
    most: int = MOST,
    keep: bool = False,
) -> list[list[T]]:
    """The same, of what `read` makes of a reply and the log probabilities [tokens + 1, V] before each of its tokens and after the last.

    `keep`: what was computed of the prompts serves a next call, until the backend is told to forget OWNER.
    """
    words = backend.model.config.get_text_config().vocab_size
    found: list[list[Any]] = [[None] * len(replies) for _, replies in asked]
    waiting = [_Piece(prompt, [r], [(i, k)]) for i, (prompt, replies) in enumerate(asked) for k, r in enumerate(replies)]
    try:
        while waiting:
            batch, rest = _first(waiting, most // words)
            try:
                for piece, logps in zip(batch, _pass(backend, batch), strict=True):
                    for (i, k), reply, logps_T_V in zip(piece.wanted, piece.replies, logps, strict=True):
                        found[i][k] = read(reply, logps_T_V)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                if backend.engine is not None:
                    backend.engine.budget.free()
                if sum(len(piece.replies) for piece in batch) == 1:
                    backend.out_of_memory(error)
                most = min(most, words * len(batch) * _width(batch[0])) // 2
                waiting = [_Piece(piece.prompt, [r], [at]) for piece in waiting for r, at in zip(piece.replies, piece.wanted, strict=True)]
                continue
            waiting = rest
    finally:
        if not keep:
            backend.forget(OWNER)
    return found


def _width(piece: _Piece) -> int:
    return 1 + sum(map(len, piece.replies))


def _first(waiting: Sequence[_Piece], columns: int) -> tuple[list[_Piece], list[_Piece]]:
    """What goes into the next pass of at most so many columns, at least one reply: replies to one prompt in a row, rows of like width."""
    rows: list[_Piece] = []
    for piece in waiting:
        last = rows[-1] if rows else None
        if last is not None and last.prompt == piece.prompt and _width(last) + _width(piece) - 1 <= columns:
            rows[-1] = _Piece(last.prompt, last.replies + piece.replies, last.wanted + piece.wanted)
        else:
            rows.append(piece)
    rows.sort(key=_width, reverse=True)  # the first is the widest, and all of a pass are as wide as that
    widest = _width(rows[0])
    count = sum(_width(row) >= LIKE * widest for row in rows[: max(1, columns // widest)])
    return rows[:count], rows[count:]


def _pass(backend: LocalBackend, batch: Sequence[_Piece]) -> Iterator[list[Tensor]]:
    """Log probabilities [tokens + 1, V] before each token of each reply of each piece, and after the last."""
    engine: Engine | None = backend.engine
    if engine is not None:
        yield from engine.continuations([Context(piece.prompt, OWNER) for piece in batch], [piece.replies for piece in batch])
        return
    for piece in batch:
        rows = [(piece.prompt, reply) for reply in piece.replies]
        each = 1 if backend.max_batch == 1 else len(rows)  # those of some models cannot be padded: each runs alone then
        yield [logps for i in range(0, len(rows), each) for logps in plain.continuations(backend.model, rows[i : i + each], backend.pad_id)]


def _likely(reply: Tokens, logps_T_V: Tensor) -> Likely:
    before_T_V = logps_T_V[: len(reply)]
    chosen_T = before_T_V.gather(-1, torch.tensor(reply, device=before_T_V.device)[:, None])
    entropy_T = torch.special.entr(before_T_V.exp()).sum(-1)
    return Likely(float(chosen_T.double().sum()), float(entropy_T.double().sum()))
