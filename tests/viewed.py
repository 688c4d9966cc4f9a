"""Made-up runs as events, for the tests of the views: a conversation run as a list, a training run as a stream."""

from __future__ import annotations

import io
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from rich.console import Console, RenderableType

from expertchat.events import (
    AnyEvent,
    CandidatesJudged,
    ConversationFinished,
    ConversationJudged,
    ConversationStarted,
    Loading,
    Measured,
    Note,
    PhaseStarted,
    Progress,
    RatingGiven,
    RewardGiven,
    RoundFinished,
    RoundStarted,
    RunFinished,
    RunStarted,
    StepFinished,
    TextStreamed,
    TurnFinished,
    WimGiven,
)
from expertchat.records import ExpertRef, Figure, Metrics, Rating, Reward, Speaker, Turn, Wim
from expertchat.views import screen
from expertchat.views.frame import Painter
from expertchat.views.model import RunState
from expertchat.views.plain import PlainView

EXPERTS: dict[Speaker, ExpertRef] = {
    "a": ExpertRef(family="llama3", model="embedded:llama"),
    "b": ExpertRef(family="mixtral", model="mistralai/Mixtral-8x7B-Instruct-v0.1"),
}
THREE: dict[Speaker, ExpertRef] = EXPERTS | {"c": ExpertRef(family="phi", model="microsoft/Phi-3-mini-4k-instruct", policy_version=2)}
NAMED: dict[Speaker, ExpertRef] = dict(zip(("anna", "bo", "christopher", "d"), (*THREE.values(), EXPERTS["a"]), strict=True))
SAYS = (
    "Hello! Volcanoes form where plates meet. What do you know about their eruptions?",
    "Silica-rich magma is thick and traps gas, so it explodes. Thin basalt flows quietly, as in Hawaii. " * 3,
    "I have been on Stromboli.\n\nIt throws sparks every twenty minutes.",
    "Campi Flegrei is the most dangerous one: half a million people live inside the caldera.",
)
ATTACK = "\x1b[2J\x1b[31mred\x9b0m [bold]loud[/bold] [/] [link=http://x]y\x07\u202etxet"


def start(conversations: int = 1, turns: int = 4, resumed: int = 0, time: float = 100.0) -> RunStarted:
    return RunStarted(command="converse", folder="runs/r", conversations=conversations, turns=turns, resumed=resumed, time=time)


def began(
    name: str, topic: str = "volcanoes", opener: Speaker = "a", experts: Mapping[Speaker, ExpertRef] = EXPERTS
) -> ConversationStarted:
    return ConversationStarted(conversation=name, topic=topic, opener=opener, experts=dict(experts))


def said(name: str, index: int, text: str, tokens: int = 10, opener: Speaker = "a") -> TurnFinished:
    speaker: Speaker = "a" if (opener == "a") == (index % 2 == 0) else "b"
    return TurnFinished(conversation=name, index=index, turn=Turn(speaker=speaker, text=text, tokens=tokens, seconds=2.0))


def rated(name: str, judge: str, subject: Speaker, category: str, value: int | None, expected: float | None = None) -> RatingGiven:
    problem = None if value or expected else "no number"
    return RatingGiven(
        rating=Rating(
            id=f"{name}/{judge}/{subject}/{category}", transcript=name, judge=judge, subject=subject, category=category, value=value,
            expected=expected, problem=problem,
        )
    )


def missed(name: str, judge: str, subject: Speaker, text: str, cosine: float | None, empty: bool = False) -> WimGiven:
    wim = Wim(id=f"{name}/{judge}/{subject}/wim", transcript=name, judge=judge, subject=subject, text=text, cosine=cosine, empty=empty)
    return WimGiven(wim=wim)


def rewarded(name: str, judge: str, subject: Speaker, value: float | None, turn: int | None = None) -> RewardGiven:
    key = f"{name}/{judge}/{subject}/{turn}/reward"
    problem = None if value is not None else "depth has no number"
    reward = Reward(id=key, transcript=name, turn=turn, judge=judge, subject=subject, rating=7.0, wim=0.5, value=value, problem=problem)
    return RewardGiven(reward=reward)


