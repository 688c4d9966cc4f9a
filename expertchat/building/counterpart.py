"""The counterpart of a chosen text: written by a model, and only taken where it really scores low."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from expertchat.backends.asking import Ask, Flow
from expertchat.backends.base import Completion
from expertchat.building.config import MODEL, BuildConfig
from expertchat.building.reading import Prompts
from expertchat.building.scoring import Scored, score_of
from expertchat.config import JudgingConfig
from expertchat.evaluation import truth
from expertchat.lab.judge import LabJudge
from expertchat.preferences.candidates import altered
from expertchat.records import Item, Text, Turn
from expertchat.records.building import Attempt
from expertchat.text.likeness import blank, weight, words

# Why a counterpart is none, as it is counted.
HIGH, MARGIN, UNSCORED = "scores too high", "margin too small", "no score"
BLANK, EQUAL, ALTERED, CUT = "blank", "equal to the chosen one", "altered", "cut"
LENGTH, HELD_OUT = "of another length", "in the evaluation"
PROBLEMS = {
    HIGH: "it scores more than the highest that a rejected text may have",
    MARGIN: "the chosen text does not score enough more",
    UNSCORED: "the judge gave it no score",
    BLANK: "it says nothing",
    EQUAL: "it is the chosen text",
    ALTERED: "what the model wrote holds markup, thoughts or the partner's words",
    CUT: "the token limit cut it",
    LENGTH: "one of the two is too long for the other",
    HELD_OUT: "it stands in what an evaluation uses, or something like it does",
}


@dataclass(frozen=True)
class Low:
    """What a rejected text must be like, beside a chosen one."""

    config: BuildConfig
    leaks: Callable[[str], bool] = lambda text: False

    def before_judging(self, chosen: str, text: str, cut: bool) -> str | None:
        """Why a text is none, whatever it would score."""
        settings = self.config.counterpart
        if blank(text):
            return BLANK
        if " ".join(text.split()) == " ".join(chosen.split()):
            return EQUAL
        if cut and settings.cut == "drop":
            return CUT
        if settings.length_ratio is not None and not like_length(chosen, text, settings.length_ratio):
            return LENGTH
        return HELD_OUT if self.leaks(text) else None

    def by_score(self, chosen: float, score: float | None, low: float) -> str | None:
        """Why a text with this score is none."""
        if score is None:
            return UNSCORED
        if score > low:
            return HIGH
        return MARGIN if chosen <= score or chosen - score < self.config.choose.min_margin else None


def like_length(one: str, two: str, ratio: float) -> bool:
    """Whether the longer of two texts has at most `ratio` times the words of the shorter."""
    short, long = sorted((weight(words(one)), weight(words(two))))
    return long <= ratio * short


@dataclass(frozen=True)
class Writing:
    """How counterparts are written and judged. `earlier`: attempts that are on disk already; `keep` takes a new one."""

    config: BuildConfig
    judge: LabJudge
    prompts: Prompts
    low: Low
    judging: JudgingConfig
    earlier: Mapping[str, Attempt]
    keep: Callable[[Attempt], None]

    def flow(self, chosen: Scored, low: float) -> Flow[list[Attempt]]:
        """All attempts, the last of which is the rejected text where it has no problem. Raises ContextTooSmallError."""
        tried: list[Attempt] = []
        for number in range(1, self.config.counterpart.attempts + 1):
            name = f"{chosen.id}/x{number}"
            one = self.earlier.get(name)
            if one is None:
                one = yield from self._attempt(chosen, low, number, name)
                self.keep(one)
            tried.append(one)
            if one.reason is None:
                break
        return tried

    def _attempt(self, chosen: Scored, low: float, number: int, name: str) -> Flow[Attempt]:
        item, expert = chosen.item, self.prompts.expert(chosen.item)
        request = self.prompts.counterpart(item, name, self.config.counterpart.asks, chosen.type, chosen.text.text)
        (answer,) = yield [Ask(MODEL, request, label=MODEL)]
        assert isinstance(answer, Completion)
        read = expert.read_reply(answer.text)
        turn = Turn(
            speaker=item.subject, text=read.text, thinking=read.thinking if read.thought else None, beyond=read.beyond or None,
            tokens=answer.tokens, cut=answer.finish == "length" and not read.beyond,
        )  # fmt: skip
        attempt = Attempt(id=name, of=chosen.id, number=number, text=turn.text, tokens=turn.tokens, cut=turn.cut)
        reason = ALTERED if altered(turn, answer) else self.low.before_judging(chosen.text.text, turn.text, turn.cut)
        if reason is not None:
            return attempt.model_copy(update={"reason": reason, "problem": PROBLEMS[reason]})
        true = self._truth(item, turn.text)
        system = expert.ref.model
        text = Text(text=turn.text, system=system, truth=true, tokens=turn.tokens)
        score, problem = yield from self._score(item.model_copy(update={"id": name, "texts": [text], "label": None}), chosen.type)
        reason = self.low.by_score(chosen.score or 0.0, score, low)
        why = None if reason is None else problem if reason == UNSCORED and problem else PROBLEMS[reason]
        return attempt.model_copy(update={"score": score, "truth": true, "reason": reason, "problem": why})

    def _score(self, item: Item, kind: str) -> Flow[tuple[float | None, str | None]]:
        if not self.judge.takes(item):
            return None, "the judge cannot judge it: its truth is not known"
        said = yield from self.judge.flow(item, 0)
        return score_of(said, 0, kind, self.judging.shares)

    def _truth(self, item: Item, text: str) -> float | None:
        """What it truly adds, of the embedded world's models and topics alone."""
        known = self.config.model is not None and self.config.model.family == "world" and item.topic in truth.load().topics
        return float(truth.tally(item.topic, item.turns, text).score) if known else None


def reasons(attempts: Sequence[Attempt]) -> str:
    """Why no attempt was taken, in one word of those that are counted: the commonest, of several the one that came first."""
    found = [one.reason for one in attempts if one.reason]
    return max(found, key=found.count, default=UNSCORED)
