"""A reward model of a server: a number for a reply, by vLLM's /classify (what was said and the reply as a chat) or /score (as two texts).

Which of the two it takes is tried, and whether it tells the number before its own activation: then it is that of the same model here. A
chat is rendered by the server and, where it tells the tokens, ends with the one that ends the reply, as it does here: many templates put a
line break behind that, and the number is read at the last token.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from expertchat.backends.base import Capabilities, Valued, Valuer, ValueRequest
from expertchat.backends.reward_texts import shorter, valued
from expertchat.backends.served.can import there
from expertchat.backends.served.client import Answered, Bounds, Client, wait_for
from expertchat.backends.served.lane import Asked, OnText, bytes_of
from expertchat.backends.served.reading import Usage, usage
from expertchat.backends.served.trouble import Denied, OddAnswer, Refused, of_length
from expertchat.config import ConfigError, RewardModelConfig
from expertchat.folder.run import Halted
from expertchat.records import Message
from expertchat.text.harmless import neutralise

Way = Literal["chat", "pair"]
WAYS: dict[Way, str] = {"chat": "^/classify", "pair": "^/score"}
MARKS: dict[Way, tuple[str, ...]] = {  # that no text may hold, besides those of roles; which of them the model has is not known
    "chat": ("<s>", "</s>"), "pair": ("[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]", "<s>", "</s>", "<pad>", "<mask>"),
}  # fmt: skip
PROBE = Bounds(2, 60.0)
TRIED = (Message("user", "Let us talk about herons."),), "They fish in shallow water."


class ServedRewardModel(Asked, Valuer):
    """`config.model` at an address, with one label or two of which the second is the better one. Of what was said as much is shown as the
    server takes: the oldest messages are left out where it finds a text too long."""

    capabilities = Capabilities(scores=False, apart=True)

    def __init__(self, client: Client, config: RewardModelConfig, way: Way) -> None:
        self.client, self.config, self.way = client, config, way
        self.tokens = False  # whether the server tells those of a chat, and takes them
        self.name, self.prices = str(config.model), config.prices
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
                made.tokens = way == "chat" and wait_for(made.takes_tokens())
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

    def value(self, requests: Sequence[ValueRequest]) -> list[Valued]:
        return self._all(requests)

    async def tried(self, activation: bool) -> list[float]:
        """The numbers of a sentence."""
        return (await self._read(self.body(*TRIED, activation), PROBE)).value[0]

    async def takes_tokens(self) -> bool:
        """Whether the server tells the tokens of a chat and takes them in its place."""
        try:
            await self._read(await self._ended(self.body(*TRIED), PROBE), PROBE)
        except (Denied, Refused):
            return False
        return True

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
            self._keep(name, request.key, answered, used, bytes_of(*request.messages) + len(request.reply.encode()), score=score)
        return valued(score, self.config)

    async def _asked(self, request: ValueRequest) -> Answered[tuple[list[float], Usage]]:
        """The answer for as many of the messages as fit. Raises Refused with what the server said of the last of them."""
        refused = Refused("nothing was said before the reply")
        for messages in shorter(request.messages):
            try:
                body = self.body(messages, request.reply)
                return await self._read(await self._ended(body) if self.tokens else body)
            except Refused as error:
                refused = error
                if not of_length(str(error)):
                    break
        raise refused

    async def _read(self, body: Mapping[str, Any], bounds: Bounds | None = None) -> Answered[tuple[list[float], Usage]]:
        return await self.client.ask(WAYS[self.way], body, self._numbers, bounds=bounds)

    async def _ended(self, body: Mapping[str, Any], bounds: Bounds | None = None) -> dict[str, Any]:
        """The request with the tokens of its chat, which end with the last one that is no white space."""
        asked = {key: body[key] for key in ("model", "messages", "add_generation_prompt")} | {"return_token_strs": True}
        ids = (await self.client.ask("^/tokenize", asked, _tokens, bounds=bounds)).value
        rest = {key: value for key, value in body.items() if key not in asked}
        return rest | {"model": self.name, "input": ids, "add_special_tokens": False}

    def body(self, messages: Sequence[Message], reply: str, activation: bool = False) -> dict[str, Any]:
        """The request: a chat that ends with the reply, or what was said beside it."""
        found: dict[str, Any] = {"model": self.name, "use_activation": activation}
        if self.way == "chat":
            chat = [*messages, Message("assistant", reply)]
            texts = [{"role": message.role, "content": self._plain(message.content)} for message in chat]
            return found | {"messages": texts, "add_generation_prompt": False}
        said = "\n".join(message.content for message in messages)
        return found | {"text_1": self._plain(said), "text_2": self._plain(reply)}

    def _plain(self, text: str) -> str:
        return str(neutralise(text, MARKS[self.way]))

    def _numbers(self, found: Mapping[str, Any]) -> tuple[list[float], Usage]:
        (row,) = found["data"]
        numbers = row["probs"] if self.way == "chat" else [row["score"]]
        if not numbers or not all(isinstance(number, int | float) for number in numbers):
            raise OddAnswer("it gives no numbers")
        return [float(number) for number in numbers], usage(found)


def _tokens(found: Mapping[str, Any]) -> list[int]:
    """The ids of a chat's tokens without white space at its end, which byte-level and sentence-piece vocabularies write in letters."""
    ids, words = [int(one) for one in found["tokens"]], [str(one) for one in found["token_strs"]]
    while words and not words[-1].strip("Ċ Ġ▁\n"):
        words.pop()
    if not words:
        raise OddAnswer("it tells no tokens")
    return ids[: len(words)]
