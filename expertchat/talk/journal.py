"""What models answered, kept as it comes: a flow that is run again after a break asks only for what is lacking."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from expertchat.backends.asking import Ask, Flow, Fork
from expertchat.backends.base import Completion, EmbedRequest, Request, Result, ScoreRequest, Scores, ValueRequest
from expertchat.records import Answer

T = TypeVar("T")
NOT_KEPT = (EmbedRequest, ValueRequest)
OPTIONS = ":options"  # behind the key of a request that scores options: one that writes may have the same key


@dataclass(frozen=True)
class Journal:
    """`answers` of an earlier start by id, and where a new one is kept.

    An answer counts for the very request that it was given to, put to the same model: `version` says which, where a name stands for
    several (the policies of a training). Embeddings and a reward model's numbers are not kept: nobody draws them, and a batch of them takes
    no time.
    `tokens`: whether the token ids of what was not a judge's are kept too.
    """

    answers: Mapping[str, Answer] = field(default_factory=dict)
    keep: Callable[[Answer], None] = lambda answer: None
    version: str = ""
    tokens: bool = False

    def over(self, flow: Flow[T]) -> Flow[T]:
        """The same flow; what was answered before is not asked again, what is new is kept as soon as it is there."""
        try:
            asks = next(flow)
            while True:
                known = [self._known(ask) for ask in asks]
                new = [self._told(ask) for ask, kept in zip(asks, known, strict=True) if kept is None]
                results = iter((yield new) if new else [])
                asks = flow.send([next(results) if kept is None else kept for kept in known])
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        finally:
            flow.close()

    def _known(self, ask: Ask | Fork) -> Result | None:
        if isinstance(ask, Fork) or isinstance(ask.request, NOT_KEPT):
            return None
        name, of = _name(ask.request), self._digest(ask)
        answer = self.answers.get(f"{name}@{of}") or self.answers.get(name)
        return None if answer is None or answer.of not in (None, of) else _result(answer, ask.request)

    def _told(self, ask: Ask | Fork) -> Ask | Fork:
        if isinstance(ask, Fork):
            return Fork(self.over(ask.flow))
        return ask if isinstance(ask.request, NOT_KEPT) else replace(ask, told=partial(self._note, ask))

    def _note(self, ask: Ask, result: Result) -> None:
        name, of = _name(ask.request), self._digest(ask)
        if name in self.answers:  # there is one, to another request or of another policy
            name = f"{name}@{of}"
        if getattr(result, "problem", None) is not None:  # no answer: it is asked for again
            return
        answer = Answer(id=name, transcript=ask.request.key.partition("/")[0], text="", of=of)
        if isinstance(result, Scores):
            if all(map(math.isfinite, result.logprobs)):  # else JSON has no word for it
                self.keep(answer.model_copy(update={"logprobs": list(result.logprobs)}))
        elif isinstance(result, Completion):
            found = {"text": result.text, "tokens": result.tokens, "finish": result.finish}
            if self.tokens and ask.label != "judge":
                found |= {"prompt": list(result.prompt), "ids": list(result.ids), "ended": result.ended, "unshown": result.unshown}
                found |= {"seconds": result.seconds}
            self.keep(answer.model_copy(update=found))

    def _digest(self, ask: Ask) -> str:
        return hashlib.sha256(repr((self.version, ask.who, ask.request)).encode("utf-8", "replace")).hexdigest()[:16]


def _name(request: Request) -> str:
    return f"{request.key}{OPTIONS}" if isinstance(request, ScoreRequest) else request.key


def _result(answer: Answer, request: Request) -> Result | None:
    if isinstance(request, ScoreRequest):
        return None if answer.logprobs is None else Scores(tuple(answer.logprobs))
    return Completion(
        answer.text, answer.tokens, answer.seconds, answer.finish,
        tuple(answer.prompt), tuple(answer.ids), answer.ended, answer.unshown,
    )  # fmt: skip
