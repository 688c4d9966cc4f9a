"""Judges that are models: one rates each text by itself, one compares the two of a pair, one gives each text a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from expertchat.backends.asking import Ask, Flow, together
from expertchat.backends.base import Result, Valued
from expertchat.backends.learnt import trained_name
from expertchat.config import JudgingConfig
from expertchat.evaluation.comparing import ratings_alone
from expertchat.judging import scored
from expertchat.judging.judge import Judge
from expertchat.judging.pairwise import Duel, by_principles, duel_flow
from expertchat.judging.roles import Role
from expertchat.judging.view import Judgement
from expertchat.lab.config import JudgeConfig, LabConfig, seat_of
from expertchat.lab.judge import ORDERS, OVERALL, Bench, asked_place, both_orders, in_turn, of_rating, of_verdict, opinion_id
from expertchat.records import SEATS, Choice, Form, Item, JudgeRef, Opinion, Order, Reward, Speaker, Turn
from expertchat.sources.runs import system_name
from expertchat.text.sentences import shown_path

UNTOLD = "what follows"  # the topic of a text that has none, in a judge's prompt
SAMPLED = {"written": "sampled", "both": "both"}  # how the judging config calls the forms that write


def seats_in(item: Item) -> tuple[Speaker, ...]:
    """Who talks in an item's dialogue; there are always two."""
    seats = tuple(sorted({turn.speaker for turn in item.turns} | {item.subject}))
    return seats if len(seats) > 1 or item.subject not in SEATS else SEATS


def judgement_of(
    item: Item, place: int, role: Role, repeat: int, categories: Mapping[str, str], seed: int, reference: bool
) -> Judgement:
    """An item as a judge sees it: its text as the last turn of the dialogue, or all turns of a whole one."""
    turns, turn = tuple(item.turns), None
    if not item.whole:
        turns, turn = (*turns, Turn(speaker=item.subject, text=item.texts[place].text)), len(turns)
    return Judgement(
        item.topic or UNTOLD,
        turns,
        item.subject,
        turn,
        categories,
        seats_in(item),
        role,
        place=asked_place(item, role.judge, repeat) + (f"/p{place}" if item.pair else ""),
        transcript=item.id,
        reference=item.reference if reference else None,
        seed=seed + repeat,
    )


def judging_of(config: LabConfig, judge: JudgeConfig) -> JudgingConfig:
    """The run's judging as one judge is asked, without WIM."""
    plain = ratings_alone(config.judging)
    more = {
        "form": SAMPLED.get(judge.form or "", "expected"),
        "analysis": plain.analysis if judge.analysis is None else judge.analysis,
        "principles": config.principles_of(judge),
        "examples": judge.examples or plain.examples,
    }
    return plain.model_copy(update=more)


def _model_of(judge: JudgeConfig) -> str | None:
    if judge.model is not None:
        return system_name(shown_path(judge.model.path), 0, trained_name(judge.model.trained))
    return shown_path(judge.reward_model.path) if judge.reward_model is not None else None


@dataclass(frozen=True)
class Rater:
    """A model that rates each text by itself, also the two of a pair."""

    name: str
    config: JudgeConfig
    bench: Bench

    @property
    def ref(self) -> JudgeRef:
        forms: dict[str, Form] = {"written": "written", "principles": "principles"}
        form = forms.get(self.config.form or "", "expected")
        note = self.config.note or ("in both forms" if self.config.form == "both" else None)
        return JudgeRef(id=self.name, form=form, model=_model_of(self.config), note=note)

    def takes(self, item: Item) -> bool:
        return True

    def owes(self, item: Item, repeat: int) -> list[str]:
        names = judging_of(self.bench.config, self.config).asked
        return [opinion_id(item.id, self.name, one, place, None, repeat) for place in range(len(item.texts)) for one in names]

    def flow(self, item: Item, repeat: int) -> Flow[list[Opinion]]:
        seat, config = seat_of(self.name), self.bench.config
        judging, role = judging_of(config, self.config), Role(self.name, seat, seat)
        judge = Judge(self.bench.experts[seat], judging, self.bench.tokens.get(seat))
        found: list[Opinion] = []
        for place in range(len(item.texts)):  # one after the other: the second finds what the first has prefilled
            asked = judgement_of(item, place, role, repeat, judging.categories, config.run.seed, self.config.reference)
            judged = yield from judge.flow(asked)
            found += [of_rating(rating, item.id, self.name, place, repeat) for rating in judged.ratings.values()]
        return found


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
        names = self.bench.config.principles_of(self.config) or (OVERALL,)
        return [opinion_id(item.id, self.name, one, 0, order, repeat) for one in names for order in ORDERS]

    def flow(self, item: Item, repeat: int) -> Flow[list[Opinion]]:
        seat, config = seat_of(self.name), self.bench.config
        judging, key = judging_of(config, self.config), asked_place(item, self.name, repeat)
        topic, (one, two) = item.topic or UNTOLD, (text.text for text in item.texts)
        reference = item.reference if self.config.reference else judging.reference(topic)
        duel = Duel(key, item.id, topic, tuple(item.turns), item.subject, one, two, judging.categories, reference)
        draw = f"{config.run.seed + repeat} {item.id} {self.name}"
        duels = [duel] if judging.principles is None else by_principles(duel, judging.principles, draw)
        expert, count = self.bench.experts[seat], self.bench.tokens.get(seat)
        said = yield from together([in_turn(duel_flow(seat, expert, each, count, judging.min_mass)) for each in duels])
        return [of_verdict(verdict, item.id, self.name, repeat) for verdicts in said for verdict in verdicts]


