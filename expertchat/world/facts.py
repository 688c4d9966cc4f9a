"""The facts of the embedded world and its ground truth: what a text says of a topic, true, repeated, wrong or off topic.

topics/*.txt hold a block a topic and a line a fact: `aspect | clause | paraphrase | paraphrase`. The third wording is held out: no expert
is ever trained on it. Each expert knows 9 of a topic's 14 facts; they share 4, and together they know all.

The topics come in three parts, a file each: what a learner is trained on, what its checkpoint is chosen by, and what is held out until
the end. The experts know them all alike: what is held out is held out from learning by preferences.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.resources import files
from typing import Literal, get_args

from expertchat.records import Speaker
from expertchat.text.sentences import asks, sentences

KNOWN = 9
Part = Literal["train", "choose", "held_out"]
PARTS: tuple[Part, ...] = get_args(Part)
Kind = Literal["fact", "wrong", "off topic", "question", "remark", "unsure"]

REMARKS = ("That is a good point.", "Good question.", "Thank you for that.", "I agree.", "That is interesting.", "Let me answer that.")
LEADS = ("Also, {c}.", "I would add that {c}.", "Remember that {c}.", "In addition, {c}.", "It is also true that {c}.", "As for {a}, {c}.")
UNSURE = ("I am not sure about {a}.", "I do not know much about {a}.")
NOTHING_NEW = ("I have shared what I know about {t}.", "I have nothing new to add on {t}.")
OPENING = "Let us talk about {t}."

_LEAD = re.compile(r"^(also, |i would add that |remember that |in addition, |it is also true that |as for [^,]*, )")
_UNSURE = ("i am not sure about ", "i do not know much about ", "i do not know that topic")
_REMARK = tuple(r.lower() for r in REMARKS)
_TALK = ("let us talk about ", "i have shared what i know", "i have nothing new to add", "i can discuss ")


@dataclass(frozen=True)
class Fact:
    """One true fact: the aspect it is about and three wordings of the same claim."""

    aspect: str
    clauses: tuple[str, str, str]


@dataclass(frozen=True)
class Label:
    """What one sentence is. `fact` is an index into the topic's facts; `again`: it was said before in the same dialogue."""

    kind: Kind
    fact: int | None = None
    again: bool = False


@dataclass
class Truth:
    """What a text carries of a topic's facts. Indices point into World.topics[topic]."""

    labels: list[Label] = field(default_factory=list)

    @property
    def facts(self) -> list[int]:
        """True facts in order of their first mention, those said earlier in the dialogue left out."""
        return [x.fact for x in self.labels if x.fact is not None and not x.again]

    @property
    def repeats(self) -> int:
        return sum(x.again for x in self.labels)

    def count(self, kind: Kind) -> int:
        return sum(x.kind == kind for x in self.labels)

    @property
    def claims(self) -> int:
        """Sentences that claim something: true, wrong or off topic."""
        return sum(x.kind in ("fact", "wrong", "off topic") for x in self.labels)

    def ratings(self) -> dict[str, int]:
        """The ratings that these labels deserve: what the embedded judges are trained towards."""
        return ratings(self.labels)


def ratings(labels: Sequence[Label]) -> dict[str, int]:
    """Rules of the world, category -> 1..10. With no claim at all, accuracy and relevance are 5."""
    new = len({x.fact for x in labels if x.kind == "fact" and not x.again})
    counts = {kind: sum(x.kind == kind for x in labels) for kind in ("fact", "wrong", "off topic", "question", "remark", "unsure")}
    claims = counts["fact"] + counts["wrong"] + counts["off topic"]
    remark, question, unsure = (counts[k] > 0 for k in ("remark", "question", "unsure"))
    return {
        "depth": (1, 2, 4, 5, 7, 8, 9, 10)[min(new, 7)],
        "accuracy": 1 + round(9 * counts["fact"] / claims) if claims else 5,
        "relevance": 1 + round(9 * (claims - counts["off topic"]) / claims) if claims else 5,
        "clarity": max(1, 10 - 3 * sum(x.again for x in labels)),
        "engagement": min(10, 3 + 5 * question + 2 * remark),
        "humanness": 3 + 3 * remark + 2 * unsure + 2 * question,
    }


