"""A made-up run as a list of events, for the tests of the views."""

from __future__ import annotations

from expertchat.events import (
    AnyEvent,
    ConversationFinished,
    ConversationJudged,
    ConversationStarted,
    Loading,
    RatingGiven,
    RewardGiven,
    RunFinished,
    RunStarted,
    TurnFinished,
    WimGiven,
)
from expertchat.records import ExpertRef, Rating, Reward, Speaker, Turn, Wim

EXPERTS: dict[Speaker, ExpertRef] = {
    "a": ExpertRef(family="llama3", model="embedded:llama"),
    "b": ExpertRef(family="mixtral", model="mistralai/Mixtral-8x7B-Instruct-v0.1"),
}
SAYS = (
    "Hello! Volcanoes form where plates meet. What do you know about their eruptions?",
    "Silica-rich magma is thick and traps gas, so it explodes. Thin basalt flows quietly, as in Hawaii. " * 3,
    "I have been on Stromboli.\n\nIt throws sparks every twenty minutes.",
    "Campi Flegrei is the most dangerous one: half a million people live inside the caldera.",
)
ATTACK = "\x1b[2J\x1b[31mred\x9b0m [bold]loud[/bold] [/] [link=http://x]y\x07\u202etxet"


def start(conversations: int = 1, turns: int = 4, resumed: int = 0, time: float = 100.0) -> RunStarted:
    return RunStarted(command="converse", folder="runs/r", conversations=conversations, turns=turns, resumed=resumed, time=time)


def began(name: str, topic: str = "volcanoes", opener: Speaker = "a") -> ConversationStarted:
    return ConversationStarted(conversation=name, topic=topic, opener=opener, experts=EXPERTS)


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


def whole_run(names: tuple[str, ...] = ("c0001", "c0002"), says: tuple[str, ...] = SAYS, topic: str = "volcanoes") -> list[AnyEvent]:
    """A finished run; one second lies between two events."""
    events: list[AnyEvent] = [start(len(names)), Loading(what="llama"), Loading(what="llama", done=True, seconds=1.5)]
    for name in names:
        events += conversation(name, topic, says)
    events.append(RunFinished(status="done", summary={"ties": 2, "rated_pairs": 5, "stop_reasons": {"turns": 2}}))
    return [event.model_copy(update={"time": 100.0 + second}) for second, event in enumerate(events)]
