"""Which columns of a table are what: those that are named, else those with a usual name; what is not clear is asked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from expertchat.config import ConfigError, near
from expertchat.sources.config import LEAVE, ColumnsConfig

SIDES = ("a", "b", "c")
# One text: the names that such a column has. All that are there count, so two of them are asked about.
TEXT = (
    "text", "response", "answer", "output", "completion", "reply", "generation", "prediction", "post", "posts", "post_text", "content",
    "body", "comment", "comment_text", "messages", "conversation", "conversations",
)  # fmt: skip
# Two texts or three: by one pattern each, {} stands for a, b, c or for 1, 2, 3.
PATTERNS = (
    "{}", "response_{}", "answer_{}", "output_{}", "text_{}", "reply_{}", "completion_{}", "generation_{}", "post_{}", "comment_{}",
    "conversation_{}", "response{}", "answer{}", "output{}", "text{}",
)  # fmt: skip
PREFERENCE = ("chosen", "rejected")
SYSTEMS = ("system_{}", "model_{}", "{}_model", "{}_system")
# Of the others the first that is there.
OTHERS: dict[str, tuple[str, ...]] = {
    "id": ("id", "item", "item_id", "uid", "key"),
    "topic": ("topic", "title", "theme", "category"),
    "prompt": ("prompt", "instruction", "question", "query", "input", "user"),
    "reference": ("reference", "reference_answer", "gold", "gold_answer", "target", "ideal", "expected"),
    "group": ("group", "dialogue", "dialogue_id", "conversation_id", "thread", "thread_id", "question_id", "prompt_id", "cluster"),
    "type": ("type", "typ", "question_type", "fragetyp"),
    "system": ("system", "model", "model_name", "generator", "author"),
    "truth": ("truth",),
}
LABEL = ("label", "human", "human_label", "human_rating", "winner", "preference", "human_preference", "rating")


@dataclass(frozen=True)
class Columns:
    """The columns that were chosen. `texts`: one, two or three; `systems` and `truths`: as many, None where there is none.

    `preference`: the two are called chosen and rejected, so their order says which one is preferred.
    """

    texts: tuple[str, ...]
    systems: tuple[str | None, ...]
    truths: tuple[str | None, ...]
    others: dict[str, str] = field(default_factory=dict)  # id, topic, prompt, reference, group, type, label -> column
    preference: bool = False

    def told(self) -> str:
        """The choice in words."""
        judged = self.texts[0] if len(self.texts) == 1 else " against ".join(self.texts)
        more = [f"{name} {column}" for name, column in self.others.items()]
        more += [f"system {column}" for column in self.systems if column]
        return f"judged {'is' if len(self.texts) == 1 else 'are'} {judged}{''.join(f', {one}' for one in more)}"


def find_columns(wanted: ColumnsConfig, there: Sequence[str], name: str) -> Columns:
    """The columns of the table `name`, which has the columns `there`. Raises ConfigError with what is lacking or not clear."""
    finder = _Finder(wanted, there, name)
    texts, preference = finder.texts()
    others = finder.others(texts)
    if finder.problems:
        shown = ", ".join(repr(one[:40]) for one in there[:30])
        raise ConfigError([f"{problem} (the columns are {shown})" for problem in finder.problems])
    several = len(texts) > 1
    systems = tuple(finder.side("system", i, texts) if several else others.get("system") for i in range(len(texts)))
    truths = tuple(finder.side("truth", i, texts) if several else others.get("truth") for i in range(len(texts)))
    kept = {key: column for key, column in others.items() if key not in ("system", "truth")}
    return Columns(tuple(texts), systems, truths, kept, preference)


def context_columns(wanted: ColumnsConfig, there: Sequence[str], name: str) -> dict[str, str]:
    """The columns of a table of which no text is judged: id, topic, prompt, reference, group -> column. Raises ConfigError."""
    finder = _Finder(wanted, there, name)
    found = finder.others([])
    if finder.problems:
        raise ConfigError(finder.problems)
    return {key: column for key, column in found.items() if key in ("id", "topic", "prompt", "reference", "group")}


class _Finder:
    """Looks for the columns of one table and gathers what is wrong."""

    def __init__(self, wanted: ColumnsConfig, there: Sequence[str], name: str) -> None:
        self.wanted, self.there, self.name = wanted, there, name
        self.problems: list[str] = []
        self.plain = {_plain(column): column for column in reversed(there)}

    def named(self, key: str) -> str | None:
        """The column that the config names for `key`."""
        wanted = getattr(self.wanted, key)
        if wanted is None or wanted == LEAVE:
            return None
        if wanted in self.there:
            return str(wanted)
        if found := self.plain.get(_plain(wanted)):
            return found
        self.problems.append(f"source.columns.{key}={wanted}: {self.name} has no such column{near(wanted, self.there)}")
        return None

    def first(self, key: str, names: Sequence[str]) -> str | None:
        """The named column, else the first with one of these names."""
        if getattr(self.wanted, key) is not None:
            return self.named(key)
        return next((self.plain[name] for name in names if name in self.plain), None)

    def texts(self) -> tuple[list[str], bool]:
        """The one, two or three columns that are judged; and whether they are chosen and rejected."""
        given = [key for key in ("text", *SIDES) if getattr(self.wanted, key) not in (None, LEAVE)]
        if given:
            if given not in (["text"], ["a", "b"], ["a", "b", "c"]):
                shown = ", ".join(f"source.columns.{key}" for key in given)
                self.problems.append(f"{shown}: name one text, or a and b, or a, b and c")
                return [], False
            found = [column for key in given if (column := self.named(key))]
            return found, tuple(map(_plain, found)) == PREFERENCE
        single = [self.plain[name] for name in TEXT if name in self.plain]
        sets = self._sets()
        if sets:  # where there are sides, a text column beside them is context
            single = []
        if len(sets) > 1 or len(single) > 1:
            several = [" and ".join(one) for one in sets] or single
            how = "source.columns.a=NAME source.columns.b=NAME" if sets else "source.columns.text=NAME"
            listed = "; ".join(several)
            self.problems.append(f"source.path: {self.name} has several columns that could be judged: {listed}; name them: {how}")
            return [], False
        if not sets and not single:
            self.problems.append(
                f"source.path: {self.name} has no column with a usual name for a text; name it with source.columns.text=NAME, or two with "
                "source.columns.a=NAME source.columns.b=NAME"
            )
            return [], False
        found = sets[0] if sets else single
        return found, tuple(map(_plain, found)) == PREFERENCE

    def _sets(self) -> list[list[str]]:
        """The pairs and triples of columns with usual names."""
        found = []
        for pattern in PATTERNS:
            for marks in ("abc", "123"):
                names = [pattern.format(mark) for mark in marks]
                if names[0] in self.plain and names[1] in self.plain and pattern.format("0") not in self.plain:
                    found.append([self.plain[name] for name in names if name in self.plain])
        if all(name in self.plain for name in PREFERENCE):
            found.append([self.plain[name] for name in PREFERENCE])
        return found

    def others(self, texts: Sequence[str]) -> dict[str, str]:
        """The column of each other key that has one; none of them twice, and none that is judged."""
        found: dict[str, str] = {}
        for key, names in OTHERS.items():
            column = self.first(key, names) if key not in ("system", "truth") or len(texts) < 2 else None
            if column is not None and column not in texts and column not in found.values():
                found[key] = column
        labels = [self.plain[name] for name in LABEL if name in self.plain and self.plain[name] not in texts]
        if self.wanted.label is not None:
            labels = [column] if (column := self.named("label")) else []
        if len(labels) > 1:
            listed = ", ".join(labels)
            self.problems.append(
                f"source.path: {self.name} has several columns that could be what people said: {listed}; name one: "
                f"source.columns.label=NAME, or source.columns.label={LEAVE}"
            )
        return found | ({"label": labels[0]} if labels else {})

    def side(self, key: str, i: int, texts: Sequence[str]) -> str | None:
        """The column that goes with one side of a pair: system_a, model_1, chosen_model, truth_a."""
        column = f"{key}_{SIDES[i]}"
        marks = [SIDES[i], str(i + 1), _plain(texts[i])]
        patterns = SYSTEMS if key == "system" else ("truth_{}",)
        return self.first(column, [pattern.format(mark) for mark in marks for pattern in patterns])


def _plain(name: str) -> str:
    """A column's name as it is compared: "Response A" is response_a, "Posts..." posts."""
    return re.sub(r"\W+", "_", name.casefold()).strip("_")
