"""Arithmetic of option scoring: what to run, and what the probability of an option is when another one extends it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from expertchat.backends.base import ScoreRequest
from expertchat.config import ConfigError

if TYPE_CHECKING:
    from expertchat.backends.rendering import Renderer

Tokens = tuple[int, ...]
SHARED = 32  # tokens that a context must at least have to be worth sharing
TAIL = 24  # tokens that may follow it in a request
MOST = 2**25  # log probabilities of a pass (fp32: 128 MiB), whatever the vocabulary


class Plan(NamedTuple):
    """The tokens of a request's context, those of each option after it, and the paths to run."""

    context: Tokens
    options: list[Tokens]
    paths: list[Tokens]


@dataclass
class Asked:
    """A context that several requests share, with what follows it: (request, path of its options, all tokens after the context)."""

    context: Tokens
    owner: str
    tails: list[tuple[int, Tokens, Tokens]] = field(default_factory=list)


def plan(renderer: Renderer, request: ScoreRequest, model: str, holds: int) -> Plan:
    """What to run for a request. Raises ConfigError if it does not fit a context that `holds` so many tokens."""
    context = renderer.written(request.messages, request.prefix, said=True)  # an option is an answer, never a thought
    rows = renderer.endings(context, ["", *request.options])
    split = min(common_prefix(rows), min(len(row) for row in rows[1:]) - 1)
    if holds and max(map(len, rows)) > holds:
        raise ConfigError(
            f"model {model}: a judge's prompt takes {max(map(len, rows))} tokens, but the context holds {holds}; "
            "use fewer or shorter turns, or a model with a longer context"
        )
    options = [tuple(row[split:]) for row in rows[1:]]
    return Plan(tuple(rows[1][:split]), options, paths(options))


def share(plans: Sequence[Plan], keys: Sequence[str]) -> list[Asked]:
    """Requests whose contexts differ in a few tokens at the end (the categories of one judgement) share what they have in common."""
    found: list[Asked] = []
    longest = 0
    for i in sorted(range(len(plans)), key=lambda i: plans[i].context):
        context = plans[i].context
        shared = common_prefix([found[-1].context, context]) if found else 0
        if shared >= SHARED and max(longest, len(context)) - shared <= TAIL:
            longest = max(longest, len(context))
            found[-1].context = found[-1].context[:shared]
        else:
            found.append(Asked(context, keys[i]))
            longest = len(context)
        found[-1].tails += [(i, path, (*context, *path)) for path in plans[i].paths]
    for asked in found:
        asked.tails = [(i, path, whole[len(asked.context) :]) for i, path, whole in asked.tails]
    return found


def first_of(waiting: Sequence[Asked], rows: int, columns: int) -> tuple[list[Asked], list[Asked]]:
    """What is scored in the next pass, at least one, and what is left: at most so many rows, all of as many columns as the longest."""
    count = widest = 0
    for asked in waiting[:rows]:
        widest = max(widest, sum(len(path) + 1 for _, path, _ in asked.tails))
        if count and (count + 1) * widest > columns:
            break
        count += 1
    return list(waiting[:count]), list(waiting[count:])


def values(options: Sequence[Tokens], path: Tokens, logps_T_V: Any) -> dict[Tokens, float]:
    """Log probability of every option that lies on `path`, from the log probabilities before it and after each of its tokens."""
    on_it = [option for option in options if path[: len(option) - 1] == option[:-1]]
    return {option: float(sum(logps_T_V[i, token].double() for i, token in enumerate(option))) for option in on_it}


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Length of the longest prefix that all rows share."""
    length = 0
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        length += 1
    return length


def paths(options: Sequence[Tokens]) -> list[Tokens]:
    """The fewest token paths after the context whose passes give every option's probabilities.

    An option of n tokens needs the distributions along its first n - 1; a path that is part of a longer one needs no row of its own.

    >>> paths([(5, 1), (5, 2), (5, 1, 0)])
    [(5, 1)]
    """
    wanted = sorted({option[:-1] for option in options}, key=lambda path: (len(path), path), reverse=True)
    kept: list[Tokens] = []
    for path in wanted:
        if not any(longer[: len(path)] == path for longer in kept):
            kept.append(path)
    return kept


def exclude_extensions(options: Sequence[Tokens], logprobs: Sequence[float]) -> list[float]:
    """log(p(option) - sum of p(other) over the others that go on where the option ends): p("1") is without p("10").

    Only the nearest extensions count: theirs hold the longer ones already. -inf where nothing is left. What is no number stays none, also
    where it is the extension's: nothing is said of the rest then.
    """
    results = []
    for option, logprob in zip(options, logprobs, strict=True):
        longer = {o: p for o, p in zip(options, logprobs, strict=True) if len(o) > len(option) and o[: len(option)] == option}
        nearest = [p for o, p in longer.items() if not any(len(n) < len(o) and o[: len(n)] == n for n in longer)]
        if not all(p < math.inf for p in (logprob, *nearest)):  # a comparison with not-a-number is false
            results.append(math.nan)
            continue
        rest = 1.0 - sum(math.exp(p - logprob) for p in nearest) if math.isfinite(logprob) else 0.0
        results.append(logprob + math.log(rest) if rest > 0 else -math.inf)
    return results
