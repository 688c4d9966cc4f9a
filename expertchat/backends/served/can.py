"""What a server can, found by asking it at the start: nothing of it is assumed.

Each finding costs one to three requests of a token or a few. Whether an answer can be begun for the model is seen from the tokens that
the server counts: what is put behind the chat has to add its own tokens and no others. Log probabilities of a given text are not tried:
nothing needs them, and a vLLM with adapters falls over them (0.32 on a CPU).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from expertchat.backends.served.client import Bounds, Client
from expertchat.backends.served.trouble import Denied, OddAnswer, Refused
from expertchat.text.sentences import listed

Chat = list[dict[str, str]]
Begins = Literal["flag", "plain", "asked"]
Counts = Literal["tokenize", "apply-template"]
Limit = Literal["max_tokens", "max_completion_tokens"]
LIMITS: tuple[Limit, ...] = ("max_tokens", "max_completion_tokens")
MOST_SEEN = (100, 20, 5)  # likeliest tokens that are asked for, in this order, until the server gives any
WORD, LETTER = " heron", "q"
FEW, MANY = 8, 24  # words that an answer is begun with, to see what they add
Streams = Literal["counted", "plain"]
COUNTED = {"include_usage": True}  # a stream that tells its tokens at the end
FLAGS = {"continue_final_message": True, "add_generation_prompt": False}
PROBE = Bounds(2, 60.0)
SPARE = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
USER = {"role": "user", "content": "Say one word."}
SYSTEM = {"role": "system", "content": "You are a person who knows all about herons, and you speak of nothing else."}


@dataclass(frozen=True)
class Can:
    """`limit`: what the server calls the most tokens of an answer. `extras`: it takes what OpenAI's protocol has not (top_k, min_p,
    repetition_penalty), which else its own defaults would decide. `begins`: how an answer's beginning is given: by vLLM's flags, as the
    last message, or it cannot, and is asked for in words. `seen`: likeliest tokens that it tells the probabilities of. `counts`: who counts
    the tokens of a chat. `several`: n answers in one request. `nucleus`: top_p beside a temperature. `refused`: temperatures that it does
    not take, with its words. `streams`: whether an answer may come in pieces, and whether its tokens are told then. `system`,
    `alternation`: what its chat template takes and demands.
    """

    limit: Limit = "max_tokens"
    extras: bool = False
    begins: Begins = "asked"
    seen: int = 0
    seeds: bool = False
    several: bool = False
    choices: bool = False
    forced: bool = False  # and what is said by choice is told with the probability that it had
    tokens: bool = False  # the ids of its tokens
    adapters: bool = False  # LoRA adapters may be loaded while it runs
    counts: Counts | None = None
    usage: bool = False
    cost: bool = False
    nucleus: bool = True
    stops: bool = True
    streams: Streams | None = "counted"
    refused: Mapping[float, str] = field(default_factory=dict)
    system: bool = True
    alternation: bool = True
    context: int | None = None
    models: tuple[str, ...] = field(default=())

    def told(self) -> str:
        """All of it in a sentence, for people."""
        seen = f" of {self.seen} tokens" if self.seen else ""
        has = {
            f"log probabilities{seen}": self.seen > 0, "beginnings of answers": self.begins != "asked",
            "seeds": self.seeds, "n": self.several, "choices": self.choices,
            "token ids": self.tokens, "adapters at run time": self.adapters, "counting of tokens": self.counts is not None,
            "a system role": self.system, "free order of roles": not self.alternation,
        }  # fmt: skip
        there, lacking = [name for name, yes in has.items() if yes], [name for name, yes in has.items() if not yes]
        context = f", context {self.context}" if self.context else ""
        return f"can {listed(there) or 'nothing besides'}{f'; cannot {listed(lacking)}' if lacking else ''}{context}"


class Tried(NamedTuple):
    """An answer of one token or a few, as far as the probing looks at it."""

    text: str
    tokens: int | None
    prompt: int | None
    seen: int
    choices: int
    ids: bool
    cost: bool
    logprob: float | None


async def what_it_can(
    client: Client, model: str, thinking: bool = False, more: Mapping[str, Any] | None = None, temperatures: Collection[float] = ()
) -> Can:
    """Ask, for the temperatures that are wanted too. Raises Denied or Refused where it does not even answer a plain question."""
    return await _Probe(client, model, dict(more or {})).run(thinking, temperatures)


@dataclass
class _Probe:
    client: Client
    model: str
    more: dict[str, Any]
    can: Can = field(default_factory=Can)

    async def run(self, thinking: bool, temperatures: Collection[float]) -> Can:
        models, context = self._listed(await there(self.client))
        if models and not has(models, self.model):
            raise Denied(f"server {self.client.addresses[0].url}: has no model {self.model}; it has {', '.join(models[:8])}")
        self.can = replace(self.can, models=models, context=context)
        await self._plain(thinking)
        asked: dict[str, Coroutine[Any, Any, Any]] = {
            "system": self._system(), "alternation": self._alternation(), "begins": self._begins(), "seeds": self._seeds(),
            "several": self._several(), "choices": self._choices(), "forced": self._forced(), "tokens": self._ids(),
            "counts": self._counts(), "adapters": self._adapters(), "nucleus": self._nucleus(), "stops": self._stops(),
            "streams": self._streams(), "refused": self._refused(temperatures),
        }  # fmt: skip
        found: dict[str, Any] = dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))
        self.can = replace(self.can, **found)
        if self.can.context is None:
            self.can = replace(self.can, context=await self._context())
        return self.can

    async def _get(self, route: str) -> Any:
        """What is there to be read; None where it is not."""
        try:
            return (await self.client.ask(route, {}, lambda found: found, bounds=PROBE)).value
        except (Denied, Refused):
            return None

    def _listed(self, found: Any) -> tuple[tuple[str, ...], int | None]:
        """The models' names, and the context of the one that is wanted, where it is told."""
        data = found.get("data") if isinstance(found, dict) else None
        models = [one for one in data or [] if isinstance(one, dict) and isinstance(one.get("id"), str)]
        mine = next((one for one in models if one["id"] == self.model), {})
        return tuple(one["id"] for one in models), _number(mine.get("max_model_len"))

    async def _context(self) -> int | None:
        props = await self._get("^/props")
        settings = props.get("default_generation_settings") if isinstance(props, dict) else None
        return _number(settings.get("n_ctx")) if isinstance(settings, dict) else None

    # -- one question after the other -------------------------------------------------------------------------------------

    async def _try(self, messages: Chat, most: int = 1, **fields: Any) -> Tried:
        body = {"model": self.model, "messages": messages, self.can.limit: most, **self.more, **fields}
        return (await self.client.ask("/chat/completions", body, read_tried, bounds=PROBE)).value

    async def _may(self, messages: Chat, **fields: Any) -> Tried | None:
        """The same, None where the server does not take it."""
        try:
            return await self._try(messages, **fields)
        except Refused:
            return None

    async def _plain(self, thinking: bool) -> None:
        """A plain question, with what is not everywhere: left away step by step until the server takes it."""
        spare: dict[str, Any] = {**SPARE, "chat_template_kwargs": {"enable_thinking": thinking}}
        for limit in LIMITS:
            self.can = replace(self.can, limit=limit)
            for extras in (spare, {}):
                for seen in (*MOST_SEEN, 0):
                    asked = {"logprobs": True, "top_logprobs": seen} if seen else {}
                    if (found := await self._may([USER], temperature=1.0, **asked, **extras)) is None:
                        continue
                    usage, cost = found.prompt is not None, found.cost
                    self.can = replace(self.can, extras=bool(extras), seen=min(found.seen, seen), usage=usage, cost=cost)
                    return
        await self._try([USER])  # says why

    async def _system(self) -> bool:
        """It is taken, and not silently left away: a longer one takes more tokens. Some templates write one where there is none."""
        long, short = await asyncio.gather(self._may([SYSTEM, USER]), self._may([{**SYSTEM, "content": "Yes."}, USER]))
        if long is None:
            return False
        return short is None or long.prompt is None or short.prompt is None or long.prompt - short.prompt > FEW

    async def _alternation(self) -> bool:
        """Two messages of one role may not follow each other."""
        return await self._may([USER, USER]) is None

    async def _begins(self) -> Begins:
        ways: tuple[tuple[Begins, dict[str, Any]], ...] = (("flag", FLAGS), ("plain", {}))
        for how, flags in ways:
            few, many = ([USER, {"role": "assistant", "content": (WORD * n).strip()}] for n in (FEW, MANY))
            sizes = await asyncio.gather(self._size([USER]), self._size(few, **flags), self._size(many, **flags))
            if None in sizes:
                continue
            bare, with_few, with_many = (float(size or 0) for size in sizes)
            per_word = (with_many - with_few) / (MANY - FEW)
            if per_word > 0 and abs(with_few - bare - FEW * per_word) <= 1:
                return how
        return "asked"

    async def _size(self, messages: Chat, **flags: Any) -> int | None:
        """The tokens of a chat; None where it is not taken, or nobody counts."""
        found = await self._may(messages, **flags)
        return None if found is None else found.prompt

    async def _seeds(self) -> bool:
        one, two = await asyncio.gather(*(self._may([USER], most=8, temperature=1.0, seed=7) for _ in range(2)))
        return one is not None and two is not None and one.text == two.text

    async def _several(self) -> bool:
        found = await self._may([USER], n=2, temperature=1.0)
        return found is not None and found.choices == 2

    async def _choices(self) -> bool:
        found = await self._may([USER], most=8, structured_outputs={"choice": [WORD.strip()]})
        return found is not None and found.text.strip() == WORD.strip()

    async def _forced(self) -> bool:
        """A letter that nobody would say here is not told as certain, because it was the only choice. One letter, for the beginnings of a
        longer word could be several tokens, none of them certain."""
        asked = {"logprobs": True, "top_logprobs": 1, "temperature": 0.0} if self.can.seen else {}
        found = await self._may([USER], structured_outputs={"choice": [LETTER]}, **asked)
        return found is not None and found.logprob is not None and found.logprob < -2

    async def _nucleus(self) -> bool:
        return await self._may([USER], temperature=1.0, top_p=1.0) is not None

    async def _stops(self) -> bool:
        return await self._may([USER], stop=["\n\n"]) is not None

    async def _streams(self) -> Streams | None:
        ways: tuple[tuple[Streams, dict[str, Any]], ...] = (("counted", {"stream_options": COUNTED}), ("plain", {}))
        for how, options in ways:
            body = {"model": self.model, "messages": [USER], self.can.limit: 1, **self.more, **options}
            try:
                await self.client.ask("/chat/completions", body, read_tried, lambda text: None, bounds=PROBE)
                return how
            except Refused:
                continue
        return None

    async def _refused(self, temperatures: Collection[float]) -> dict[float, str]:
        found = {}
        for temperature in temperatures:
            try:
                await self._try([USER], temperature=temperature)
            except Refused as error:
                found[temperature] = str(error)
        return found

    async def _ids(self) -> bool:
        found = await self._may([USER], return_token_ids=True)
        return found is not None and found.ids

    async def _counts(self) -> Counts | None:
        ways: tuple[Counts, ...] = ("tokenize", "apply-template")
        for how in ways:
            try:
                if await count(self.client, self.model, how, [USER]) > 2:
                    return how
            except (Denied, Refused):
                continue
        return None

    async def _adapters(self) -> bool:
        """A server that loads adapters misses the name of one; others have no such address."""
        try:
            await self.client.ask("/load_lora_adapter", {"lora_name": "", "lora_path": ""}, lambda found: found, bounds=PROBE)
        except Refused:
            return True
        except Denied:
            return False
        return True


