"""What is measured of each text: the columns of the table, by the measures that bring them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from expertchat.metrics.config import Measure

TYPE = "type"  # what the classifier is called that is named without a name
RIGHT, LIKELY = "of_type", "type_probability"


class Column(NamedTuple):
    """One figure of a text. `digits`: behind the point, where it is shown. `mean`: whether its mean over texts says anything.

    `needs`: what a text must have for it besides words of its own. `least`, `most`: between which a mean can lie, so that its interval
    reaches no further.
    """

    name: str
    measure: Measure
    title: str
    digits: int = 3
    mean: bool = True
    needs: Literal["", "reference", "turns", "context", "type"] = ""
    least: float = 0.0
    most: float = 1.0


_ROUGE = tuple(
    Column(f"rouge{kind}_{part}", "rouge", f"ROUGE-{kind} {title}", needs="reference")
    for kind in "12L"
    for part, title in (("precision", "precision"), ("recall", "recall"), ("f1", "F1"))
)
COLUMNS: tuple[Column, ...] = (
    *_ROUGE,
    Column("bleu", "bleu", "BLEU of a text", 2, needs="reference", most=100.0),
    Column("chrf", "chrf", "chrF2 of a text", 2, needs="reference", most=100.0),
    Column("logp", "likelihood", "log-likelihood", 2, mean=False),
    Column("logp_tokens", "likelihood", "tokens scored", 0, mean=False),
    Column("logp_bytes", "likelihood", "bytes scored", 0, mean=False),
    Column("logp_token", "likelihood", "log-likelihood a token", least=-math.inf, most=0.0),
    Column("logp_byte", "likelihood", "log-likelihood a byte", least=-math.inf, most=0.0),
    Column("perplexity", "likelihood", "perplexity of a text", 2, least=1.0, most=math.inf),
    Column("perplexity_reference", "reference_likelihood", "perplexity of a reference", 2, needs="reference", least=1.0, most=math.inf),
    Column("distinct_1", "distinct", "distinct-1"),
    Column("distinct_2", "distinct", "distinct-2"),
    Column("repeats", "repeats", "repeats in itself"),
    Column("repeats_earlier", "repeats", "repeats with earlier turns", needs="turns"),
    Column("likeness_earlier", "repeats", "likeness to an earlier turn", needs="turns"),
    Column("words", "length", "words", 1, most=math.inf),
    Column("tokens", "length", "tokens", 1, most=math.inf),
    Column("characters", "length", "characters", 1, most=math.inf),
    Column("similarity_reference", "similarity", "similarity to the reference", needs="reference", least=-1.0),
    Column("similarity_context", "similarity", "similarity to the context", needs="context", least=-1.0),
)


def of_type(name: str, what: str = RIGHT) -> str:
    """The column of what a classifier says of types: RIGHT or LIKELY; that of the classifier called TYPE bears no name.

    >>> of_type("type"), of_type("rewards", LIKELY)
    ('of_type', 'type_probability_rewards')
    """
    return what if name == TYPE else f"{what}_{name}"


def _types(name: str) -> tuple[Column, Column]:
    by = "" if name == TYPE else f", by {name}"
    return (
        Column(of_type(name), "type", f"of the right type{by}", needs="type"),
        Column(of_type(name, LIKELY), "type", f"probability of the right type{by}", needs="type"),
    )


def columns_of(measures: Sequence[str], classifiers: Iterable[str] = ()) -> list[Column]:
    """The columns that measures bring, in the order of the table; those of types for each classifier."""
    typed = [column for name in classifiers for column in _types(name)]
    return [column for column in (*typed, *COLUMNS) if column.measure in measures]