def conversation(name: str, topic: str = "volcanoes", says: tuple[str, ...] = SAYS) -> list[AnyEvent]:
    """One whole conversation: A on B 7 and 6.8, B on A "none" and 5, WIM .62 and empty 1.0."""
    return [
        began(name, topic),
        *(said(name, i, text) for i, text in enumerate(says)),
        ConversationFinished(conversation=name, turns=len(says), stop_reason="turns"),
        rated(name, "a", "b", "depth", 7),
        rated(name, "a", "b", "clarity", 8, expected=6.8),
        rated(name, "b", "a", "depth", None),
        rated(name, "b", "a", "clarity", 5),
        missed(name, "a", "b", "The role of water is missing.", 0.62),
        missed(name, "b", "a", "Nothing is missing.", 1.0, empty=True),
        rewarded(name, "a", "b", 0.41),
        rewarded(name, "b", "a", None),
        ConversationJudged(conversation=name),
    ]


def of_more(
    name: str, experts: Mapping[Speaker, ExpertRef] = THREE, order: Sequence[int] = (0, 1, 2, 0, 2), topic: str = "volcanoes"
) -> list[AnyEvent]:
    """One whole conversation of more than two: who speaks stands in `order`; each rates each, the i-th the j-th with 1 + (i + 2j) % 10."""
    seats = list(experts)
    events: list[AnyEvent] = [began(name, topic, seats[order[0]], experts)]
    for index, at in enumerate(order):
        turn = Turn(speaker=seats[at], text=SAYS[index % len(SAYS)], tokens=10, seconds=2.0)
        events.append(TurnFinished(conversation=name, index=index, turn=turn))
    events.append(ConversationFinished(conversation=name, turns=len(order), stop_reason="turns"))
    for i, judge in enumerate(seats):
        for j, subject in enumerate(seats):
            if i != j:
                events += [rated(name, judge, subject, category, 1 + (i + 2 * j) % 10) for category in ("depth", "accuracy", "engagement")]
                events.append(missed(name, judge, subject, f"{subject} says nothing of water.", 0.1 * (i + j)))
                events.append(rewarded(name, judge, subject, None if (i, j) == (0, 1) else 0.1 * i))
    return [*events, ConversationJudged(conversation=name)]


def whole_run(names: tuple[str, ...] = ("c0001", "c0002"), says: tuple[str, ...] = SAYS, topic: str = "volcanoes") -> list[AnyEvent]:
    """A finished run; one second lies between two events."""
    events: list[AnyEvent] = [start(len(names)), Loading(what="llama"), Loading(what="llama", done=True, seconds=1.5)]
    for name in names:
        events += conversation(name, topic, says)
    events.append(RunFinished(status="done", summary={"ties": 2, "rated_pairs": 5, "stop_reasons": {"turns": 2}}))
    return [event.model_copy(update={"time": 100.0 + second}) for second, event in enumerate(events)]


# -- a training run -------------------------------------------------------------------------------------------------------

FACTS = (
    "Silica-rich magma is thick and traps gas, so it explodes.",
    "Thin basalt flows quietly, as in Hawaii.",
    "Stromboli throws sparks every twenty minutes.",
    "Half a million people live inside the Campi Flegrei caldera.",
    "Ash in the stratosphere cooled the world by half a degree in 1816.",
    "Pillow lava forms where basalt meets the sea.",
)


def round_figures(at: int, rounds: int, chance: random.Random) -> dict[str, Figure]:
    """Figures that get better as in a run that learns."""
    share = at / rounds
    return {
        "histories": 40, "candidates": 160, "pairs": 30 + chance.randrange(10), "ties": chance.randrange(6), "nulls": 0, "stale": 0,
        "reward_mean": -0.15 + 0.6 * share + chance.gauss(0, 0.04), "margin": 0.6 - 0.2 * share + chance.gauss(0, 0.03),
        "kl": 2.4 * share**1.5 + abs(chance.gauss(0, 0.05)), "entropy": None, "length": 21 + 9 * share + chance.gauss(0, 0.5),
        "loss": 0.69 - 0.3 * share + chance.gauss(0, 0.02),
    }  # fmt: skip


def evaluation_figures(share: float, n: int) -> dict[str, Figure]:
    """Figures of an evaluation; `share` of the way is done."""
    win = 0.5 + 0.26 * share
    return {
        "n": n, "judge": "truth", "win_rate": win, "win_rate_low": win - 0.05, "win_rate_high": win + 0.045, "wins": round(win * n),
        "ties": 0, "losses": n - round(win * n), "distinct_policy": 1.9 + 1.3 * share,
        "distinct_base": 1.9, "distinct_ratio": 1 + 0.68 * share,
        "distinct_ratio_low": 0.95 + 0.6 * share, "distinct_ratio_high": 1.05 + 0.75 * share, "repeats_policy": 0.11 + 0.03 * share,
        "repeats_base": 0.11, "accuracy_policy": 0.962 - 0.006 * share, "accuracy_base": 0.961, "tokens_policy": 21 + 9 * share,
        "tokens_base": 21.3,
    }  # fmt: skip


