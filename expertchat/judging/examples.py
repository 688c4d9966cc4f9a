"""Few-shot examples: which a judgement shows, in which order, with which numbers. An example anchors, so all three are drawn."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from expertchat.judging.view import Shown
from expertchat.text.written import Example


def drawn(examples: Sequence[Example], count: int, categories: Iterable[str], draw: str) -> tuple[Shown, ...]:
    """`count` of the examples (all, where there are fewer), drawn by `draw`: the same draw shows the same.

    The rating in a category is drawn from the example's span, each number with the same chance. One that has no span there shows none.

    >>> drawn([Example(topic="tea", text="Green tea.", ratings=7)], 2, ["depth", "clarity"], "0 c0001")
    (Shown(topic='tea', text='Green tea.', ratings={'depth': 7, 'clarity': 7}),)
    """
    rng, names = random.Random(f"{draw} examples"), list(categories)
    chosen = rng.sample(list(examples), min(count, len(examples)))
    spans = [(one, {name: span for name in names if (span := one.span(name)) is not None}) for one in chosen]
    return tuple(Shown(one.topic, one.text, {name: rng.randint(*span) for name, span in found.items()}) for one, found in spans)
