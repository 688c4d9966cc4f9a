"""Judges that are models: one rates each text by itself, one compares the two of a pair."""

from __future__ import annotations

from dataclasses import dataclass

from expertchat.backends.asking import Flow
from expertchat.config import JudgingConfig
from expertchat.evaluation.comparing import ratings_alone
from expertchat.judging.judge import Judge
from expertchat.judging.pairwise import Duel, duel_flow
from expertchat.judging.roles import Role
from expertchat.judging.view import Judgement
from expertchat.lab.config import JudgeConfig, seat_of
from expertchat.lab.judge import OVERALL, Bench, asked_place, both_orders, opinion_id
from expertchat.records import SEATS, Choice, Form, Item, JudgeRef, Opinion, Order, Rating, Speaker, Turn, Verdict
from expertchat.text.sentences import shown_path

UNTOLD = "what follows"  # the topic of a text that has none, in a judge's prompt
SAMPLED = {"written": "sampled", "expected": "expected", "both": "both"}  # how the judging config calls the forms
CHOICES: dict[str, Choice] = {"base": "first", "policy": "second", "tie": "tie"}  # a duel's words for the two texts


def seats_in(item: Item) -> tuple[Speaker, ...]:
    """Who talks in an item's dialogue; there are always two."""
    seats = tuple(sorted({turn.speaker for turn in item.turns} | {item.subject}))
    return seats if len(seats) > 1 or item.subject not in SEATS else SEATS


@dataclass(frozen=True)
class Rater:
    """A model that rates each text by itself, also the two of a pair."""

    name: str
    config: JudgeConfig
    bench: Bench

    @property
    def ref(self) -> JudgeRef:
        form: Form = "written" if self.config.form == "written" else "expected"
        note = self.config.note or ("in both forms" if self.config.form == "both" else None)
        return JudgeRef(id=self.name, form=form, model=_model_of(self.config), note=note)

    def takes(self, item: Item) -> bool:
        return True

    def owes(self, item: Item, repeat: int) -> list[str]:
        categories = self.bench.config.judging.categories
        return [opinion_id(item.id, self.name, one, place, None, repeat) for place in range(len(item.texts)) for one in categories]

    def flow(self, item: Item, repeat: int) -> Flow[list[Opinion]]:
        found: list[Opinion] = []
        for place in range(len(item.texts)):  # one after the other: the second finds what the first has prefilled
            seat = seat_of(self.name)
            judge = Judge(self.bench.experts[seat], self.judging, self.bench.tokens.get(seat))
            judged = yield from judge.flow(self.judgement(item, place, repeat))
            found += [self._opinion(item, place, repeat, rating) for rating in judged.ratings.values()]
        return found

    @property
    def judging(self) -> JudgingConfig:
        """The run's judging in this judge's form, without WIM."""
        config = ratings_alone(self.bench.config.judging)
        analysis = config.analysis if self.config.analysis is None else self.config.analysis
        return config.model_copy(update={"form": SAMPLED[self.config.form or ""], "analysis": analysis})

    def judgement(self, item: Item, place: int, repeat: int) -> Judgement:
        """An item as a judge sees it: its text as the last turn of the dialogue, or all turns of a whole one."""
        turns, turn = tuple(item.turns), None
        if not item.whole:
            turns, turn = (*turns, Turn(speaker=item.subject, text=item.texts[place].text)), len(turns)
        seat = seat_of(self.name)
        where = asked_place(item, self.name, repeat) + (f"/p{place}" if item.pair else "")
        role = Role(self.name, seat, seat)
        categories = self.bench.config.judging.categories
        return Judgement(item.topic or UNTOLD, turns, item.subject, turn, categories, seats_in(item), role, where, item.id)

    def _opinion(self, item: Item, place: int, repeat: int, rating: Rating) -> Opinion:
        return Opinion(
            id=opinion_id(item.id, self.name, rating.category, place, None, repeat),
            item=item.id,
            judge=self.name,
            place=place,
            repeat=repeat,
            **rating.model_dump(include={"category", "value", "expected", "mass", "raw", "problem", "fault"}),
        )


@dataclass(frozen=True)
class Comparer:
    """A model that compares the two texts of a pair, in both orders."""

    name: str
    config: JudgeConfig
    bench: Bench

    @property
    def ref(self) -> JudgeRef:
        return JudgeRef(id=self.name, form="pairwise", model=_model_of(self.config), note=self.config.note)

    def takes(self, item: Item) -> bool:
        return item.pair

    def owes(self, item: Item, repeat: int) -> list[str]:
        return both_orders(item, self.name, repeat)

    def flow(self, item: Item, repeat: int) -> Flow[list[Opinion]]:
        seat, judging = seat_of(self.name), self.bench.config.judging
        key, (one, two) = asked_place(item, self.name, repeat), (text.text for text in item.texts)
        duel = Duel(key, item.id, item.topic or UNTOLD, tuple(item.turns), item.subject, one, two, judging.categories)
        verdicts = yield from duel_flow(seat, self.bench.experts[seat], duel, self.bench.tokens.get(seat), judging.min_mass)
        return [self._opinion(item, repeat, verdict) for verdict in verdicts]

    def _opinion(self, item: Item, repeat: int, verdict: Verdict) -> Opinion:
        order: Order = "first" if verdict.first == "base" else "second"
        return Opinion(
            id=opinion_id(item.id, self.name, OVERALL, 0, order, repeat),
            item=item.id,
            judge=self.name,
            category=OVERALL,
            order=order,
            repeat=repeat,
            choice=None if verdict.winner is None else CHOICES[verdict.winner],
            mass=verdict.mass,
            raw=verdict.raw,
            problem=verdict.problem,
            fault=_fault_of(verdict),
        )


def _model_of(config: JudgeConfig) -> str | None:
    return shown_path(config.model.path) if config.model is not None else None


def _fault_of(verdict: Verdict) -> str | None:
    """The kind of a verdict that is none, as ratings call theirs."""
    if verdict.problem is None:
        return None
    kinds = {"blank": "blank", "the context holds": "too_long", "of the probability": "low_mass", "has a probability": "low_mass"}
    return next((kind for words, kind in kinds.items() if words in verdict.problem), "not_finite")
