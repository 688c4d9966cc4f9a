"""The texts of items, measured one by one: a row a text, a figure a column, and for each that is not there the reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from expertchat.backends.base import Embedder, EmbedRequest, Valuer
from expertchat.judging import scored
from expertchat.judging.roles import REWARD_MODEL
from expertchat.lab.models import judgement_of
from expertchat.metrics.columns import LIKELY, Column, of_type
from expertchat.metrics.likely import Likelihood, Likelihoods
from expertchat.metrics.overlap import Bleu, Chrf, rouge
from expertchat.records.lab import Item
from expertchat.sources.read import cluster_of
from expertchat.text.likeness import blank, overlap, weight, words
from expertchat.text.measures import distinct_n, repeated_sentences

EMPTY = "the text is empty"
UNCOUNTED = "they were not counted where it was made; a model counts them: model=NAME"
Values = dict[str, float | None]


@dataclass
class Row:
    """One text of an item. `values`: a figure a column, None with its reason in `problems`; `counts`: what adds up over texts."""

    item: Item
    place: int
    values: Values = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    counts: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return self.item.texts[self.place].text

    @property
    def system(self) -> str | None:
        return self.item.texts[self.place].system

    @property
    def group(self) -> str:
        """What it is drawn with: groups of two sources may be called alike, as dialogues of two runs and rows of two tables are."""
        return cluster_of(self.item)

    @property
    def earlier(self) -> list[str]:
        """What was said before it; nothing, of a whole dialogue's text."""
        return [] if self.item.whole else [turn.text for turn in self.item.turns if not blank(turn.text)]

    @property
    def context(self) -> str:
        """What it may be expected to be about: the turns before it, else the topic."""
        return "\n".join(self.earlier) or self.item.topic

    def lacks(self, column: Column) -> str | None:
        """Why this text has no such figure, as far as that is known before anything is measured."""
        if blank(self.text):
            return EMPTY
        match column.needs:
            case "reference" if self.item.reference is None:
                return "there is no reference"
            case "reference" if blank(self.item.reference or ""):
                return "the reference is empty"
            case "turns" if not self.earlier:
                return "nothing was said before"
            case "type" if self.item.type is None:
                return "it has no type"
            case "context" if blank(self.context):
                return "there is neither a turn before it nor a topic"
        return None

    def put(self, name: str, value: float | None, why: str = "") -> None:
        self.values[name] = value if value is not None and math.isfinite(value) else None
        if self.values[name] is None:
            self.problems[name] = why or "is no number"


@dataclass
class Tools:
    """What some measures need."""

    stemmer: str = "none"
    bleu: Bleu | None = None
    chrf: Chrf | None = None
    likelihoods: Likelihoods | None = None
    embedder: Embedder | None = None
    classifiers: Mapping[str, Valuer] = field(default_factory=dict)


def measure(items: Sequence[Item], columns: Sequence[Column], tools: Tools, tell: Callable[[int], None] = lambda done: None) -> list[Row]:
    """A row for each text of the items, in their order; `tell` hears how many texts a model has scored."""
    rows = [Row(item, place) for item in items for place in range(len(item.texts))]
    for row in rows:
        for column in columns:
            if (why := row.lacks(column)) is not None:
                row.put(column.name, None, why)
        for name, (value, why) in _by_itself(row, tools, {column.name for column in columns}).items():
            row.put(name, value, why)
    named = {column.name for column in columns}
    if tools.likelihoods is not None:
        told = [row for row in rows if not blank(row.text)]
        if any(column.measure == "likelihood" for column in columns):
            _likelihoods(told, tools.likelihoods, named, tell)
        if "perplexity_reference" in named:
            _of_references([row for row in told if "perplexity_reference" not in row.problems], tools.likelihoods, tell)
    for name, classifier in tools.classifiers.items():
        _types([row for row in rows if of_type(name) not in row.problems], name, classifier)
    if tools.embedder is not None:
        _similarities(rows, tools.embedder, named)
    return rows


