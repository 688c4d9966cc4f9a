"""What a model thinks of each token of a text: how likely it is, what else might have stood there, and how sure the model is.

All at temperature 1 over the whole vocabulary, from an output layer in fp32: what a sampler leaves out is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from expertchat.backends.base import Decoding
from expertchat.backends.decoding import BROKEN, choose, uniforms
from expertchat.backends.likelihood import OWNER, over_replies
from expertchat.backends.local import LocalBackend
from expertchat.backends.scoring import Tokens
from expertchat.backends.streaming import TAIL
from expertchat.config import ConfigError

CHUNK = 256  # tokens whose probabilities are there at once: a long text of a large vocabulary would take gigabytes
BROKEN_MODEL = "the model's probabilities are no numbers; check its weights, or the adapter's; in fp16, set dtype=bf16 or fp32"
FIVE = 5  # the share of these many likeliest tokens is told


class Looked(NamedTuple):
    """One place of a text. `id`, `logp` and `rank` (1: the likeliest) are None behind the last token, where nothing stands yet."""

    id: int | None
    logp: float | None  # natural
    rank: int | None
    entropy: float  # in nats, of the choice that was made here
    five: float  # the share of the probability that the five likeliest tokens hold
    top: list[tuple[int, float]]  # the likeliest tokens with their probabilities


def looks(backend: LocalBackend, prompt: Tokens, reply: Tokens, top: int) -> list[Looked]:
    """Each token of `reply` after `prompt` (one token at least), and last the place behind them, with the `top` likeliest tokens.

    Raises ConfigError where the two do not fit into the context, or a probability is no number.
    """
    check_room(backend, len(prompt) + len(reply))
    starts = range(0, max(1, len(reply)), CHUNK)
    asked = [((*prompt, *reply[:i]), [reply[i : i + CHUNK]]) for i in starts]
    found = [chunk for (chunk,) in over_replies(backend, asked, _reader(top))]
    return [one for chunk in found[:-1] for one in chunk[:-1]] + found[-1]


def check_room(backend: LocalBackend, tokens: int) -> None:
    """Raise ConfigError where so many tokens do not fit into the model's context."""
    holds = backend.info.context_length
    if holds and tokens > holds:
        raise ConfigError(f"model {backend.info.name}: prompt and text take {tokens} tokens, but the context holds {holds}; shorten them")


def _reader(top: int) -> Callable[[Tokens, Tensor], list[Looked]]:
    def read(reply: Tokens, logps_T_V: Tensor) -> list[Looked]:
        probs_T_V = logps_T_V.exp()
        held = probs_T_V.topk(min(max(top, FIVE), probs_T_V.shape[-1]), dim=-1)
        if not bool(held.values.isfinite().all()):
            raise ConfigError(BROKEN_MODEL)
        entropy_T = torch.special.entr(probs_T_V).sum(-1).tolist()
        five_T = held.values[:, :FIVE].sum(-1).tolist()
        chosen_T_1 = torch.tensor(reply, dtype=torch.long, device=logps_T_V.device)[:, None]
        logp_T_1 = logps_T_V[: len(reply)].gather(-1, chosen_T_1)
        rank_T = ((logps_T_V[: len(reply)] > logp_T_1).sum(-1) + 1).tolist()
        logp_T = logp_T_1[:, 0].double().tolist()
        best = [list(zip(*one, strict=True))[:top] for one in zip(held.indices.tolist(), held.values.tolist(), strict=True)]
        own = [*zip(reply, logp_T, rank_T, strict=True), (None, None, None)]
        return [Looked(*one, *more) for one, *more in zip(own, entropy_T, five_T, best, strict=True)]

    return read


def write(backend: LocalBackend, prompt: Tokens, count: int, decoding: Decoding, key: str = "tokens") -> Tokens:
    """`count` tokens after `prompt`, greedy or sampled with noise that is keyed; fewer where the model ends. Raises ConfigError."""
    check_room(backend, len(prompt) + count)
    noise, ids = uniforms(backend.seed, key, count), list[int]()
    try:
        while len(ids) < count and not (ids and ids[-1] in backend.end_ids):
            asked = [((*prompt, *ids), [()])]
            ((logps_V,),) = over_replies(backend, asked, lambda _, logps_T_V: logps_T_V[0], keep=True)
            word = int(choose(logps_V[None], decoding, torch.tensor([noise[len(ids)]])))
            if word == BROKEN:
                raise ConfigError(BROKEN_MODEL)
            ids.append(word)
    finally:
        backend.forget(OWNER)
    return tuple(ids)


# -- what tokens say --------------------------------------------------------------------------------------------------------


class Spelling:
    """Tokens as text, each with what it adds to the text before it."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def text(self, ids: Sequence[int]) -> str:
        """Special tokens are written out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def pieces(self, before: Sequence[int], ids: Sequence[int]) -> list[str]:
        """What each of `ids` adds; "" where the bytes of a character are not all there yet: the last of its tokens adds all of it."""
        found, whole, done = list[str](), [*before[-TAIL:], *ids], len(before[-TAIL:])
        start = 0  # decoded from here on: some tokenizers drop a space at the beginning of a text
        for i in range(done, len(whole)):
            old, new = self.text(whole[start:done]), self.text(whole[start : i + 1])
            if new.endswith("\ufffd") and i + 1 < len(whole):
                found.append("")
                continue
            found.append(new[len(old) :])
            start, done = max(start, i + 1 - TAIL), i + 1
        return found

    def after(self, before: Sequence[int], token: int) -> str:
        """What one token would add; its name in the vocabulary where that is no whole character."""
        tail = list(before[-TAIL:])
        old, new = self.text(tail), self.text([*tail, token])
        piece = new[len(old) :] if new.startswith(old) else self.text([token])
        return piece if piece and "\ufffd" not in piece else self.name(token)

    def name(self, token: int) -> str:
        """The token as its vocabulary has it."""
        return str(self.tokenizer.convert_ids_to_tokens(token))
