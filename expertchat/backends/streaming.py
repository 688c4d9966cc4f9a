"""Following a running batch: the tokens and text of each row, when a row is done, and the text so far for whoever watches."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import StoppingCriteria

from expertchat.backends.base import Completion, OnText
from expertchat.text.thinking import first_stop

TAIL = 5  # prompt tokens decoded together with the first new ones: some tokenizers drop a space at the start of a text


class Pieces:
    """A tokenizer that remembers the text of single tokens. The `hidden` ones are decoded to nothing (see vocabulary.Vocabulary)."""

    def __init__(self, tokenizer: Any, hidden: Collection[int] = ()) -> None:
        self._tokenizer, self.hidden = tokenizer, frozenset(hidden)
        self._texts: dict[int, str] = {}

    def decode(self, ids: list[int]) -> str:
        shown = [i for i in ids if i not in self.hidden]
        return str(self._tokenizer.decode(shown, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def may_end(self, token: int, stops: Sequence[str]) -> bool:
        """Whether a token can be the last one of a stop string: only then is the text worth looking at."""
        text = self._texts.get(token)
        if text is None:
            text = self._texts[token] = self.decode([token])
        # A lone token may lose its space, or be a part of a character.
        return "\ufffd" in text or any(stop[-1] in text or stop[-1].isspace() for stop in stops)


class Row:
    """One running reply. `limit` new tokens at most; `stop` strings end it, and its text ends before the first one.

    In a thinking block no stop string ends anything. `thinking`: the reply begins in one.
    """

    def __init__(
        self, pieces: Pieces, index: int, prompt: Sequence[int], limit: int, stop: Sequence[str] = (), thinking: bool = False
    ) -> None:
        self.index, self.limit = index, limit
        self.finish: Literal["stop", "length"] | None = None
        self.ids: list[int] = []  # new ones, the end token included
        self._special = self._ended = False
        self._pieces, self._stop, self._thinking = pieces, [s for s in stop if s], thinking
        self._before = list(prompt[-TAIL:])
        self._ids = list(self._before)
        self._shown = 0  # what is decoded already: _ids up to _read; the next piece is decoded from _shown on
        self._read = len(self._ids)
        self._text = ""

    def add(self, token: int, ends: bool) -> None:
        """Take one new token; `ends` says that it is an end token."""
        self.ids.append(token)
        if ends:
            self.finish, self._ended = "stop", True
            return
        self._special |= token in self._pieces.hidden
        self._ids.append(token)
        if self._stop and self._pieces.may_end(token, self._stop) and self._cut(self._decoded()) is not None:
            self.finish = "stop"
        elif self.tokens >= self.limit:
            self.finish = "length"

    def would_stop(self, new: Sequence[int]) -> bool:
        """Whether a stop string would have ended the reply, had it been these tokens."""
        if not self._stop or not new or not self._pieces.may_end(new[-1], self._stop):
            return False
        text = self._pieces.decode([*self._before, *new])[len(self._pieces.decode(self._before)) :]
        return self._cut(text) is not None

    @property
    def tokens(self) -> int:
        """How many are new, the end token included."""
        return len(self.ids)

    def completion(self, prompt: Sequence[int], seconds: float) -> Completion:
        """What became of the request with this prompt."""
        unshown: Literal["special", "stop"] | None = "special" if self._special else None
        finish: Literal["stop", "length"] = self.finish or "length"
        if self._cut(self._decoded(last=True), last=True) is not None:
            unshown, finish = "stop", "stop"
        return Completion(self.text(last=True), self.tokens, seconds, finish, tuple(prompt), tuple(self.ids), self._ended, unshown)

    def text(self, last: bool = False) -> str:
        """The text so far; a character whose bytes are not all there yet waits, unless this is the `last` call."""
        text = self._decoded(last)
        cut = self._cut(text, last)
        return text if cut is None else text[:cut]

    def _cut(self, text: str, last: bool = False) -> int | None:
        return first_stop(text, self._stop, self._thinking, last)

    def _decoded(self, last: bool = False) -> str:
        if self._read < len(self._ids):
            before = self._pieces.decode(self._ids[self._shown : self._read])
            after = self._pieces.decode(self._ids[self._shown :])
            if last or (len(after) > len(before) and not after.endswith("\ufffd")):
                self._text += after[len(before) :]
                self._shown, self._read = self._read, len(self._ids)
        return self._text


class BeamStops(StoppingCriteria):
    """Says which beams of a batch of rows have come to a stop string. `prompt`: tokens before the new ones, padding included."""

    def __init__(self, rows: Sequence[Row], prompt: int) -> None:
        self.rows, self.prompt = list(rows), prompt

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        beams = len(input_ids) // len(self.rows)
        found = [self.rows[i // beams].would_stop(ids) for i, ids in enumerate(input_ids[:, self.prompt :].tolist())]
        return torch.tensor(found, device=input_ids.device)


class Watch(StoppingCriteria):
    """Feeds each new token to its row, says which rows are done, and announces texts at most every `interval` seconds."""

    def __init__(self, rows: Sequence[Row], end_ids: Sequence[int], on_text: OnText | None = None, interval: float = 0.125) -> None:
        self.rows, self.end_ids, self.on_text, self.interval = list(rows), frozenset(end_ids), on_text, interval
        self._announced = time.monotonic()
        self._last: dict[int, str] = {}

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        for row, token in zip(self.rows, input_ids[:, -1].tolist(), strict=True):
            if row.finish is None:
                row.add(token, token in self.end_ids)
        if self.on_text is not None and time.monotonic() - self._announced >= self.interval:
            self.announce()
        return torch.tensor([row.finish is not None for row in self.rows], device=input_ids.device)

    def announce(self, last: bool = False) -> None:
        """Tell the watcher about every text that grew."""
        if self.on_text is None:
            return
        for row in self.rows:
            text = row.text(last)
            if text != self._last.get(row.index, ""):
                self._last[row.index] = text
                self.on_text(row.index, text)
        self._announced = time.monotonic()
