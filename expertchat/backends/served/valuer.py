"""A reward model of a server: a number for a reply, by vLLM's /classify (what was said and the reply as a chat) or /score (as two texts).

Which of the two it takes is tried, and whether it tells the number before its own activation: then it is that of the same model here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from expertchat.backends.base import Capabilities, LaneApart, Valued, Valuer, ValueRequest
from expertchat.backends.reward_texts import shorter, valued
from expertchat.backends.served.can import there
from expertchat.backends.served.client import Answered, Bounds, Client, wait_for
from expertchat.backends.served.lane import OnText, ServedLane
from expertchat.backends.served.reading import Usage, usage
from expertchat.backends.served.trouble import Denied, OddAnswer, Refused
from expertchat.config import ConfigError, RewardModelConfig
from expertchat.folder.run import Halted
from expertchat.records import Message, Served
from expertchat.text.harmless import neutralise

Way = Literal["chat", "pair"]
WAYS: dict[Way, str] = {"chat": "^/classify", "pair": "^/score"}
MARKS = ("[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]", "<s>", "</s>", "<pad>", "<mask>")  # of encoders; which of them it has is not known
LENGTH = ("context", "length", "too long", "max_model_len", "tokens")  # how a refusal speaks of it
PROBE = Bounds(2, 60.0)
TRIED = (Message("user", "Let us talk about herons."),), "They fish in shallow water."


class ServedRewardModel(Valuer):
    """`config.model` at an address, with one label or two of which the second is the better one. Of what was said as much is shown as the
    server takes: the oldest messages are left out where it finds a text too long."""

    capabilities = Capabilities(scores=False, apart=True)

    def __init__(self, client: Client, config: RewardModelConfig, way: Way) -> None:
        self.client, self.config, self.way = client, config, way
        self.name = str(config.model)
        self.notes = [f"reward model: {self.name} at {client.name} is shown {'a chat' if way == 'chat' else 'two texts'}"]

    @classmethod
    def connect(cls, config: RewardModelConfig, client: Client) -> ServedRewardModel:
        """Ask for the worth of a sentence in either way. Raises ConfigError where the server gives none."""
        problems = list[str]()
        try:
            wait_for(there(client))
        except (Denied, Refused, Halted) as error:
            raise ConfigError(f"reward model: {error}") from None
        for way in WAYS:
            made = cls(client, config, way)
            try:
                raw, own = (wait_for(made.tried(activation)) for activation in (False, True))
            except (Denied, Refused, Halted) as error:
                problems.append(f"reward model, asked by {WAYS[way][1:]}: {error}")
                continue
            if len(raw) not in (1, 2):
                remedy = "a reward model has one, or two of which the second is the better"
                raise ConfigError(f"reward_model.model={made.name}: the server gives {len(raw)} numbers for a text; {remedy}")
            if raw == own:
                made.notes.append("its server gives numbers after an activation of its own: set reward_model.center and scale for them")
            return made
        raise ConfigError(problems)

    @property
    def device(self) -> str:
        return f"server {self.client.name}"

    def lane_apart(self) -> LaneApart:
        return ServedLane(self._answer, self.client)

    def value(self, requests: Sequence[ValueRequest]) -> list[Valued]:
        lane, found = ServedLane(self._answer, self.client), dict[int, Valued]()
        try:
            tickets = [lane.add(request) for request in requests]
            while lane.load:
                found |= dict(lane.advance())
        finally:
            lane.close()
        return [found[ticket] for ticket in tickets]

    async def tried(self, activation: bool) -> list[float]:
        """The numbers of a sentence."""
        answered = await self.client.ask(WAYS[self.way], self.body(*TRIED, activation), self._numbers, bounds=PROBE)
        return answered.value[0]

    async def _answer(self, request: ValueRequest, on_text: OnText | None = None) -> Valued:
        asked = ("value", self.name, self.way, request.messages, request.reply)
        name = hashlib.sha256(repr(asked).encode("utf-8", "replace")).hexdigest()[:32]
        try:
            if (kept := self.client.terms.ledger.find(name)) is not None and kept.score is not None:
                return valued(kept.score, self.config)
            answered = await self._asked(request)
        except Denied as error:
            raise Halted(str(error)) from None
        except Refused as error:
            return Valued(None, None, str(error))
        numbers, used = answered.value
        score = numbers[-1] - (numbers[0] if len(numbers) == 2 else 0.0)
        if math.isfinite(score):
            self.client.terms.ledger.keep(self._record(name, request.key, answered, used, score))
        return valued(score, self.config)

    async def _asked(self, request: ValueRequest) -> Answered[tuple[list[float], Usage]]:
        """The answer for as many of the messages as fit. Raises Refused with what the server said of the last of them."""
        refused = Refused("nothing was said before the reply")
        for messages in shorter(request.messages):
            try:
                return await self.client.ask(WAYS[self.way], self.body(messages, request.reply), self._numbers)
            except Refused as error:
                refused = error
                if not any(word in str(error).lower() for word in LENGTH):
                    break
        raise refused

    def body(self, messages: Sequence[Message], reply: str, activation: bool = False) -> dict[str, Any]:
        """The request: a chat that ends with the reply, or what was said beside it."""
        found: dict[str, Any] = {"model": self.name, "use_activation": activation}
        if self.way == "chat":
            chat = [*messages, Message("assistant", reply)]
            texts = [{"role": message.role, "content": str(neutralise(message.content, MARKS))} for message in chat]
            return found | {"messages": texts, "add_generation_prompt": False}
        said = "\n".join(message.content for message in messages)
        return found | {"text_1": str(neutralise(said, MARKS)), "text_2": str(neutralise(reply, MARKS))}

    def _numbers(self, found: Mapping[str, Any]) -> tuple[list[float], Usage]:
        (row,) = found["data"]
        numbers = row["probs"] if self.way == "chat" else [row["score"]]
        if not numbers or not all(isinstance(number, int | float) for number in numbers):
            raise OddAnswer("it gives no numbers")
        return [float(number) for number in numbers], usage(found)

    def _record(self, name: str, key: str, answered: Answered[Any], used: Usage, score: float) -> Served:
        return Served(
            id=name, key=key, model=self.name, server=answered.server, score=score, tries=answered.tries,
            seconds=round(answered.seconds, 4), prompt_tokens=used.prompt, completion_tokens=used.completion,
            cost=used.costs(self.config.prices),
        )  # fmt: skip
