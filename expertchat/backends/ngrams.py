"""No run of n tokens twice in a prompt and its reply (no_repeat_ngram): which words would complete one that was there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor


class Ngrams:
    """The runs of `n` tokens of one growing row, by their first n - 1. Words of `free` are never ruled out: an end is no repetition."""

    def __init__(self, n: int, free: Collection[int] = ()) -> None:
        self.n, self.free = n, free
        self._next: dict[tuple[int, ...], set[int]] = {}
        self._read = 0  # tokens whose runs are known

    def ruled_out(self, ids: Sequence[int]) -> set[int]:
        """The words that would complete a run which `ids` holds already; `ids` is what was given before, and more."""
        n = self.n
        for end in range(max(self._read, n - 1), len(ids)):
            if ids[end] not in self.free:
                self._next.setdefault(tuple(ids[end - n + 1 : end]), set()).add(ids[end])
        self._read = len(ids)
        return self._next.get(tuple(ids[len(ids) - n + 1 :]), set()) if len(ids) >= n - 1 else set()


def without(logits_B_V: Tensor, ruled_out: Iterable[Iterable[int]]) -> Tensor:
    """The logits, of each row those of the words that are ruled out -inf; a row that would have no word left stays as it is."""
    rows, words = list[int](), list[int]()
    for row, banned in enumerate(ruled_out):
        inside = [word for word in banned if word < logits_B_V.shape[-1]]
        if len(inside) < logits_B_V.shape[-1]:
            rows += [row] * len(inside)
            words += inside
    if not rows:
        return logits_B_V
    where = torch.tensor(rows, device=logits_B_V.device), torch.tensor(words, device=logits_B_V.device)
    return logits_B_V.index_put(where, logits_B_V.new_tensor(float("-inf")))


class NoRepeats(LogitsProcessor):
    """The same for `generate`, whose rows may change places from step to step (beams)."""

    def __init__(self, n: int, free: Collection[int] = ()) -> None:
        self.n, self.free = n, free

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return without(scores, [Ngrams(self.n, self.free).ruled_out(ids) for ids in input_ids.tolist()])