@dataclass(frozen=True)
class Scorer:
    """A reward model: a number for each text, on its own scale."""

    name: str
    config: JudgeConfig
    bench: Bench

    @property
    def ref(self) -> JudgeRef:
        return JudgeRef(id=self.name, form="reward_model", model=_model_of(self.config), note=self.config.note)

    def takes(self, item: Item) -> bool:
        return True

    def owes(self, item: Item, repeat: int) -> list[str]:
        return [opinion_id(item.id, self.name, OVERALL, place, None, repeat) for place in range(len(item.texts))]

    def flow(self, item: Item, repeat: int) -> Flow[list[Opinion]]:
        seat, config = seat_of(self.name, "reward_model"), self.bench.config
        role, places = Role(self.name, seat, seat), range(len(item.texts))
        asked = [judgement_of(item, place, role, repeat, config.judging.categories, config.run.seed, False) for place in places]
        given = yield from together([scored.flow(one, item.kind) for one in asked])
        return [self._opinion(item, place, repeat, reward) for place, reward in enumerate(given)]

    def _opinion(self, item: Item, place: int, repeat: int, reward: Reward) -> Opinion:
        return Opinion(
            id=opinion_id(item.id, self.name, OVERALL, place, None, repeat),
            item=item.id,
            judge=self.name,
            category=OVERALL,
            place=place,
            repeat=repeat,
            score=reward.score,
            problem=reward.problem,
        )


@dataclass(frozen=True)
class Between(Scorer):
    """A reward model that compares two texts, asked in both orders: its score is the log odds that the one behind is the better one."""

    @property
    def ref(self) -> JudgeRef:
        return super().ref.model_copy(update={"form": "pairwise"})

    def takes(self, item: Item) -> bool:
        return item.pair

    def owes(self, item: Item, repeat: int) -> list[str]:
        return both_orders(item, self.name, repeat)

    def flow(self, item: Item, repeat: int) -> Flow[list[Opinion]]:
        seat, config = seat_of(self.name, "reward_model"), self.bench.config
        asked = []
        for order in ORDERS:
            behind = 1 if order == "first" else 0
            judgement = judgement_of(item, behind, Role(self.name, seat, seat), repeat, config.judging.categories, config.run.seed, False)
            request = replace(scored.request(judgement), first=item.texts[1 - behind].text)
            asked.append(Ask(seat, replace(request, key=f"{request.key}/{order}-first"), label="judge"))
        given = yield asked
        return [between(item.id, self.name, order, one, repeat) for order, one in zip(ORDERS, given, strict=True)]


def between(item: str, judge: str, order: Order, given: Result, repeat: int = 0) -> Opinion:
    """What a model that compares has said of a pair in one order."""
    assert isinstance(given, Valued)
    names: dict[Order, tuple[Choice, Choice]] = {"first": ("first", "second"), "second": ("second", "first")}
    ahead, behind = names[order]
    choice = None if given.score is None else behind if given.score > 0 else ahead if given.score < 0 else "tie"
    name = opinion_id(item, judge, OVERALL, 0, order, repeat)
    raw = "" if given.score is None else f"{given.score:.6g}"
    return Opinion(
        id=name, item=item, judge=judge, category=OVERALL, order=order, repeat=repeat, choice=choice, raw=raw, problem=given.problem
    )
