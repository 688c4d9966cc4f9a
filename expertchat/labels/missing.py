"""The score of what people say is missing: the same cosine as that of a judge's WIM response."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from expertchat.backends.base import Embedder, EmbedRequest
from expertchat.judging.nothing import says_nothing
from expertchat.judging.wim import cosine
from expertchat.records.lab import Item, Label


def wim_scores(labels: Iterable[Label], items: Mapping[str, Item], embedder: Embedder, empty_score: float = 1.0) -> dict[str, float | None]:
    """Label id -> cosine of the text and of what the annotator says is missing in it, -1..1; high: what is missing is something else.

    Who says that nothing is missing gives `empty_score`; who says nothing has no score, and is not in the mapping. None where a vector is
    none. The text of a whole dialogue is all that its subject says.
    """
    wanted = [label for label in labels if label.missing and label.missing.strip() and label.item in items and label.choice is None]
    scores: dict[str, float | None] = {label.id: empty_score for label in wanted if says_nothing(label.missing or "")}
    rest = [label for label in wanted if label.id not in scores]
    texts = [text for label in rest for text in (items[label.item].texts[label.place].text, label.missing or "")]
    vectors = [one.vector for one in embedder.embed([EmbedRequest(str(n), text) for n, text in enumerate(texts)])] if texts else []
    return scores | {label.id: cosine(one, two) for label, one, two in zip(rest, vectors[::2], vectors[1::2], strict=True)}