async def there(client: Client) -> Any:
    """The list of a server's models, where it has one, as soon as it is there; what is wrong with key or address shows here first. Raises
    Denied."""
    wait = client.settings.wait
    try:
        return (await client.ask("/models", {}, lambda found: found, bounds=Bounds(1000, wait))).value
    except Denied as error:
        if "no connection" in str(error):
            raise Denied(f"{error}, for {wait:.0f} s (server.wait)") from None
        if not error.unknown:
            raise
    except Refused as error:
        if ": 500" not in str(error):  # it is there, and fails at its list (transformers serve does): what it can is asked without
            raise Denied(f"{error} (waited for {wait:.0f} s: server.wait)") from None
    return None


async def count(client: Client, model: str, how: Counts, messages: Sequence[Mapping[str, str]]) -> int:
    """The tokens of a chat as the server renders it, with the beginning of the answer. Raises Denied or Refused."""
    chat = list(messages)
    if how == "tokenize":
        body = {"model": model, "messages": chat, "add_generation_prompt": True}
        return (await client.ask("^/tokenize", body, lambda found: _whole(found.get("count")), bounds=PROBE)).value
    rendered = await client.ask("^/apply-template", {"messages": chat}, lambda found: str(found["prompt"]), bounds=PROBE)
    body = {"content": rendered.value, "add_special": True, "parse_special": True}
    return (await client.ask("^/tokenize", body, lambda found: len(found["tokens"]), bounds=PROBE)).value


def has(models: Collection[str], model: str) -> bool:
    """Whether a model is among those that a server lists: OpenRouter's NAME:floor is NAME, Ollama's NAME is NAME:latest.

    >>> has(["m"], "m:floor"), has(["m:latest", "m:8b"], "m"), has(["m:8b"], "m")
    (True, True, False)
    """
    return any(name in models for name in (model, model.rpartition(":")[0], f"{model}:latest"))


def read_tried(found: Any) -> Tried:
    """What an answer of a chat shows of the server. Raises for another shape."""
    choices = found["choices"]
    text, usage = choices[0]["message"].get("content"), found.get("usage") or {}
    content = (choices[0].get("logprobs") or {}).get("content") or [{}]
    return Tried(
        text if isinstance(text, str) else "", _number(usage.get("completion_tokens")), _number(usage.get("prompt_tokens")),
        len(content[0].get("top_logprobs") or []), len(choices), bool(choices[0].get("token_ids")), usage.get("cost") is not None,
        content[0].get("logprob"),
    )  # fmt: skip


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _whole(value: Any) -> int:
    if (found := _number(value)) is None:
        raise OddAnswer("it counts no tokens")
    return found