def candidates_of(name: str, turn: int, speaker: Speaker, texts: list[str], chance: random.Random) -> CandidatesJudged:
    """Candidates with rewards by chance, a seventh of them without any; the dialogue went on with the best."""
    rewards = [chance.gauss(0.1, 0.3) if chance.random() > 0.14 else None for _ in texts]
    best = max(range(len(texts)), key=lambda i: (rewards[i] is not None, rewards[i] or 0.0))
    ratings = [None if r is None else 5.5 + 4 * r for r in rewards]
    wims = [None if r is None else 0.5 + r / 3 for r in rewards]
    return CandidatesJudged(
        conversation=name, turn=turn, speaker=speaker, texts=texts, rewards=rewards, ratings=ratings, wims=wims, continued=best
    )


def training_round(
    at: int, rounds: int, learner: Speaker, conversations: int, evaluate: bool, chance: random.Random, topic: str, texts: tuple[str, ...],
    experts: Mapping[Speaker, ExpertRef] = EXPERTS,
) -> Iterator[tuple[float, AnyEvent]]:
    """(seconds since the event before, event) of one round: dialogues in step with one another, five turns each."""  # fmt: skip
    seats = list(experts)
    yield 0.1, RoundStarted(round=at, rounds=rounds, learner=learner, policy_version=at - 1)
    yield 0.0, PhaseStarted(round=at, phase="talking")
    names = [f"r{at:04}/c{i:04}" for i in range(conversations)]
    for name in names:
        yield 0.0, began(name, topic, seats[0], experts)
    for index in range(5):
        speaker = seats[index % len(seats)]
        replies = {name: [" ".join(chance.sample(texts, min(len(texts), 2))) for _ in range(4)] for name in names}
        for cut in (0.3, 0.6, 0.9):
            for name in names:
                text = replies[name][0]
                yield 0.2 / conversations, TextStreamed(conversation=name, turn=index, speaker=speaker, text=text[: int(cut * len(text))])
        for name in names:
            reply = replies[name][0]
            if speaker == learner:
                judged = candidates_of(name, index, speaker, replies[name], chance)
                reply = replies[name][judged.continued]
                yield 0.3 / conversations, judged
            yield 0.0, TurnFinished(conversation=name, index=index, turn=Turn(speaker=speaker, text=reply, tokens=24, seconds=0.8))
        done = conversations if index == 4 else 0
        yield 0.0, Progress(finished=done, total=conversations, turns=index, tokens=3000 * at, seconds=3.0 * at, waiting={speaker: 3})
    for name in names:
        yield 0.05, ConversationFinished(conversation=name, turns=5, stop_reason="turns")
        yield 0.05, ConversationJudged(conversation=name)
    yield 0.1, PhaseStarted(round=at, phase="pairing")
    yield 0.3, PhaseStarted(round=at, phase="updating")
    for step in range(1, 9):
        yield 0.3, StepFinished(round=at, step=step, steps=8, loss=0.69 - 0.01 * step)
    yield 0.0, measured("round", at, learner, round_figures(at, rounds, chance))
    if evaluate:
        yield 0.0, PhaseStarted(round=at, phase="evaluating")
        for done in range(0, 121, 20):
            yield 0.2, Progress(finished=done, total=120, turns=0, tokens=3000 * at, seconds=3.0 * at)
        yield 0.0, measured("evaluation", at, learner, evaluation_figures(at / rounds, 120))
    yield 0.1, PhaseStarted(round=at, phase="saving")
    seconds = {"talking": 4.0, "pairing": 0.3, "updating": 2.4, "evaluating": 1.4 if evaluate else 0.0, "saving": 0.3}
    yield 0.3, RoundFinished(round=at, seconds=seconds)


def measured(kind: Literal["round", "evaluation"], at: int, learner: Speaker, figures: dict[str, Figure], end: str = "") -> Measured:
    key = f"{kind}-{learner}-{at:04d}{end}"
    return Measured(metrics=Metrics(id=key, kind=kind, round=at, learner=learner, policy_version=at, figures=figures))


