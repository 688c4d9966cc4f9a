"""Keys and values of many rows in one block of memory, as a cache that transformers' models write to and read from.

A row holds its tokens from the left; rows have different lengths. Several branches may share a row: then each query's mask says which
tokens are its own. Nothing is copied when a batch advances, and the memory is shared by all layers of a device.
Shapes: S rows, H key heads, C capacity (the last place is a dump for padding), D dimensions, T new tokens, L visible tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Cache


class LayerShape(NamedTuple):
    """What one layer keeps for a token: `heads` keys and values of `dim` numbers."""

    heads: int
    dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes(self) -> int:
        return 2 * self.heads * self.dim * self.dtype.itemsize


@dataclass
class _Part:
    """The layers of equal shape on one device."""

    shape: LayerShape
    layers: list[int]
    kv: Tensor  # [layers, 2, S, H, C, D]
    flat: list[tuple[Tensor, Tensor]]  # of each layer: its keys and its values as [S * H * C, D]
    index: Tensor  # [B * H * T] places in them that the current pass writes


class Slab(Cache):
    """`rows` x `capacity` tokens; grows by `fit`. `aim` says where the next forward pass of the model writes and reads."""

    def __init__(self, shapes: Sequence[LayerShape], rows: int, capacity: int) -> None:
        super().__init__(layers=[])
        self.shapes, self.rows, self.capacity = tuple(shapes), rows, capacity + 1
        kinds: dict[LayerShape, list[int]] = {}
        for layer, shape in enumerate(shapes):
            kinds.setdefault(shape, []).append(layer)
        self.parts = [_Part(shape, layers, torch.empty(0), [], torch.empty(0)) for shape, layers in kinds.items()]
        for part in self.parts:
            self._set(part, self._empty(part))
        self._where = {layer: (part, i) for part in self.parts for i, layer in enumerate(part.layers)}
        self._views: list[tuple[Tensor, Tensor]] = []

    def _empty(self, part: _Part) -> Tensor:
        # Zeros and not whatever was there: a NaN behind a mask is still a NaN after the product with a zero weight.
        size = (len(part.layers), 2, self.rows, part.shape.heads, self.capacity, part.shape.dim)
        return torch.zeros(size, dtype=part.shape.dtype, device=part.shape.device)

    def _set(self, part: _Part, kv: Tensor) -> None:
        part.kv = kv
        part.flat = [(layer[0].view(-1, part.shape.dim), layer[1].view(-1, part.shape.dim)) for layer in kv]
        self._starts: dict[tuple[torch.device, int, int, int], Tensor] = {}

    @property
    def bytes(self) -> int:
        return sum(part.kv.numel() * part.kv.element_size() for part in self.parts)

    @property
    def dump(self) -> int:
        """The place that padding is written to."""
        return self.capacity - 1

    def fit(self, rows: int, capacity: int) -> bool:
        """Make room for at least so many rows and tokens; what is there stays. Says whether it grew."""
        if rows <= self.rows and capacity < self.capacity:
            return False
        old_rows, old_capacity = self.rows, self.capacity - 1
        # Growing costs a copy, so a CPU grows by half; on a GPU, where old and new must both fit, to what is asked for.
        spare = 1.0 if self.shapes[0].device.type == "cuda" else 1.5
        if rows > self.rows:
            self.rows = max(rows, int(self.rows * spare))
        if capacity >= self.capacity:
            self.capacity = max(capacity, int(old_capacity * spare)) + 1
        for part in self.parts:
            new = self._empty(part)
            new[:, :, :old_rows, :, :old_capacity] = part.kv[..., :old_capacity, :]
            self._set(part, new)
        return True

    # -- a pass of the model ----------------------------------------------------------------------------------------

    def aim(self, first: int, places_B_T: Tensor, length: int) -> None:
        """The next pass runs on B rows from `first` on, writes to their `places_B_T` and reads their first `length` tokens."""
        batch = places_B_T.shape[0]
        views: dict[int, tuple[Tensor, Tensor]] = {}
        for part in self.parts:
            starts_B_H_1 = self._row_starts(part, first, batch)
            part.index = (starts_B_H_1 + places_B_T.to(part.shape.device)[:, None, :]).view(-1)
            seen = part.kv[:, :, first : first + batch, :, :length].unbind(0)
            views.update({layer: (kv[0], kv[1]) for layer, kv in zip(part.layers, seen, strict=True)})
        self._views = [views[layer] for layer in range(len(views))]

    def _row_starts(self, part: _Part, first: int, batch: int) -> Tensor:
        """Where each head of each row begins in `flat`: [B, H, 1]."""
        heads = part.shape.heads
        key = (part.shape.device, heads, first, batch)
        if key not in self._starts:
            if len(self._starts) > 64:
                self._starts.clear()
            count = torch.arange(first * heads, (first + batch) * heads, device=part.shape.device)
            self._starts[key] = (count * self.capacity).view(batch, heads, 1)
        return self._starts[key]

    def seen(self, layer: int) -> tuple[Tensor, Tensor]:
        """The keys and values [B, H, L, D] that the pass reads."""
        return self._views[layer]

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Called by each attention layer: its new keys and values [B, H, T, D] go in, all that are visible come out."""
        part, i = self._where[layer_idx]
        keys, values = part.flat[i]
        keys.index_copy_(0, part.index, key_states.reshape(-1, part.shape.dim))
        values.index_copy_(0, part.index, value_states.reshape(-1, part.shape.dim))
        return self.seen(layer_idx)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # positions and masks are always given

    # -- rows -------------------------------------------------------------------------------------------------------

    def read(self, row: int, start: int, stop: int) -> list[Tensor]:
        """A copy of a row's tokens: for each part [layers, 2, H, tokens, D]."""
        return [part.kv[:, :, row, :, start:stop].clone() for part in self.parts]

    def write(self, row: int, start: int, pieces: Sequence[Sequence[Tensor]]) -> None:
        """Put pieces of `read` into a row, one after the other."""
        for i, part in enumerate(self.parts):
            joined = torch.cat([piece[i].to(part.shape.device, non_blocking=True) for piece in pieces], dim=3)
            part.kv[:, :, row, :, start : start + joined.shape[3]] = joined

    def copy(self, row: int, source: int, length: int) -> None:
        """Copy the first `length` tokens of row `source` to another row."""
        for part in self.parts:
            part.kv[:, :, row, :, :length] = part.kv[:, :, source, :, :length]

    def pick(self, places_B: Tensor, picked_B: Tensor) -> None:
        """In the first B rows, copy the token at `picked_B` to `places_B`."""
        for part in self.parts:
            rows_B, to_B, from_B = (x.to(part.shape.device) for x in (torch.arange(len(places_B)), places_B, picked_B))
            part.kv[:, :, rows_B, :, to_B] = part.kv[:, :, rows_B, :, from_B]
