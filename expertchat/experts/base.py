"""Who speaks: an expert builds requests and reads answers; it never generates anything by itself.

A family (Llama 3, Mixtral, ...) overrides facts: `Family` below. Here is also the one place in which a neutral
transcript becomes an expert's own view with "user" and "assistant".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from expertchat.backends.base import Decoding, GenerateRequest
from expertchat.experts.naming import named
from expertchat.experts.reply import Reply
from expertchat.experts.speakers import Speakers
from expertchat.experts.thoughts import Thoughts
from expertchat.records import SEATS, ExpertRef, Message, Role, Speaker, Turn
from expertchat.text.refusals import refuses
from expertchat.text.sentences import Safe, in_line, listed, neutralise
from expertchat.text.wordings import Prompts, fill

CountTokens = Callable[[Sequence[Message]], int]


@dataclass(frozen=True)
class Family:
    """The facts of a model family that its requests depend on."""

    name: str
    system_role: bool = True  # False: the system text is put in front of the first user message
    alternation: bool = True  # strict user / assistant / user / ...
    stop: tuple[str, ...] = ()  # tokens that end a message besides the tokenizer's own end token
    context_length: int = 4096  # when the model's config does not say
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    decoding: Decoding = Decoding(method="contrastive", penalty_alpha=0.6, top_k=4)
    max_sentences: int | None = None  # how many sentence markers a judge of this family can read


class ContextTooSmallError(ValueError):
    """Not even the last turn fits into the model's context."""


@dataclass(frozen=True)
class Settings:
    """What one expert is configured to be."""

    prompts: Prompts
    persona: str
    topic: Decoding
    reply: Decoding
    judge: Decoding
    thinking: bool = False  # it may think before it speaks


@dataclass(frozen=True)
class History:
    """A dialogue so far, as far as a reply depends on it."""

    topic: str
    turns: tuple[Turn, ...] = ()


