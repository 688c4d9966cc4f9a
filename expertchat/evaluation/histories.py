"""Held-out histories: dialogues of the base experts that end just before a turn of the learner, and the base's reply to each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from expertchat.backends.asking import Ask, Flow
from expertchat.backends.base import GenerateRequest
from expertchat.config import ConfigError, ConversationConfig
from expertchat.experts.base import ContextTooSmallError, CountTokens, ExpertChat
from expertchat.folder.jsonl import Log, read_lines
from expertchat.records import SEATS, Record, Speaker, Topic, Turn
from expertchat.talk.conversation import Dialogue


class Held(Record):
    """One held-out history with the base's reply; None, with the problem, where the dialogue has no place for one."""

    topic: str
    learner: Speaker
    turns: list[Turn]
    reply: Turn | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Plan:
    """A history to be made, of `turns` turns."""

    id: str
    topic: Topic
    learner: Speaker
    turns: int
    seats: tuple[Speaker, ...] = SEATS

    @property
    def opener(self) -> Speaker:
        """Who opens, so that the turn after the history is the learner's: everybody speaks in turn."""
        return self.seats[(self.seats.index(self.learner) - self.turns) % len(self.seats)]


def plans(
    learner: Speaker, topics: Sequence[Topic], most_turns: int, count: int, seats: Sequence[Speaker] = SEATS, before: int = 0
) -> list[Plan]:
    """`count` histories: topics by turns, and each topic in all lengths from 1 to `most_turns` by turns, its neighbour a turn longer (a
    Latin square), so any beginning is balanced. With most_turns=0 nobody has spoken before: the learner opens. Their numbers go on after
    the `before` that there are."""
    found = []
    for i in range(count):
        name = f"evaluation-{learner}/h{before + i:04d}"
        topic = topics[i % len(topics)].model_copy(update={"id": name})
        turns = 1 + (i % len(topics) + i // len(topics)) % most_turns if most_turns else 0
        found.append(Plan(name, topic, learner, turns, tuple(seats)))
    return found


@dataclass(frozen=True)
class BaseDialogue(Dialogue):
    """A dialogue of the experts as they were before any training; nobody watches it."""

    def next_turn(self, turns: Sequence[Turn]) -> Flow[Turn]:
        request, note = self.request(turns)
        return (yield from self.ask(turns, request, note))

    def ask(self, turns: Sequence[Turn], request: GenerateRequest, note: str | None) -> Flow[Turn]:
        """The base's turn after `turns`, without its seconds: the same seed writes the same file."""
        speaker = self.speaker(turns)
        (answer,) = yield [Ask(f"base_{speaker}", request, label=speaker)]
        return self.read(speaker, answer, note).model_copy(update={"seconds": 0.0})


@dataclass(frozen=True)
class Making:
    """How histories are made: who talks, and under which rules a dialogue ends early."""

    config: ConversationConfig
    experts: Mapping[Speaker, ExpertChat]
    tokens: Mapping[Speaker, CountTokens]

    def dialogue(self, plan: Plan) -> BaseDialogue:
        # The lengths are planned so that the learner's turn comes next, so the experts speak in turn whatever the run's order is.
        settings = self.config.model_copy(update={"turns": plan.turns, "max_tokens": None, "order": "round_robin"})
        return BaseDialogue(plan.topic, plan.opener, self.experts, settings, lambda event: None, self.tokens)

    def flow(self, plan: Plan) -> Flow[Held]:
        """The dialogue, cut where the learner has the turn, and the base's reply to it.

        The reply has a key and so noise of its own: one that the dialogue itself goes on with would be chosen by what came after it,
        and the policy's reply is not.
        """
        dialogue = self.dialogue(plan)
        turns: list[Turn] = []
        if plan.turns:
            transcript = yield from dialogue.flow()
            number = reply_place(len(transcript.turns), plan.turns, len(plan.seats))
            if number is None:
                problem = f"the dialogue ended after {len(transcript.turns)} turns ({transcript.stop_reason})"
                return Held(id=plan.id, topic=plan.topic.text, learner=plan.learner, turns=transcript.turns, problem=problem)
            turns = transcript.turns[:number]
        held = Held(id=plan.id, topic=plan.topic.text, learner=plan.learner, turns=turns)
        try:
            request, note = dialogue.request(turns)
        except ContextTooSmallError as error:
            return held.model_copy(update={"problem": str(error)})
        reply = yield from dialogue.ask(turns, replace(request, key=f"{plan.id}/base"), note)
        return held.model_copy(update={"reply": reply})


def reply_place(turns: int, planned: int, seats: int = 2) -> int | None:
    """How many of a dialogue's turns stand before the reply, or None: all that were planned; if it ended early, those before the
    learner's last turn in it, since nobody answers after an end.

    The learner's turns are those whose index is that of `planned`, or a round of the `seats` before; the opening is never one to be
    answered.

    >>> reply_place(4, 4), reply_place(3, 4), reply_place(2, 4), reply_place(1, 4)
    (4, 2, 2, None)
    """
    if turns >= planned:
        return planned
    mine = planned % seats
    places = [i for i in range(1, turns) if i % seats == mine] or [turns] * (turns >= 1 and turns % seats == mine)
    return places[-1] if places else None


def read_histories(path: Path, wanted: Sequence[Plan]) -> list[Held]:
    """The histories that are there already, from the first on. Raises ConfigError where they are not those of `wanted`."""
    found: list[Held] = []
    for (n, line), plan in zip(read_lines(path), wanted, strict=False):
        try:
            held = Held.model_validate(line)
        except ValidationError as error:
            why = f"no record of this version ({str(error).splitlines()[0]})"
        else:
            if (held.id, held.topic) == (plan.id, plan.topic.text):
                found.append(held)
                continue
            why = f"of another evaluation ({held.id} on {held.topic!r}, not {plan.id} on {plan.topic.text!r})"
        raise ConfigError(f"{path}, line {n} is {why}; remove the file, and the base's replies are made again")
    return found


class InOrder:
    """Appends histories in the order of their plans, each as soon as those before it are there. Without `log` they are only held."""

    def __init__(self, log: Log | None, ids: Iterator[str]) -> None:
        self.log, self._ids = log, ids
        self._next = next(ids, None)
        self._early: dict[str, Held] = {}
        self.written: list[Held] = []

    def put(self, made: Held) -> None:
        """Take one; it is written when its turn comes."""
        self._early[made.id] = made
        while self._next in self._early:
            held = self._early.pop(self._next or "")
            if self.log is not None:
                self.log.append(held.to_json())
            self.written.append(held)
            self._next = next(self._ids, None)
