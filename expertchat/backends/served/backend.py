"""A model behind an address: requests become those of OpenAI's chat protocol, and answers what a flow is sent."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from expertchat.backends.base import (
    Backend,
    Capabilities,
    Completion,
    Decoding,
    GenerateRequest,
    ModelInfo,
    OnText,
    ScoreRequest,
    Scores,
)
from expertchat.backends.served import reading
from expertchat.backends.served.can import COUNTED, FLAGS, Can, count, what_it_can
from expertchat.backends.served.client import Answered, Client, wait_for
from expertchat.backends.served.lane import Asked, bytes_of
from expertchat.backends.served.lane import OnText as OnRow
from expertchat.backends.served.options import Walk
from expertchat.backends.served.trouble import Denied, Refused
from expertchat.backends.template import PLACEHOLDER
from expertchat.config import ConfigError, DecodingConfig, ModelConfig
from expertchat.folder.run import Halted
from expertchat.records import Message
from expertchat.text.sentences import writable

STOPS = 4  # stop strings that every server takes; all of them are looked for here as well
STREAMED = 4  # requests at once whose texts come in pieces: to read them costs more than to read whole ones
STEPS = 6  # of a walk to the options, at most
FRAME = 16  # tokens that a message takes besides its text, at most
NO_SCORES = "the server tells no log probabilities"
GO_ON = "Your answer has to begin with the following words; go on right after them, and do not repeat them:\n"


class ServedBackend(Asked, Backend):
    """One model of a server. What is sent follows from what the server `can` (expertchat.backends.served.can).

    The noise of a reply is keyed by `seed` and the request's key where the server takes seeds. `thinking`, `more` (further fields of each
    request) and `prices` are the config's. An answer that the run has on its ledger is not asked for again.
    """

    def __init__(
        self,
        client: Client,
        model: str,
        can: Can,
        seed: int = 0,
        *,
        context_length: int | None = None,
        more: Mapping[str, Any] | None = None,
        thinking: bool = False,
        prices: Sequence[float] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.client, self.name, self.can, self.seed = client, model, can, seed
        self.more, self.thinking, self.prices = dict(more or {}), thinking, prices
        self.version = ""  # of the weights, where one name stands for several
        self.capabilities = Capabilities(tokens=can.tokens, scores=can.seen > 0 and can.begins != "asked", apart=True)
        self.info = ModelInfo(
            name=model,
            context_length=context_length or can.context or 0,
            notes=tuple(notes),
            system_role=can.system,
            alternation=can.alternation,
        )
        self._streams = 0
        self._counted: dict[tuple[Message, ...], int] = {}

    @classmethod
    def connect(cls, config: ModelConfig, seed: int, client: Client) -> ServedBackend:
        """Find out what the server can. Raises ConfigError where it cannot be asked at all, or not as the config demands."""
        model = str(config.model)
        try:
            temperatures = {temperature_of(stage) for stage in _stages(config).values()}
            can = wait_for(what_it_can(client, model, config.thinking, config.more, temperatures))
        except (Denied, Refused) as error:
            raise ConfigError(str(error)) from None
        except Halted as error:
            raise ConfigError(f"server {client.name}: {error}") from None
        problems = list(_cannot(config, can))
        if client.settings.max_cost is not None and config.prices is None and not can.cost:
            problems.append(
                f"server.max_cost={client.settings.max_cost:g}: the server does not say what {model} costs; set its prices "
                "(prices=[PROMPT,ANSWER], of a million tokens)"
            )
        if problems:
            raise ConfigError(problems)
        notes = [f"at {client.name}: {can.told()}"]
        if can.context is None and config.context_length is None:
            notes.append("the server does not say how long its context is: 4096 tokens are assumed; set context_length")
        if not can.seeds:
            notes.append("the same seed gives other texts: the server keeps to none")
        return cls(
            client, model, can, seed, context_length=config.context_length or can.context or 4096, more=config.more,
            thinking=config.thinking, prices=config.prices, notes=notes,
        )  # fmt: skip

    def generate(self, requests: Sequence[GenerateRequest], on_text: OnText | None = None) -> list[Completion]:
        return self._all(requests)

    def score(self, requests: Sequence[ScoreRequest]) -> list[Scores]:
        return self._all(requests)

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """As the server counts, where it does and it matters; else no fewer than a third of the bytes."""
        chat = tuple(messages)
        size = bytes_of(*chat)
        rough = size // 3 + FRAME * len(chat)
        if self.can.counts is None or 2 * (size + FRAME * len(chat)) <= self.info.context_length:
            return rough
        if chat not in self._counted:
            try:
                self._counted[chat] = wait_for(count(self.client, self.name, self.can.counts, _plain(chat)))
            except (Denied, Refused):
                self._counted[chat] = rough
        return self._counted[chat]

    # -- what is asked ------------------------------------------------------------------------------------------------

    async def _answer(self, request: GenerateRequest | ScoreRequest, on_text: OnRow | None = None) -> Completion | Scores:
        """The answer to one request: what is known of it already, else the server's. Raises Halted where nothing more can be asked."""
        name = self._digest(request)
        try:
            if isinstance(request, ScoreRequest):
                return await self._scored(request, name)
            return await self._written(request, name, on_text)
        except Denied as error:
            raise Halted(str(error)) from None
        except Refused as error:
            if isinstance(request, ScoreRequest):
                return Scores((math.nan,) * len(request.options), problem=str(error))
            return Completion("", 0, 0.0, "stop", problem=str(error))

    def _digest(self, request: GenerateRequest | ScoreRequest) -> str:
        """What an answer is known by: all that it depends on, and its noise."""
        asked = (self.name, self.version, self.seed, self.thinking, sorted(self.more.items()), request)
        return hashlib.sha256(repr(asked).encode("utf-8", "replace")).hexdigest()[:32]

    async def _written(self, request: GenerateRequest, name: str, on_text: OnRow | None) -> Completion:
        if (kept := self.client.terms.ledger.find(name)) is not None and kept.text is not None:
            return reading.completion(kept, request)
        streams = on_text is not None and self.can.streams is not None and self._streams < STREAMED
        self._streams += streams
        try:
            body, on_text = self.body(request), on_text if streams else None
            if on_text is not None and self.can.streams == "counted":
                body["stream_options"] = COUNTED
            answered = await self.client.ask("/chat/completions", body, reading.said, on_text)
        finally:
            self._streams -= streams
        said = answered.value
        if said.problem:
            raise Refused(f"server {answered.server}: {said.problem}")
        text = writable(said.text if self.can.begins != "asked" else reading.without(said.text, request.prefix))
        record = self._keep(
            name, request.key, answered, said.usage, bytes_of(*request.messages), text=text, finish=said.finish, prompt=said.prompt,
            ids=said.ids, ended=said.ended,
        )  # fmt: skip
        return reading.completion(record, request)

    async def _scored(self, request: ScoreRequest, name: str) -> Scores:
        if (kept := self.client.terms.ledger.find(name)) is not None and kept.logprobs is not None:
            return Scores(tuple(-math.inf if p is None else p for p in kept.logprobs), kept.seconds)
        if not self.capabilities.scores:
            raise Refused(NO_SCORES)
        walk, steps = Walk(request.options), list[Answered[Any]]()
        while len(steps) < STEPS + len(request.options) and (begin := walk.next()) is not None:
            body = self._chat(request.messages, request.prefix + begin) | {
                self.can.limit: 1, "temperature": 0.0, "top_p": 1.0, "logprobs": True, "top_logprobs": self.can.seen,
            }  # fmt: skip
            steps.append(await self.client.ask("/chat/completions", body | self._spare(None), reading.likeliest))
            tokens = dict(steps[-1].value.tokens)
            for rest in walk.lacking(begin, tokens) if self.can.forced else ():
                forced = body | self._spare(None) | {"structured_outputs": {"choice": [rest]}}
                steps.append(await self.client.ask("/chat/completions", forced, reading.said_token))
                tokens |= steps[-1].value.tokens
            walk.take(begin, tokens)
        logprobs, seconds = walk.logprobs(), sum(step.seconds for step in steps)
        whole = Answered(None, sum(step.tries for step in steps), seconds, steps[-1].server)
        usage = reading.added([step.value.usage for step in steps])
        sent = len(steps) * bytes_of(*request.messages)
        self._keep(name, request.key, whole, usage, sent, logprobs=[p if math.isfinite(p) else None for p in logprobs])
        return Scores(logprobs, seconds)

    # -- the request --------------------------------------------------------------------------------------------------

    def body(self, request: GenerateRequest) -> dict[str, Any]:
        """A request for text in the protocol's words."""
        decoding = request.decoding
        found = self._chat(request.messages, request.prefix) | {self.can.limit: decoding.max_new_tokens}
        found["temperature"] = temperature_of(decoding)
        if decoding.method != "greedy" and self.can.nucleus:
            found["top_p"] = decoding.top_p
        if self.can.seeds:
            digest = hashlib.sha256(f"{self.seed} {request.key}".encode("utf-8", "replace")).digest()
            found["seed"] = int.from_bytes(digest[:4], "big") & 0x7FFFFFFF
        # A server looks for them in thoughts too, where they end nothing: those of an answer that may think are looked for here alone.
        begun = bool(request.prefix) and self.can.begins != "asked"
        if request.stops and self.can.stops and (begun or not self.thinking):
            found["stop"] = list(request.stops[:STOPS])
        if self.can.tokens:
            found["return_token_ids"] = True
        return found | self._spare(decoding)

    def _chat(self, messages: Sequence[Message], prefix: str) -> dict[str, Any]:
        """The model and the chat, with the beginning of its answer in the way that the server takes it."""
        chat, flags = _plain(messages), {}
        if prefix and self.can.begins == "asked":
            chat[-1] = {**chat[-1], "content": f"{chat[-1]['content']}\n\n{GO_ON}{prefix}"}
        elif prefix:
            chat.append({"role": "assistant", "content": prefix})
            flags = FLAGS if self.can.begins == "flag" else {}
        return {"model": self.name, "messages": chat, **flags, **self.more}

    def _spare(self, decoding: Decoding | None) -> dict[str, Any]:
        """What OpenAI's protocol has not, and the server's own defaults would decide."""
        if not self.can.extras:
            return {}
        drawn = decoding is not None and decoding.method == "sampling"
        return {
            "top_k": decoding.top_k or -1 if drawn and decoding else -1,
            "min_p": decoding.min_p if drawn and decoding else 0.0,
            "repetition_penalty": 1.0,
            "chat_template_kwargs": {"enable_thinking": self.thinking},
        }