def _by_itself(row: Row, tools: Tools, named: set[str]) -> dict[str, tuple[float | None, str]]:
    """The figures that need no model, of those columns whose text has what they need."""
    text, reference, found = row.text, row.item.reference or "", dict[str, tuple[float | None, str]]()
    wanted = named - row.problems.keys()
    if "rouge1_f1" in wanted:
        found |= {name: (value, "") for name, value in rouge(text, reference, tools.stemmer).items()}
    if "bleu" in wanted and tools.bleu is not None:
        score, row.counts["bleu"] = tools.bleu.score(text, reference)
        found["bleu"] = score, ""
    if "chrf" in wanted and tools.chrf is not None:
        found["chrf"] = tools.chrf.score(text, reference), ""
    for n in (1, 2):
        if f"distinct_{n}" in wanted:
            found[f"distinct_{n}"] = distinct_n([text], n), f"it has fewer than {n} words"
    if "repeats" in wanted:
        found["repeats"] = repeated_sentences(text), ""
    if "repeats_earlier" in wanted:
        found["repeats_earlier"] = repeated_sentences(text, row.earlier), ""
    if "likeness_earlier" in wanted:
        found["likeness_earlier"] = max(overlap(earlier, text) for earlier in row.earlier), ""
    if "words" in wanted:
        found["words"] = weight(words(text)), ""
    if "characters" in wanted:
        found["characters"] = float(len(text)), ""
    if "tokens" in wanted:
        tokens = row.item.texts[row.place].tokens
        found["tokens"] = (None if tokens is None else float(tokens)), UNCOUNTED
    return found


def _likelihoods(rows: Sequence[Row], tool: Likelihoods, named: set[str], tell: Callable[[int], None]) -> None:
    for row, found in zip(rows, tool.score([(row.item, row.text) for row in rows], tell), strict=True):
        figures = likelihood_figures(found)
        for name in named & figures.keys():
            row.put(name, figures[name], found.problem or "")
        if found.logp is not None:
            row.counts["likelihood"] = [found.logp, found.tokens, found.size]
            if row.item.texts[row.place].tokens is None and "tokens" in named:
                row.problems.pop("tokens", None)
                row.put("tokens", found.tokens)
        if found.note:
            row.notes.append(found.note)


def _of_references(rows: Sequence[Row], tool: Likelihoods, tell: Callable[[int], None]) -> None:
    """How likely the references are to the model, each in the place of the text; those of several texts to one prompt once."""
    asked = {(row.item.topic, tuple(row.item.turns), row.item.reference): row for row in rows}
    given = tool.score([(row.item, row.item.reference or "") for row in asked.values()], tell)
    likelihood = dict(zip(asked, given, strict=True))
    for row in rows:
        found = likelihood[row.item.topic, tuple(row.item.turns), row.item.reference]
        row.put("perplexity_reference", likelihood_figures(found)["perplexity"], found.problem or "")
        if found.logp is not None:
            row.counts["reference_likelihood"] = [found.logp, found.tokens, found.size]


def _types(rows: Sequence[Row], name: str, classifier: Valuer) -> None:
    """Whether a classifier finds a text to be of its type: 1 where no other is likelier; and how likely that type is."""
    requests = [
        scored.request(judgement_of(row.item, row.place, REWARD_MODEL, 0, {}, 0, False), row.item.type) for row in rows
    ]  # fmt: skip
    for row, found in zip(rows, classifier.value(requests), strict=True):
        right = None if found.likeliest is None else float(found.likeliest == row.item.type)
        row.put(of_type(name), right, found.problem or "the classifier has one label alone")
        row.put(of_type(name, LIKELY), found.score, found.problem or "")


def likelihood_figures(found: Likelihood) -> Values:
    """The columns of a likelihood: its sum, by token and by byte, and the perplexity exp(-sum / tokens)."""
    names = ("logp", "logp_tokens", "logp_bytes", "logp_token", "logp_byte", "perplexity")
    if found.logp is None:
        return dict.fromkeys(names)
    by_token = found.logp / found.tokens
    by_byte = found.logp / found.size if found.size else None
    return dict(zip(names, (found.logp, found.tokens, found.size, by_token, by_byte, math.exp(min(700.0, -by_token))), strict=True))


def _similarities(rows: Sequence[Row], embedder: Embedder, named: set[str]) -> None:
    """Cosines of sentence embeddings, all texts in one batch."""
    wanted = [
        (row, name, row.text, other)
        for row in rows
        for name, other in (("similarity_reference", row.item.reference or ""), ("similarity_context", row.context))
        if name in named and name not in row.problems
    ]
    texts = list(dict.fromkeys(chain.from_iterable((text, other) for _, _, text, other in wanted)))
    found = embedder.embed([EmbedRequest(text, text) for text in texts])
    vectors: Mapping[str, Sequence[float]] = {text: one.vector for text, one in zip(texts, found, strict=True)}
    for row, name, text, other in wanted:
        row.put(name, sum(a * b for a, b in zip(vectors[text], vectors[other], strict=True)))
