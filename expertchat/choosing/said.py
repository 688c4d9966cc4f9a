"""What judges say of a prompt's texts: each as an item of the judges' lab, and what their opinions come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expertchat.choosing.prompts import Asked
from expertchat.evaluation.figures import RATINGS_APART, outcome
from expertchat.judging.wim import mean_rating
from expertchat.lab.config import JudgeConfig, LabConfig
from expertchat.lab.judge import OVERALL
from expertchat.lab.models import judging_of
from expertchat.records import ExpertRef, Item, Opinion, Text
from expertchat.sources.runs import system_name, truth_of
from expertchat.text.likeness import blank

SCORES_APART = 1e-5  # of a reward model
WON = {"first": 1.0, "tie": 0.5, "second": 0.0}


@dataclass(frozen=True)
class Said:
    """A text that answers a prompt, with who wrote it (None: a rule). `name` is its item's id."""

    name: str
    text: str
    ref: ExpertRef | None = None
    tokens: int | None = None

    @property
    def says_nothing(self) -> bool:
        return blank(self.text)


def item_of(asked: Asked, said: Said, world: bool) -> Item:
    """One text that is judged. `world`: what it is worth can be told by the embedded world's facts."""
    return Item(id=said.name, texts=[_text(asked, said, world)], **_about(asked))


def pair_of(asked: Asked, one: Said, other: Said, world: bool) -> Item:
    """Two texts that are compared."""
    texts = [_text(asked, said, world) for said in (one, other)]
    return Item(id=f"{one.name}-{other.name.rpartition('/')[2]}", texts=texts, **_about(asked))


def _about(asked: Asked) -> dict[str, Any]:
    prompt = asked.prompt
    return {
        "source": prompt.source, "topic": asked.topic, "turns": list(asked.turns), "subject": prompt.subject, "group": prompt.group,
        "reference": prompt.reference,
    }  # fmt: skip


def _text(asked: Asked, said: Said, world: bool) -> Text:
    truth = truth_of(said.ref or RULE_OF_THE_WORLD, asked.topic, asked.turns, said.text) if world else None
    system = None if said.ref is None else system_name(said.ref.model, said.ref.policy_version, said.ref.trained)
    return Text(text=said.text, system=system or "rule", truth=truth, tokens=said.tokens, candidate=said.name)


RULE_OF_THE_WORLD = ExpertRef(family="world", model="rule")  # what a rule says there is made of what was said there


def number(opinions: Sequence[Opinion], judge: JudgeConfig, lab: LabConfig) -> float | None:
    """What the opinions of one text come to: its one number, or the mean over the categories by their weights; None where one lacks."""
    found = {one.category: one.number for one in opinions}
    if set(found) == {OVERALL}:
        return found[OVERALL]
    return mean_rating(found, judging_of(lab, judge).shares)


def won(opinions: Sequence[Opinion], judge: JudgeConfig, lab: LabConfig) -> float | None:
    """What the opinions of a pair in both orders come to for its first text: 1 where it wins in each, 0 where it loses, else 0.5 (a tie);
    of several principles the mean by their weights. None where an answer lacks."""
    by_category: dict[str, list[Opinion]] = {}
    for one in opinions:
        by_category.setdefault(one.category, []).append(one)
    found: dict[str, float | None] = {}
    for category, said in by_category.items():
        choices = {one.choice for one in said}
        found[category] = None if None in choices else WON[choices.pop() or "tie"] if len(choices) == 1 else 0.5
    return found[OVERALL] if set(found) == {OVERALL} else mean_rating(found, judging_of(lab, judge).shares)


def apart(judge: JudgeConfig) -> float:
    """How far two numbers of a judge must differ to differ: what else is in a batch changes the last digits of a model's."""
    return {"rule": 0.0, "reward_model": SCORES_APART}.get(judge.kind, RATINGS_APART)


def of_numbers(one: float | None, other: float | None, least: float) -> float | None:
    """1, 0.5 or 0: which of two numbers is higher; None where one lacks."""
    return None if one is None or other is None else outcome(one, other, least)


def faults_of(opinions: Mapping[str, Opinion]) -> dict[str, str]:
    """Why judges have not answered: judge -> the commonest reason."""
    reasons: dict[str, dict[str, int]] = {}
    for one in opinions.values():
        if not one.answered:
            own = reasons.setdefault(one.judge, {})
            own[one.problem or "no answer"] = own.get(one.problem or "no answer", 0) + 1
    return {judge: max(own, key=lambda why: own[why]) for judge, own in reasons.items()}
