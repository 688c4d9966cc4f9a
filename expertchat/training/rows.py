"""From preference pairs to rows of token ids: what was sampled, after what the policy was shown; and in which order they are trained."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from expertchat.backends.rendering import Renderer
from expertchat.preferences.pairs import Choice
from expertchat.records import Candidate, Message, PreferencePair

Row = dict[str, Any]
"""Token ids: prompt_ids, and what follows it; of a pair chosen_ids and rejected_ids, as TRL's collator takes it; of a group `replies`, a
list of such lists, with what else the method says of each of them."""


def row_of(pair: PreferencePair, renderer: Renderer) -> Row:
    """A pair's tokens: the sampled ones where it has them, else (older folders, pairs by hand) those of its texts.

    Of texts too the prompt is the one that a policy is shown, and a reply that was cut has no end.
    """
    if pair.ids is not None:
        return {"prompt_ids": pair.ids.prompt, "chosen_ids": pair.ids.chosen, "rejected_ids": pair.ids.rejected}
    prompt, *replies = ([Message(m["role"], m["content"]) for m in part] for part in (pair.prompt, pair.chosen, pair.rejected))  # type: ignore[arg-type]
    cut = [bool(pair.provenance.get(f"cut_{which}", 0)) for which in ("chosen", "rejected")]
    chosen, rejected = (renderer.reply(prompt, reply[0], end=not was_cut) for reply, was_cut in zip(replies, cut, strict=True))
    return {"prompt_ids": renderer.answered(prompt), "chosen_ids": chosen, "rejected_ids": rejected}


def prompt_of(choice: Choice, renderer: Renderer) -> list[int]:
    """The tokens that a policy was shown in a history; where they are not known, those of its text."""
    return list(choice.prompt_ids) if choice.prompt_ids is not None else renderer.answered(choice.prompt)


def reply_of(choice: Choice, candidate: Candidate, renderer: Renderer) -> list[int]:
    """A candidate's tokens: the sampled ones where it has them, else those of its text; one that was cut has no end."""
    return candidate.ids or renderer.reply(choice.prompt, Message("assistant", candidate.text), end=not candidate.cut)


def length(row: Row) -> int:
    """Tokens of the prompt with the longest reply."""
    replies = row["replies"] if "replies" in row else [ids for name, ids in row.items() if name != "prompt_ids"]
    return len(row["prompt_ids"]) + max(map(len, replies))


def arranged(pairs: Sequence[PreferencePair], seed: int, round: int) -> list[PreferencePair]:
    """A round's pairs in an order that the seed draws, in which length plays no part."""
    order = list(pairs)
    random.Random(f"{seed} update {round}").shuffle(order)
    return order


def alike(rows: Sequence[Row], batch: int, surplus: int) -> list[Any]:
    """The rows of each step of `batch` sorted by length, so that those that are computed together have little padding.

    The last `surplus` rows are given up before anything is sorted: always the longest ones else.
    """
    rows = rows[: len(rows) - surplus]
    steps = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    return [row for step in steps for row in sorted(step, key=length)]
