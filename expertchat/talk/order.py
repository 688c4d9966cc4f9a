"""Whose turn is next: by turns, by lot, or as a moderator picks."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from expertchat.backends.asking import Ask, Flow
from expertchat.backends.base import ScoreRequest, Scores
from expertchat.config import ALTERNATE
from expertchat.experts.base import CountTokens, ExpertChat
from expertchat.judging import rating
from expertchat.records import Message, Speaker, Turn
from expertchat.text.sentences import Safe, listed, quote
from expertchat.text.wordings import fill

MODERATOR = "moderator"  # its seat, and the backend that is asked
LEAST_MASS = 0.5  # of the probability that the names hold together: below it they were not what the moderator was about to say
NAME_TOKENS = 16  # room for a name


def opener_of(index: int, opener: str, seats: Sequence[Speaker], topics: int = 0) -> Speaker:
    """Who opens the conversation at `index`: dialogue by dialogue the next seat, or always the one that is named.

    So many `topics` come again and again. Where each would always have the same opener, the seats move on by one: four topics and two seats
    are a b a b, then b a b a.
    """
    moved = index // math.lcm(topics, len(seats)) if topics else 0
    return seats[(index + moved) % len(seats)] if opener == ALTERNATE else opener


def by_turns(seats: Sequence[Speaker], opener: Speaker, index: int) -> Speaker:
    """Who has the turn at `index` where all speak in the order of the seats, from the opener on.

    >>> [by_turns(("a", "b", "c"), "b", index) for index in range(4)]
    ['b', 'c', 'a', 'b']
    """
    return seats[(seats.index(opener) + index) % len(seats)]


def by_lot(seats: Sequence[Speaker], turns: Sequence[Turn], key: str) -> Speaker:
    """One of those who have not just spoken, each as likely as the others; the same `key` draws the same one."""
    return random.Random(f"{key} {len(turns)}").choice([seat for seat in seats if seat != turns[-1].speaker])


def moderator_of(experts: Mapping[str, ExpertChat], tokens: Mapping[str, CountTokens]) -> Moderator | None:
    """The moderator among those who take part in a run, where there is one."""
    expert = experts.get(MODERATOR)
    return None if expert is None else Moderator(expert, tokens.get(MODERATOR))


@dataclass(frozen=True)
class Moderator:
    """A model that says who speaks next. `count` counts the tokens of its prompts: the oldest turns are left out until they fit."""

    expert: ExpertChat
    count: CountTokens | None = None

    def picks(self, key: str, topic: str, seats: Sequence[Speaker], turns: Sequence[Turn]) -> Flow[tuple[Speaker, str | None]]:
        """Who has the turn after `turns`: the likeliest name but the last speaker's. Where the names say too little it is the next seat,
        with a note.
        """
        last = turns[-1].speaker
        request = self.request(key, topic, seats, turns)
        (answer,) = yield [Ask(MODERATOR, request, label=MODERATOR)]
        assert isinstance(answer, Scores)
        held = rating.mass(answer.logprobs)
        if held is None or held < LEAST_MASS:
            said = "no number" if held is None else f"{100 * held:.0f} %"
            return by_turns(seats, last, 1), f"the moderator named nobody (the names hold {said} of the probability): next in the order"
        likely = dict(zip(seats, answer.logprobs, strict=True))
        return max((seat for seat in seats if seat != last), key=lambda seat: likely[seat]), None

    def request(self, key: str, topic: str, seats: Sequence[Speaker], turns: Sequence[Turn]) -> ScoreRequest:
        """Ask for the probabilities of all names."""
        prompts, room = self.expert.settings.prompts, self.expert.context_length - NAME_TOKENS
        options = tuple(f" {seat.upper()}." for seat in seats)
        start = 0
        while True:
            messages = self._messages(topic, seats, turns, start)
            if self.count is None or start >= len(turns) - 1:
                break
            if self.count([*messages, Message("assistant", prompts.next_speaker)]) <= room:
                break
            start += 1
        return ScoreRequest(f"{key}/next", messages, options, prefix=prompts.next_speaker)

    def _messages(self, topic: str, seats: Sequence[Speaker], turns: Sequence[Turn], start: int) -> tuple[Message, ...]:
        prompts, tokens = self.expert.settings.prompts, self.expert.special_tokens
        lines = [f"({start} oldest turns left out)"] if start else []
        lines += [f"{turn.speaker.upper()}: {quote(turn.text, tokens)}" for turn in turns[start:]]
        last, names = turns[-1].speaker, listed([seat.upper() for seat in seats])
        order = [by_turns(seats, last, step) for step in range(1, len(seats) + 1)]  # small models like the first best
        asked = fill(
            prompts.moderate,
            tokens,
            topic=topic,
            names=names,
            last=last.upper(),
            transcript=Safe("\n".join(lines)),
            lines=Safe("\n".join(f"{prompts.next_speaker} {seat.upper()}." for seat in order)),
        )
        return self.expert.chat("", [Message("user", asked)])
