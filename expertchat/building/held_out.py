"""What an evaluation uses and no pair may hold, and which texts are the same, or nearly so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from expertchat.building.config import HeldOutConfig
from expertchat.config import ConfigError
from expertchat.evaluation.histories import Held
from expertchat.folder.jsonl import read_records
from expertchat.labels.export import prompt_of
from expertchat.records import Item
from expertchat.sources.config import SourceConfig
from expertchat.sources.read import read_items
from expertchat.text.likeness import blank
from expertchat.text.written import topic_key

GRAMS = 3  # letters of a group
BLOCK = 2048  # texts that are compared with all others at once


def said_before(prompt: Iterable[dict[str, str]]) -> str:
    """What a prompt asks: all of it but its system text, which many share."""
    return "\n".join(message["content"] for message in prompt if message["role"] != "system")


def vectors(texts: Sequence[str]) -> Any:
    """A row of unit length for each text: how often each group of letters stands in it."""
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(analyzer="char_wb", ngram_range=(GRAMS, GRAMS), n_features=1 << 18, alternate_sign=False).transform(texts)


def doubles(texts: Sequence[str], near: float) -> tuple[int, int]:
    """(texts that stand among them before, texts that are no such ones but near to one before)."""
    seen: dict[str, None] = dict.fromkeys(texts)
    own = list(seen)
    if len(own) < 2:
        return len(texts) - len(own), 0
    rows, close = vectors(own), 0
    for start in range(0, len(own), BLOCK):
        alike = (rows[start : start + BLOCK] @ rows.T).tocoo()
        found = {int(i) for i, k, value in zip(alike.row, alike.col, alike.data, strict=True) if k < start + i and value >= near - 1e-9}
        close += len(found)
    return len(texts) - len(own), close


@dataclass(frozen=True)
class HeldOut:
    """Topics, prompts and texts of an evaluation, and whether something stands among them, or is near to one of them."""

    topics: frozenset[str]
    prompts: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    near: float = 1.0
    _found: dict[tuple[str, str], bool] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        return not (self.topics or self.prompts or self.texts)

    def topic(self, topic: str) -> bool:
        return topic_key(topic) in self.topics

    def prompt(self, prompt: list[dict[str, str]]) -> bool:
        return self._holds("prompts", said_before(prompt))

    def text(self, text: str) -> bool:
        return self._holds("texts", text)

    @cached_property
    def _rows(self) -> dict[str, Any]:
        return {name: vectors(list(texts)) if texts else None for name, texts in (("prompts", self.prompts), ("texts", self.texts))}

    def _holds(self, kind: str, text: str) -> bool:
        if (kind, text) not in self._found:
            rows = self._rows[kind]
            alike = 0.0 if rows is None or blank(text) else (vectors([text]) @ rows.T).max()
            self._found[kind, text] = bool(alike >= self.near - 1e-9)
        return self._found[kind, text]


def held_out(config: HeldOutConfig, say: Callable[[str], None]) -> HeldOut:
    """What a config holds out. Raises ConfigError for a path that cannot be read."""
    topics, prompts, texts, problems = set(map(topic_key, config.topics)), list[str](), list[str](), list[str]()
    for path in config.path:
        try:
            items = [*_histories(Path(path).expanduser())] or read_items(SourceConfig(path=[path]), say)
        except ConfigError as error:
            problems += [f"held_out.path: {one.removeprefix('source.path: ').replace('source.path=', '')}" for one in error.problems]
            continue
        topics |= {topic_key(item.topic) for item in items if item.topic}
        prompts += [said_before(prompt_of(item)) for item in items]
        texts += [text.text for item in items for text in item.texts]
    if problems:
        raise ConfigError(problems)
    kept = tuple(text for text in dict.fromkeys(prompts) if not blank(text))
    return HeldOut(frozenset(topics), kept, tuple(dict.fromkeys(texts)), config.near)


def _histories(folder: Path) -> Iterable[Item]:
    """The histories on which a training run evaluates, with the base's replies."""
    for path in sorted((folder / "evaluations").glob("base-*.jsonl")):
        for one in read_records(path, Held, "name another path"):
            if one.reply is not None:
                about = {"topic": one.topic, "turns": one.turns, "subject": one.learner, "group": one.topic, "source": ""}
                yield Item.model_validate({"id": one.id, "texts": [{"text": one.reply.text}], **about})