class ExpertChat:
    """One expert of a dialogue: a family's facts, a persona, and the wordings of its requests.

    `letter` is its name, which is its seat in the dialogue ("a", "b"), or "third" or "moderator" for one that does not talk. `seats` are
    the names of all who talk.
    """

    family = Family("auto")

    def __init__(
        self,
        letter: str,
        settings: Settings,
        ref: ExpertRef | None = None,
        context_length: int | None = None,
        special_tokens: Sequence[str] = (),
        seats: Sequence[Speaker] = SEATS,
    ) -> None:
        self.letter, self.seats = letter, tuple(seats)
        self.settings = settings
        self.ref = ref or ExpertRef(family=self.family.name, model="")
        self.context_length = context_length or self.family.context_length
        self.special_tokens = tuple(special_tokens)
        self.speakers = Speakers(letter.upper(), [name.upper() for name in self.seats if name != letter])
        self.thoughts = Thoughts(letter, self.ref.model or self.family.name, settings.thinking)

    # -- views ------------------------------------------------------------------------------------------------------

    def chat(self, system: str, exchange: Sequence[Message]) -> tuple[Message, ...]:
        """Messages in the form that the family accepts: system text placed, same roles merged, a user first."""
        merged: list[Message] = []
        for message in exchange:
            if merged and self.family.alternation and merged[-1].role == message.role:
                merged[-1] = Message(message.role, f"{merged[-1].content}\n{message.content}")
            else:
                merged.append(message)
        if not system:
            return tuple(merged)
        if self.family.system_role:
            return (Message("system", system), *merged)
        first = Message("user", f"{system}\n\n{merged[0].content}")
        return (first, *merged[1:])

    def view(self, history: History) -> tuple[Message, ...]:
        """The dialogue as this expert sees it: its own turns are "assistant", all others' are "user".

        Where more than two talk, the others' turns begin with their names ("B: ...") and the system text says who is there, if the wordings
        have words for that (`company`). The expert that opens has no turn to answer: its first user message asks it to open.
        """
        prompts = self.settings.prompts
        names = {"topic": self._safe(history.topic), "name": self.letter.upper()}
        persona = self._safe(fill(self.settings.persona, **names), lines=True)
        system = fill(prompts.system, persona=persona, **names)
        with_names = len(self.seats) > 2 and bool(prompts.company)
        if with_names:
            others = listed([seat.upper() for seat in self.seats if seat != self.letter])
            system = Safe(f"{system}\n{fill(prompts.company, name=self.letter.upper(), others=others)}".strip())
        exchange: list[Message] = []
        if not history.turns or history.turns[0].speaker == self.letter:
            exchange.append(Message("user", fill(prompts.opening, prompt=self._safe(history.topic, lines=True), **names)))
        for turn in history.turns:
            role: Role = "assistant" if turn.speaker == self.letter else "user"
            label = f"{turn.speaker.upper()}: " if with_names and role == "user" else ""
            exchange.append(Message(role, f"{label}{self._safe(turn.text, lines=True)}"))
        return self.chat(system, exchange)

    # -- requests ---------------------------------------------------------------------------------------------------

    def topic_request(self, key: str, avoid: Sequence[str] = ()) -> GenerateRequest:
        """Ask for one topic that is none of `avoid`."""
        prompts = self.settings.prompts
        shown = Safe(", ".join(self._safe(topic) for topic in avoid))
        text = fill(prompts.topic, avoid=fill(prompts.avoid, topics=shown) if avoid else "")
        return GenerateRequest(key, self.chat("", [Message("user", text)]), self.settings.topic, prefix=prompts.topic_prefix)

    def reply_request(self, key: str, history: History, count: CountTokens | None = None) -> tuple[GenerateRequest, str | None]:
        """Ask for the next turn; with `count`, the oldest turns are left out until the prompt and the reply fit.

        Returns the request and a note on what was left out (None if nothing). Raises ContextTooSmallError when not even the last turn
        fits.
        """
        decoding, dropped = self.settings.reply, 0
        room = self.context_length - decoding.max_new_tokens
        shown = history
        while count is not None and (needed := count(self.view(shown))) > room:
            if len(shown.turns) <= 1:
                raise ContextTooSmallError(
                    f"expert {self.letter}: the prompt takes {needed} tokens and the reply up to {decoding.max_new_tokens}, "
                    f"but the context holds {self.context_length}"
                )
            shown, dropped = replace(shown, turns=shown.turns[1:]), dropped + 1
            while len(shown.turns) > 1 and shown.turns[0].speaker == self.letter:  # else it would seem to have opened the dialogue
                shown, dropped = replace(shown, turns=shown.turns[1:]), dropped + 1
        note = f"{dropped} oldest turn{'s' if dropped > 1 else ''} not shown: context full" if dropped else None
        return GenerateRequest(key, self.view(shown), decoding), note

    # -- answers ----------------------------------------------------------------------------------------------------

    def read_reply(self, text: str) -> Reply:
        """What the model wrote as its turn, taken apart."""
        found = self.thoughts.apart(text)
        own, beyond = self.speakers.apart(self._safe(found.said, lines=True))
        return Reply(own, found.thinking, beyond, thought=found.found, unended=found.open)

    def read_answer(self, text: str, prefix: str = "") -> Reply:
        """What the model wrote as a judge after `prefix`, which is a part of what it says, taken apart. It may speak of both experts."""
        found = self.thoughts.apart(text, prefix)
        return Reply(self._safe(prefix + found.said, lines=True), found.thinking, thought=found.found, unended=found.open)

    def read_topic(self, text: str, cut: bool = False) -> str | None:
        """The topic in the model's answer, or None where there is none (or only the thoughts before it). `cut`: by the token limit."""
        return self._topic(text, cut)[0]

    def why_no_topic(self, text: str, cut: bool = False) -> str | None:
        """The kind of problem (naming.PROBLEMS) for which an answer holds no topic."""
        return self._topic(text, cut)[1]

    def _topic(self, text: str, cut: bool) -> tuple[str | None, str | None]:
        found = self.thoughts.apart(text, self.settings.prompts.topic_prefix)
        if found.open or refuses(found.said):
            return None, "thinking" if found.open else "refusal"
        return named(self._safe(found.said, lines=True), fill(self.settings.prompts.topic, avoid=""), cut)

    def has_nothing_new(self, text: str, topic: str) -> bool:
        """Whether the turn says that the speaker has nothing new to add."""
        named = {"topic": self._safe(topic), "subject": ""}
        return any(fill(phrase, **named).lower() in text.lower() for phrase in self.settings.prompts.nothing_new)

    def _safe(self, text: str, lines: bool = False) -> Safe:
        return Safe(neutralise(text, self.special_tokens).strip()) if lines else in_line(text, self.special_tokens)