def _plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages in the protocol's words. Several servers refuse a blank one."""
    return [{"role": message.role, "content": message.content if message.content.strip() else PLACEHOLDER} for message in messages]


def _cannot(config: ModelConfig, can: Can) -> list[str]:
    """What the config demands of this server, and it has not."""
    stages = _stages(config)
    problems = [
        f"decoding.{name}.{key}={value:g}: the server of {config.model} does not take {key}; set it to 0"
        for name, stage in stages.items()
        for key, value in (("top_k", stage.top_k), ("min_p", stage.min_p))
        if stage.method == "sampling" and value and not can.extras
    ]
    whose = f"the server of {config.model}"
    for name, stage in stages.items():
        if (temperature := temperature_of(stage)) in can.refused:
            problems.append(f"decoding.{name}: {whose} does not take temperature={temperature:g} ({can.refused[temperature]}); set another")
        elif stage.method != "greedy" and stage.top_p != 1 and not can.nucleus:
            problems.append(f"decoding.{name}.top_p={stage.top_p:g}: {whose} takes no top_p beside a temperature; set it to 1")
    return problems


def _stages(config: ModelConfig) -> dict[str, DecodingConfig]:
    return {"topic": config.decoding.topic, "reply": config.decoding.reply, "judge": config.decoding.judge}


def temperature_of(decoding: Decoding | DecodingConfig) -> float:
    """The temperature that a server is asked for."""
    return 0.0 if decoding.method == "greedy" else decoding.temperature
