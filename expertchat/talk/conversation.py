"""One dialogue, turn by turn, as a flow: it decides what happens next and when the dialogue ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from expertchat.backends.asking import Ask, Flow, Place
from expertchat.backends.base import Completion, GenerateRequest, Result
from expertchat.config import ConfigError, ConversationConfig
from expertchat.events import Announce, ConversationStarted, Note, TurnFinished
from expertchat.experts.base import ContextTooSmallError, CountTokens, ExpertChat, History
from expertchat.records import ExpertRef, Speaker, StopReason, Topic, Transcript, Turn
from expertchat.talk.ending import only_courtesy, repeats, silent, stuck
from expertchat.talk.order import Moderator, by_lot, by_turns

NextTurn = Callable[[Sequence[Turn]], Flow[Turn]]
"""The turn after those that are there. Raises ContextTooSmallError."""


@dataclass(frozen=True)
class Dialogue:
    """The flow of one dialogue: who talks, about what, how long, and whom to tell.

    `experts` are those who talk, in the order of their seats. `tokens` counts the tokens of a rendered chat for each of them. `seed` is
    recorded, and draws who is next where the order is random.
    """

    topic: Topic
    opener: Speaker
    experts: Mapping[Speaker, ExpertChat]
    config: ConversationConfig
    announce: Announce
    tokens: Mapping[Speaker, CountTokens]
    seed: int = 0
    moderator: Moderator | None = None
    picked: dict[int, tuple[Speaker, str | None]] = field(default_factory=dict)  # by turn, whom the moderator picked, and a note

    @property
    def id(self) -> str:
        return self.topic.id

    @property
    def seats(self) -> tuple[Speaker, ...]:
        return tuple(self.experts)

    def speaker(self, turns: Sequence[Turn]) -> Speaker:
        """Who has the turn after `turns`. A moderator has been asked before (`pick`)."""
        index = len(turns)
        if index in self.picked:
            return self.picked[index][0]
        if index and self.config.order == "random":
            return by_lot(self.seats, turns, f"{self.seed} order {self.id}")
        return by_turns(self.seats, self.opener, index)

    def pick(self, turns: Sequence[Turn]) -> Flow[None]:
        """Let the moderator, where there is one, say who has the turn after `turns`."""
        if self.moderator is not None and turns:
            key = f"{self.id}/t{len(turns):02d}"
            self.picked[len(turns)] = yield from self.moderator.picks(key, self.topic.text, self.seats, turns)

    def flow(self, done: Sequence[Turn] = (), next_turn: NextTurn | None = None) -> Flow[Transcript]:
        """Go on after the turns that are `done`; `next_turn` makes a turn in another way than this class's own.

        Raises ConfigError if not even the opening prompt fits the context.
        """
        turns = self.replay(done)
        reason = self.stop_reason(turns)
        while reason is None:
            yield from self.pick(turns)
            try:
                turn = yield from (next_turn or self.next_turn)(turns)
            except ContextTooSmallError as error:
                if not turns:
                    raise ConfigError(f"{error}; shorten the prompt or persona, or lower decoding.reply.max_new_tokens") from None
                reason = "context_full"
                break
            self._add(turns, turn)
            reason = self.stop_reason(turns)
        return Transcript(id=self.id, topic=self.topic.text, experts=self.refs, turns=turns, seed=self.seed, stop_reason=reason)

    @property
    def refs(self) -> dict[Speaker, ExpertRef]:
        return {seat: expert.ref for seat, expert in self.experts.items()}

    def replay(self, done: Sequence[Turn]) -> list[Turn]:
        """Announce the beginning and the turns that are there already; returns them."""
        topic = self.topic
        self.announce(
            ConversationStarted(conversation=self.id, topic=topic.text, source=topic.source, opener=self.opener, experts=self.refs)
        )
        turns: list[Turn] = []
        for turn in done:
            self._add(turns, turn)
        return turns

    def _add(self, turns: list[Turn], turn: Turn) -> None:
        if turn.note and not any(t.note and _kind(t.note) == _kind(turn.note) for t in turns):
            self.announce(Note(text=f"{self.id}, turn {len(turns) + 1}: {turn.note}", level="warning"))
        turns.append(turn)
        self.announce(TurnFinished(conversation=self.id, index=len(turns) - 1, turn=turn))

    def next_turn(self, turns: Sequence[Turn]) -> Flow[Turn]:
        """The turn after `turns`. Raises ContextTooSmallError."""
        index, speaker = len(turns), self.speaker(turns)
        request, note = self.request(turns)
        (answer,) = yield [Ask(speaker, request, label=speaker, place=Place(self.id, index, speaker))]
        return self.read(speaker, answer, note)

    def request(self, turns: Sequence[Turn]) -> tuple[GenerateRequest, str | None]:
        """What is asked for the turn after `turns`, and a note on what had to be left out."""
        speaker = self.speaker(turns)
        history = History(self.topic.text, tuple(turns))
        request, note = self.experts[speaker].reply_request(f"{self.id}/t{len(turns):02d}", history, self.tokens.get(speaker))
        _, picking = self.picked.get(len(turns), (speaker, None))
        return request, "; ".join(part for part in (picking, note) if part) or None

    def read(self, speaker: Speaker, answer: Result, note: str | None = None) -> Turn:
        """A turn from what the speaker's model wrote."""
        assert isinstance(answer, Completion)
        expert = self.experts[speaker]
        reply = expert.read_reply(answer.text)
        silent = answer.problem or (expert.thoughts.silent() if reply.thought and not reply.text else None)
        note = "; ".join(part for part in (note, silent) if part) or None
        return Turn(
            speaker=speaker,
            text=reply.text,
            thinking=reply.thinking if reply.thought else None,
            beyond=reply.beyond or None,
            tokens=answer.tokens,
            seconds=round(answer.seconds, 4),
            cut=answer.finish == "length" and not reply.beyond,  # what the limit cut was no longer this turn
            note=note,
        )

    # -- when it ends -----------------------------------------------------------------------------------------------

    def stop_reason(self, turns: Sequence[Turn]) -> StopReason | None:
        """Why the dialogue ends after `turns`, or None if it goes on."""
        if not turns:
            return None
        if self.config.stop_when_nothing_new and self._nothing_new(turns):
            return "nothing_new"
        several, like = len(self.experts), self.config.loop_similarity
        if silent(turns, several):
            return "blank"
        if repeats(turns, like) or stuck(turns, like, several) or only_courtesy(self.topic.text, turns):
            return "loop"
        if self.config.max_tokens is not None and sum(turn.tokens for turn in turns) >= self.config.max_tokens:
            return "token_limit"
        return "turns" if len(turns) >= self.config.turns else None

    def _nothing_new(self, turns: Sequence[Turn]) -> bool:
        """The last turns say so, as many as there are experts."""
        several, topic = len(self.experts), self.topic.text
        last = turns[-several:]
        return len(last) == several and all(self.experts[turn.speaker].has_nothing_new(turn.text, topic) for turn in last)


def _kind(note: str) -> str:
    """A note without its numbers: it is told once in a dialogue."""
    return "".join(letter for letter in note if not letter.isdigit())


def check_first_prompts(dialogue: Dialogue) -> None:
    """Raises ConfigError where an expert's prompt for the opening turn of this dialogue does not fit its context."""
    problems = []
    for seat, expert in dialogue.experts.items():
        try:
            expert.reply_request("check", History(dialogue.topic.text), dialogue.tokens.get(seat))
        except ContextTooSmallError as error:
            problems.append(f"{error}; shorten the prompt or persona, or lower experts.{seat}.decoding.reply.max_new_tokens")
    if problems:
        raise ConfigError(problems)