def training_run(
    rounds: int = 24, conversations: int = 4, learner: str = "a", every: int = 4, topic: str = "volcanoes",
    texts: tuple[str, ...] = FACTS, summary: dict[str, object] | None = None, experts: Mapping[Speaker, ExpertRef] = EXPERTS,
) -> Iterator[AnyEvent]:
    """A whole training run with its transient events and plausible times.

    `learner`: a seat, or "both" or "all" for all by turns; `every` 0: never evaluated.
    """  # fmt: skip
    learners: list[Speaker] = list(experts) if learner in ("both", "all") else [learner]
    chance, now = random.Random(7), 1000.0

    def timed() -> Iterator[tuple[float, AnyEvent]]:
        yield 0.0, RunStarted(command="online_dpo", folder="runs/r", conversations=conversations, turns=5, rounds=rounds)
        yield 0.1, Loading(what="llama", gib=0.004)
        yield 0.4, Loading(what="llama", done=True, seconds=0.4, gib=0.004)
        yield 0.0, Note(text="learning rate 0.001: the embedded model is small")
        for who in learners:
            if every:
                yield 0.0, PhaseStarted(round=0, phase="evaluating")
                yield 1.0, measured("evaluation", 0, who, evaluation_figures(0.0, 120) | {"win_rate": None, "win_rate_low": None})
        for at in range(1, rounds + 1):
            who = learners[(at - 1) % len(learners)]
            evaluate = bool(every) and at % every in (0, 1)
            yield from training_round(at, rounds, who, conversations, evaluate, chance, topic, texts, experts)
        for who in learners:
            if every:
                yield 0.0, PhaseStarted(round=rounds, phase="evaluating")
                yield 1.0, measured("evaluation", rounds, who, evaluation_figures(1.0, 400), "-final")
        ended: dict[str, object] = {"schema": 1, "rounds": rounds, "learner": learner, "pairs": 34 * rounds, "seconds": 9.0 * rounds}
        ended |= {"stopped_by": None, "best": {"round": rounds}, "adapter": "runs/r/adapter"}
        if len(learners) < 3:
            ended["evaluation"] = evaluation_figures(1.0, 400) if every else None
        else:
            ended["evaluations"] = {who: evaluation_figures(1.0, 400) for who in learners if every}
        yield 0.5, RunFinished(status="done", summary=ended if summary is None else summary)

    for wait, event in timed():
        now += wait
        yield event.model_copy(update={"time": now})


# -- looking at it --------------------------------------------------------------------------------------------------------


def console(width: int, height: int = 30, colour: bool = True) -> Console:
    return Console(
        file=io.StringIO(), width=width, height=height, force_terminal=colour, color_system="standard" if colour else None, markup=False,
        emoji=False, highlight=False, _environ={},
    )  # fmt: skip


def written(screen: Console) -> str:
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def drawn(width: int, *parts: RenderableType) -> str:
    """What is drawn of some parts, without colours."""
    blank = console(width, colour=False)
    for part in parts:
        blank.print(part)
    return written(blank)


def plainly(text: str) -> str:
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text)


def state_of(events: Iterable[AnyEvent]) -> RunState:
    state = RunState()
    for event in events:
        state.apply(event)
    return state


def until(events: Iterable[AnyEvent], at: int, phase: str, more: int = 0) -> list[AnyEvent]:
    """The events up to the beginning of a phase of a round, and `more` of those that follow."""
    found: list[AnyEvent] = []
    left = None
    for event in events:
        found.append(event)
        if left is not None:
            left -= 1
        elif isinstance(event, PhaseStarted) and (event.round, event.phase) == (at, phase):
            left = more
        if left == 0:
            return found
    raise AssertionError(f"round {at} has no phase {phase}")


def frame(state: RunState, width: int, height: int, focus: str | None = None) -> list[str]:
    """The lines of the screen's moving part."""
    painter = Painter(console(width, height, colour=False))
    shown = screen.frame(painter, state, state.conversations[focus] if focus else None, {}, 0)
    return ["".join(segment.text for segment in line) for line in shown.lines]


def plain(events: Iterable[AnyEvent]) -> list[str]:
    """The lines of the plain view."""
    out = io.StringIO()
    view = PlainView(out)
    for event in events:
        view.send(event)
    view.close()
    return out.getvalue().rstrip("\n").split("\n")
