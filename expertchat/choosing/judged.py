"""The texts of a prompt before its judges: all that one says is asked once, kept, and comes to numbers and outcomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from expertchat.backends.asking import Flow, together
from expertchat.choosing.config import CHOOSER, OF_PAIRS, BestOfNConfig
from expertchat.choosing.prompts import Asked
from expertchat.choosing.said import Said, item_of, number, pair_of, won
from expertchat.choosing.store import ChoosingFolder
from expertchat.config import ConfigError
from expertchat.evaluation import truth
from expertchat.lab.config import JudgeConfig
from expertchat.lab.judge import LabJudge
from expertchat.records import Candidate, ExpertRef, Item, Opinion

Numbers = dict[str, float | None]
"""By the name of a text: what it is worth to one judge."""


@dataclass(frozen=True)
class Texts:
    """What answers one prompt: its candidates, and the texts that the choice is held against besides the first of them (base, rule)."""

    candidates: Sequence[Said]
    others: Mapping[str, Said]

    @property
    def same(self) -> list[int]:
        """For each candidate the first one that says the same."""
        first: dict[str, int] = {}
        return [first.setdefault(said.text.strip(), i) for i, said in enumerate(self.candidates)]

    @property
    def against(self) -> dict[str, Said]:
        """All that the choice is held against."""
        return {"first": self.candidates[0], **self.others}

    def like(self, other: str) -> list[int]:
        """The candidates that say the same as a text that the choice is held against."""
        text = self.against[other].text.strip()
        return [i for i, said in enumerate(self.candidates) if said.text.strip() == text]


def texts_of(candidates: Sequence[Candidate], others: Mapping[str, Said], ref: ExpertRef) -> Texts:
    """The texts of a prompt, of candidates that `ref` wrote."""
    return Texts([Said(one.id, one.text, ref, one.tokens) for one in candidates], others)


def compares(judge: LabJudge, config: JudgeConfig) -> bool:
    """Whether a judge compares two texts and gives one alone no number."""
    return judge.ref.form == "pairwise" or config.rule in OF_PAIRS


def check_chooser(judge: LabJudge, config: JudgeConfig) -> None:
    """Raise ConfigError for a chooser that compares, which of a reward model its folder alone says."""
    if compares(judge, config):
        raise ConfigError(
            f"judges.{CHOOSER}: {judge.ref.model} compares two texts, but who chooses gives each a number; take one that scores, "
            "or chooser=expected"
        )


def check_truth(config: BestOfNConfig, asked: Sequence[Asked]) -> None:
    """Raise ConfigError for judges who go by the truth where nobody knows it."""
    wanted = [name for name, judge in config.judges.items() if judge.rule == "truth"]
    known = truth.load().topics
    if not wanted or (config.model.family == "world" and any(one.topic in known for one in asked)):
        return
    why = (
        f"of {asked[0].topic!r} and the other topics nothing is known" if config.model.family == "world"
        else f"of what {config.model.path} says nobody knows it"
    )  # fmt: skip
    remedy = "take a judge that reads: chooser=expected, judge=pairwise, judge=reward_model, or judge=length"
    raise ConfigError([f"judges.{name}: the truth is that of the embedded world, and {why}; {remedy}" for name in wanted])


@dataclass(frozen=True)
class Judges:
    """The judges of a run at work. `world`: the truth of what is said may be known."""

    config: BestOfNConfig
    judges: Mapping[str, LabJudge]
    store: ChoosingFolder
    world: bool
    given: Counter[str] = field(default_factory=Counter)  # opinions by prompt

    def rated(self, name: str, asked: Asked, texts: Texts, only: Sequence[int] | None = None) -> Flow[Numbers]:
        """What each text is worth to a judge that rates; of texts that are equal the first is judged, and one that is blank is not.

        `only`: the places of the candidates that are judged, None: all.
        """
        same = texts.same
        wanted = sorted({same[i] for i in (range(len(same)) if only is None else only)})
        said = [one for one in (*(texts.candidates[i] for i in wanted), *texts.others.values()) if not one.says_nothing]
        opinions = yield from together([self._opinions(name, item_of(asked, one, self.world)) for one in said])
        config, lab = self.config.judges.root[name], self.config.lab
        found = {one.name: number(own, config, lab) if own else None for one, own in zip(said, opinions, strict=True)}
        numbers = {texts.candidates[i].name: found.get(texts.candidates[first].name) for i, first in enumerate(same)}
        return numbers | {one.name: found.get(one.name) for one in texts.others.values()}

    def after(
        self, asked: Asked, texts: Texts, by_chooser: Numbers, chosen: Sequence[int | None]
    ) -> Flow[dict[str, Any]]:
        """What all judges say, the chooser's numbers among it: the fields of a Selection."""
        picked = sorted({i for i in chosen if i is not None})
        found: dict[str, Numbers] = {CHOOSER: by_chooser}
        duels: dict[str, Numbers] = {}
        for name, judge in self.config.judges.items():
            if name == CHOOSER:
                continue
            if compares(self.judges[name], judge):
                duels[name] = yield from self._duels(name, asked, texts, picked)
            else:
                few = self.config.again == "chosen" and judge.model is not None
                found[name] = yield from self.rated(name, asked, texts, sorted({0, *picked}) if few else None)
        return {
            "scores": {name: [numbers[one.name] for one in texts.candidates] for name, numbers in found.items()},
            "others": {name: {key: numbers[one.name] for key, one in texts.others.items()} for name, numbers in found.items()},
            "duels": duels,
            "texts": {key: one.text for key, one in texts.others.items()},
            "opinions": self.given.pop(asked.id, 0),
            "same": texts.same,
            "like": {key: texts.like(key) for key in texts.against},
        }

    def _duels(self, name: str, asked: Asked, texts: Texts, picked: Sequence[int]) -> Flow[Numbers]:
        """What each choice comes to against each text; what says the same is a tie that nobody is asked about."""
        pairs = [
            (f"{i}-{key}", pair_of(asked, texts.candidates[i], other, self.world))
            for key, other in texts.against.items()
            for i in picked
            if i not in texts.like(key) and not other.says_nothing
        ]
        opinions = yield from together([self._opinions(name, item) for _, item in pairs])
        config, lab = self.config.judges.root[name], self.config.lab
        return {key: won(own, config, lab) if own else None for (key, _), own in zip(pairs, opinions, strict=True)}

    def _opinions(self, name: str, item: Item) -> Flow[list[Opinion]]:
        """All that a judge says of an item, asked for unless it is on disk; nothing where it cannot judge it."""
        judge = self.judges[name]
        if not judge.takes(item):
            return []
        owed = judge.owes(item, 0)
        self.given[item.id.partition("/")[0]] += len(owed)
        if all(one in self.store.opinions for one in owed):
            return [self.store.opinions[one] for one in owed]
        said = yield from judge.flow(item, 0)
        for one in said:
            self.store.keep_opinion(one)
        return said
