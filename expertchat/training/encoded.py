"""Rows as a model is shown them: token ids of the prompt, and of the completion, which alone is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from expertchat.backends.rendering import Renderer
from expertchat.config import ConfigError
from expertchat.records import Demonstration, Message
from expertchat.text.sentences import in_line

SHOWN = 3  # rows that a warning names


@dataclass(frozen=True)
class Encoded:
    """A row. `ended`: its last token ends a reply; `cut`: tokens that were left away behind train.max_tokens."""

    row: Demonstration
    prompt: list[int]
    completion: list[int]
    ended: bool
    cut: int = 0

    @property
    def tokens(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass
class Checked:
    """All rows that can be trained or measured, and what is to be said of them."""

    rows: list[Encoded] = field(default_factory=list)
    too_long: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def part(self, name: str) -> list[Encoded]:
        return [one for one in self.rows if one.row.part == name]


class Encoder:
    """Tokens by a model's tokenizer. A `rendered` prompt stands as it is written, all else goes through the chat template."""

    def __init__(self, renderer: Renderer, tokenizer: Any, most: int) -> None:
        self.renderer, self.tokenizer, self.most = renderer, tokenizer, most
        self.end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else renderer.end_token()

    def encode(self, row: Demonstration) -> Encoded:
        """The tokens of a row, whole. Raises ConfigError for a chat that the template refuses."""
        reply = row.completion[0]["content"]
        if row.rendered is not None:
            prompt, completion = self._plain(row.rendered, reply)
        else:
            messages = self._fitting(row.prompt)
            prompt, completion = self.renderer.answered(messages), self.renderer.reply(messages, Message("assistant", reply))
        if not prompt:  # the first token has none before it, so nothing can be learnt of it
            prompt, completion = completion[:1], completion[1:]
        return Encoded(row, prompt, completion, bool(completion) and completion[-1] in self.ends)

    @property
    def ends(self) -> set[int]:
        """The tokens that end a reply."""
        return {one for one in (self.tokenizer.eos_token_id, self.renderer.end_token()) if one is not None}

    def says(self, completion: Sequence[int]) -> bool:
        """Whether a completion has a token besides those that end it and the space that a template sets before any answer."""
        return any(token not in self.ends and self.tokenizer.decode([token]).strip() for token in completion)

    def _plain(self, prompt: str, reply: str) -> tuple[list[int], list[int]]:
        """A text and what follows it, as they stand, with the token that ends a text. No text becomes a special token."""
        before, after = self.renderer.plain(prompt), self.renderer.plain(reply)
        ids: list[int] = list(self.tokenizer(before, verbose=False)["input_ids"])
        if ids and self.end is not None and ids[-1] == self.end and len(ids) > 1:  # a tokenizer that ends every text by itself
            ids = ids[:-1]
        whole = list(self.tokenizer(before + after, add_special_tokens=True, verbose=False)["input_ids"])
        if whole and whole[-1] == self.end and len(whole) > 1:
            whole = whole[:-1]
        if whole[: len(ids)] != ids:  # the prompt's last token and the reply's first make one
            whole = [*ids, *self.tokenizer(after, add_special_tokens=False, verbose=False)["input_ids"]]
        return ids, whole[len(ids) :] + ([self.end] if self.end is not None else [])

    def _fitting(self, prompt: Sequence[dict[str, str]]) -> list[Message]:
        """A row's messages; a system text stands before the first user's where the template takes none."""
        messages = [Message(one["role"], one["content"]) for one in prompt]  # type: ignore[arg-type]
        if self.renderer.system_role is False and messages[0].role == "system" and len(messages) > 1:
            system, first, *rest = messages
            return [Message(first.role, f"{system.content}\n\n{first.content}"), *rest]
        return messages


def checked(rows: Sequence[Demonstration], encoder: Encoder, cut: bool) -> Checked:
    """All rows as tokens, those that are too long cut or left out. Raises ConfigError where nothing would be trained as it is meant."""
    found, dropped, cuts, open_ends = Checked(), list[str](), list[str](), list[str]()
    for row in rows:
        one = encoder.encode(row)
        if not encoder.says(one.completion):
            dropped.append(row.id)
            continue
        if one.tokens > encoder.most:
            kept = max(0, encoder.most - len(one.prompt))
            if not cut or not kept:
                found.too_long.append(row.id)
                continue
            cuts.append(row.id)
            one = Encoded(row, one.prompt, one.completion[:kept], False, len(one.completion) - kept)
        elif not one.ended:
            open_ends.append(row.id)
        found.rows.append(one)
    _refuse(rows, found, dropped, encoder)
    if dropped:
        found.warnings.append(f"{_of(dropped, len(rows))} have no token of their answer after the template, and are left out")
    if found.too_long:
        limit = f"{encoder.most} tokens (train.max_tokens)"
        found.warnings.append(f"{_of(found.too_long, len(rows))} are longer than {limit}, and are left out")
    if cuts:
        found.warnings.append(f"{_of(cuts, len(rows))} are cut at {encoder.most} tokens (train.max_tokens): they teach no end")
    if open_ends:
        found.warnings.append(
            f"{_of(open_ends, len(rows))} are trained without a token that ends a reply: the model may not learn to stop"
            + ("; its tokenizer and its template have none" if not encoder.ends else "")
        )
    return found


def _refuse(rows: Sequence[Demonstration], found: Checked, dropped: Sequence[str], encoder: Encoder) -> None:
    """Raise ConfigError where a part of the rows is gone as a whole."""
    if rows and len(dropped) == len(rows):
        raise ConfigError(
            "data: the mask has not one trained token: the template drops the answers of all rows; take another data.template"
        )
    if not found.part("train"):
        lost = [row for row in rows if row.part == "train"]
        why = f"all {len(lost)} rows are longer than {encoder.most} tokens (train.max_tokens)" if lost else "no row is for training"
        raise ConfigError(f"data: {why}; raise train.max_tokens, or give other rows")


def _of(ids: Sequence[str], count: int) -> str:
    more = ", ..." if len(ids) > SHOWN else ""
    return f"{len(ids)} of {count} rows ({', '.join(in_line(one) for one in ids[:SHOWN])}{more})"
