"""What the answers of a server say: text, its end, log probabilities, tokens and cost. Whatever has another shape raises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from expertchat.backends.base import Completion, GenerateRequest
from expertchat.backends.served.pieces import text_of, thought_of
from expertchat.backends.served.trouble import OddAnswer
from expertchat.records import Served
from expertchat.text.sentences import writable
from expertchat.text.thinking import first_stop

MILLION = 1_000_000
ROUGH = 3  # bytes to a token: most texts have more
BLOCK = ("<think>\n", "\n</think>\n\n")  # round what was thought, where that comes apart from the text
BROKEN = ("error", "abort")  # how a half answer ends that is worth another try
CUT = ("length", "repetition")  # how one ends that the server has cut: vLLM does so where a text runs in circles


class Usage(NamedTuple):
    """Tokens and cost of a request, as far as the server told them."""

    prompt: int | None = None
    completion: int | None = None
    cost: float | None = None

    def costs(self, prices: Sequence[float] | None, sent: int, got: int) -> float | None:
        """What it has cost: as told, else by the prices of a million tokens of prompt and answer; where the server counts none, as many as
        the bytes sent and got would be at most, by ROUGH to a token."""
        if self.cost is not None or prices is None:
            return self.cost
        prompt = sent // ROUGH if self.prompt is None else self.prompt
        completion = got // ROUGH if self.completion is None else self.completion
        return (prompt * prices[0] + completion * prices[1]) / MILLION


class Said(NamedTuple):
    """A text with how it ended; `problem` where the server kept it back. `prompt` and `ids`: tokens, where it tells them."""

    text: str
    finish: Literal["stop", "length"]
    usage: Usage
    prompt: list[int] | None
    ids: list[int] | None
    ended: bool | None
    problem: str | None


class Likeliest(NamedTuple):
    """The likeliest next tokens with their log probabilities."""

    tokens: Mapping[str, float]
    usage: Usage


def said(found: Any) -> Said:
    """The first choice of a chat's answer. What it thought, where that comes apart from the text, stands before it in a block."""
    choice = found["choices"][0]
    message = choice["message"]
    text, inner = text_of(message.get("content"))
    thought = inner or thought_of(message)
    reason, problem = choice.get("finish_reason"), None
    if reason in BROKEN:
        raise OddAnswer(f"it broke the answer off ({reason})")
    if reason == "content_filter":
        problem = "it kept the answer back (content_filter)"
    elif text is None and not thought:
        refusal = message.get("refusal")
        problem = f"it refused ({writable(str(refusal))[:200]})" if refusal else "it answered nothing"
    text = f"{BLOCK[0]}{thought}{BLOCK[1]}{text or ''}" if thought else text or ""
    ids = choice.get("token_ids") or None
    # A stop string ends a text that has not come to its end: its tokens are among the ids. A number is an end token of the model.
    ended = reason == "stop" and not isinstance(choice.get("stop_reason"), str) if ids else None
    finish: Literal["stop", "length"] = "length" if reason in CUT else "stop"
    return Said(text, finish, usage(found), found.get("prompt_token_ids"), ids, ended, problem)


def usage(found: Mapping[str, Any]) -> Usage:
    """Tokens and cost of an answer."""
    told = found.get("usage") or {}
    numbers = [told.get(name) for name in ("prompt_tokens", "completion_tokens")]
    prompt, completion = (n if isinstance(n, int) and n >= 0 else None for n in numbers)
    cost = told.get("cost")
    return Usage(prompt, completion, float(cost) if isinstance(cost, int | float) and not isinstance(cost, bool) and cost >= 0 else None)


def added(parts: Sequence[Usage]) -> Usage:
    """Of several requests together."""
    columns = zip(*parts, strict=True)
    return Usage(*(sum(known) if (known := [one for one in column if one is not None]) else None for column in columns))


def likeliest(found: Any) -> Likeliest:
    """The next tokens of an answer of one token. A token that several ways of writing share counts as their sum would, once."""
    content = found["choices"][0]["logprobs"]["content"]
    tokens: dict[str, float] = {}
    for one in content[0]["top_logprobs"]:
        token, logp = str(one["token"]), float(one["logprob"])
        if logp > -9000:  # some servers write so what has no probability
            tokens[token] = max(logp, tokens.get(token, logp))
    return Likeliest(tokens, usage(found))


def said_token(found: Any) -> Likeliest:
    """The token of an answer of one token, with the probability that it had."""
    one = found["choices"][0]["logprobs"]["content"][0]
    return Likeliest({str(one["token"]): float(one["logprob"])}, usage(found))


def completion(kept: Served, request: GenerateRequest) -> Completion:
    """What is on the ledger as the answer to a request, ending before the first stop string."""
    text, finish = kept.text or "", kept.finish
    behind = text.find(BLOCK[1]) + len(BLOCK[1]) if text.startswith(BLOCK[0]) and BLOCK[1] in text else 0
    stop = first_stop(text[behind:], [stop for stop in request.stops if stop], whole=True)
    stop = None if stop is None else behind + stop
    if stop is not None:
        text, finish = text[:stop], "stop"
    tokens = kept.completion_tokens if kept.completion_tokens is not None else len(text.split())
    stopped = stop is not None or (finish == "stop" and not kept.ended)
    return Completion(
        text, tokens, kept.seconds, finish, tuple(kept.prompt or ()), tuple(kept.ids or ()), bool(kept.ended),
        "stop" if stopped and kept.ids else None,
    )  # fmt: skip


def without(text: str, prefix: str) -> str:
    """A text that was asked to go on after `prefix`, without that, which it may have begun with again, in whole or its last line."""
    begun = text.lstrip()
    for start in (prefix.strip(), prefix.strip().rpartition("\n")[2]):
        if start and begun.startswith(start) and not _within_word(begun, len(start)):
            return begun[len(start) :]
    return text


def _within_word(text: str, at: int) -> bool:
    """Whether a place lies within a word, of the scripts that write words apart and have two cases."""
    around = text[at - 1 : at + 1]
    return len(around) == 2 and all(letter.lower() != letter.upper() for letter in around)