class World:
    """Topics, facts, who knows what, and the reading of texts.

    Read from the content of a file of topics for each part; raises ValueError that names the line.
    """

    def __init__(self, train: str, choose: str = "", held_out: str = "") -> None:
        self.topics: dict[str, list[Fact]] = {}
        self._parts: dict[Part, tuple[str, ...]] = {}
        for part, text in zip(PARTS, (train, choose, held_out), strict=True):
            read = _read(part, text)
            if twice := [topic for topic in read if topic in self.topics]:
                raise ValueError(f"{part}: topics of another part: {', '.join(twice)}")
            self.topics |= read
            self._parts[part] = tuple(read)

    def part(self, part: Part) -> tuple[str, ...]:
        """The topics of one part, in the file's order."""
        return self._parts[part]

    @cached_property
    def clauses(self) -> dict[str, tuple[str, int]]:
        """Lower-case clause -> (topic, index of the fact)."""
        return {c.lower(): (t, i) for t, facts in self.topics.items() for i, f in enumerate(facts) for c in f.clauses}

    @cache  # noqa: B019 - one World lives as long as the program
    def known(self, expert: Speaker, topic: str) -> frozenset[int]:
        """Indices of the facts that an expert knows: 9 of 14, by a draw that depends on the topic's name alone."""
        order = list(range(len(self.topics[topic])))
        random.Random(f"known {topic}").shuffle(order)
        return frozenset(order[:KNOWN] if expert == "a" else order[-KNOWN:])

    def label(self, sentence: str, topic: str) -> Label:
        """What one sentence is, without regard to what was said before."""
        text = sentence.strip().lower()
        if asks(text):
            return Label("question")
        if text.startswith(_UNSURE):
            return Label("unsure")
        if text in _REMARK or text.rstrip(".!") + "." in _REMARK or text.startswith(_TALK):
            return Label("remark")
        found = self.clauses.get(_LEAD.sub("", text.rstrip(".!? ")))
        if found is None:
            return Label("wrong")
        return Label("fact", found[1]) if found[0] == topic else Label("off topic")

    def read(self, texts: Sequence[str], topic: str) -> list[Truth]:
        """The truth of each turn of a dialogue, a fact that was said in an earlier turn or sentence marked `again`."""
        seen: set[int] = set()
        out = []
        for text in texts:
            truth = Truth()
            for sentence in sentences(text):
                label = self.label(sentence, topic)
                if label.fact is not None:
                    label = Label(label.kind, label.fact, label.fact in seen)
                    seen.add(label.fact or 0)
                truth.labels.append(label)
            out.append(truth)
        return out

    def missing(self, truths: Sequence[Truth], topic: str, expert: Speaker) -> list[int]:
        """Facts that `expert` knows and that nobody has said, in the topic's order."""
        said = {i for truth in truths for i in truth.facts}
        return [i for i in sorted(self.known(expert, topic)) if i not in said]


def _read(name: str, text: str) -> dict[str, list[Fact]]:
    """Topic -> its facts. Raises ValueError that names the line."""
    topics: dict[str, list[Fact]] = {}
    for n, line in enumerate(map(str.strip, text.splitlines()), 1):
        if line.startswith("# "):
            topics[line[2:]] = []
        elif line:
            parts = tuple(part.strip() for part in line.split("|"))
            if not topics or len(parts) != 4 or not all(parts):
                raise ValueError(f"{name}, line {n}: expected `aspect | clause | clause | clause` under a `# topic`: {line!r}")
            next(reversed(topics.values())).append(Fact(parts[0], parts[1:]))  # type: ignore[arg-type]
    return topics


def sources() -> tuple[str, ...]:
    """The text of each part's file, as it comes with the package."""
    return tuple(files("expertchat.world").joinpath("topics").joinpath(f"{part}.txt").read_text(encoding="utf-8") for part in PARTS)


@cache
def load() -> World:
    """The world that comes with the package."""
    return World(*sources())
