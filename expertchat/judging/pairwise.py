"""Which of two replies to the same history is the better one: the judge's prompt, the reading of its answer, both orders.

The verdict is read from the probabilities of the two letters that are allowed, not from written text: no text in the prompt can write it
for the judge, and both orders cost one pass each. Where the letters hold too little of the probability there is no verdict. A tie is
not offered as an answer (small models then answer something else in a third of cases): it is what both orders disagree about.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from expertchat.backends.asking import Ask, Flow
from expertchat.backends.base import Result, ScoreRequest, Scores
from expertchat.experts.base import CountTokens, ExpertChat
from expertchat.judging import rating
from expertchat.judging.faults import UNANSWERED, Fault
from expertchat.judging.fits import lacks
from expertchat.judging.principles import in_order
from expertchat.judging.wim import mean_rating
from expertchat.records import Message, Speaker, Turn, Verdict
from expertchat.text.likeness import blank
from expertchat.text.sentences import Safe, in_line, one_line, quote
from expertchat.text.wordings import fill
from expertchat.text.written import Principle

OPTIONS = (" A", " B")
ANSWER_TOKENS = 4  # room for an option
Order = Literal["base", "policy"]
Winner = Literal["base", "policy", "tie"]
ORDERS: tuple[Order, Order] = ("base", "policy")
OUTCOMES = {"policy": 1.0, "tie": 0.5, "base": 0.0}
# What stands before a line of the prompt may not stand in the text of a reply: it would look like another reply.
_HEAD = re.compile(r"\b(reply\s*[ab]?|expert|partner|the better reply)\s*[:：]|\b(the better reply is)\b", re.IGNORECASE)
_HEAD_OF_SEVERAL = re.compile(_HEAD.pattern.replace("partner", r"partner(?:\s+\w+)?"), re.IGNORECASE)


@dataclass(frozen=True)
class Duel:
    """Two replies of `subject` to one same history. All requests' keys begin with `key`.

    With `principle`, the name of the one of `categories` by which alone they are compared. `reference` is an answer to hold them against.
    """

    key: str
    history: str  # its id
    topic: str
    turns: tuple[Turn, ...]
    subject: Speaker
    base: str
    policy: str
    categories: Mapping[str, str] = field(default_factory=dict)  # name -> description
    reference: str | None = None
    principle: str | None = None

    def render(self, first: Order, special_tokens: Sequence[str] = ()) -> str:
        """The dialogue and the two replies, each on one line."""

        partners = list(dict.fromkeys(turn.speaker for turn in self.turns if turn.speaker != self.subject))
        several = len(partners) > 1
        head = _HEAD_OF_SEVERAL if several else _HEAD

        def shown(text: str) -> str:
            return head.sub(lambda match: f"{{{match[1] or match[2]}}}", quote(text, special_tokens))

        def named(speaker: Speaker) -> str:
            return "Expert" if speaker == self.subject else f"Partner {speaker.upper()}" if several else "Partner"

        shown_first, shown_second = (self.base, self.policy) if first == "base" else (self.policy, self.base)
        lines = [f"{named(turn.speaker)}: {shown(turn.text)}" for turn in self.turns]
        return "\n".join([*lines, f"Reply A: {shown(shown_first)}", f"Reply B: {shown(shown_second)}"])


def request(expert: ExpertChat, duel: Duel, first: Order) -> ScoreRequest:
    """Ask the judge `expert`, with the reply of `first` shown as A."""
    prompts, tokens = expert.settings.prompts, expert.special_tokens
    shown = {"topic": (topic := quote(duel.topic, tokens)), "transcript": Safe(duel.render(first, tokens))}
    if duel.principle is None:
        asked = fill(prompts.compare, **shown, categories=rating.category_lines(prompts, duel.categories, tokens))
    else:
        asked = fill(prompts.compare_principle, **shown, principle=in_line(duel.categories[duel.principle], tokens))
    before = "".join(f"{line}\n" for line in rating.reference_lines(prompts, duel.topic, duel.reference, tokens))
    messages = expert.chat(fill(prompts.judge_system, topic=topic), [Message("user", before + asked)])
    return ScoreRequest(f"{duel.key}/{first}-first", messages, OPTIONS, prefix=prompts.better)


def read(logprobs: Sequence[float], min_mass: float = 0.0) -> tuple[Literal["A", "B", "tie"] | None, Fault | None]:
    """The likelier option and no problem, or None with it; A and B that are equally likely are a tie.

    >>> read([-0.1, -3.0])
    ('A', None)
    """
    if len(logprobs) != len(OPTIONS) or not rating.finite(logprobs):
        return None, Fault("not_finite", f"{len(OPTIONS)} probabilities were wanted")
    a, b = logprobs
    if max(logprobs) == -math.inf:
        return None, Fault("low_mass", "no option has a probability")
    held = rating.mass(logprobs)
    if held is not None and held < min_mass:
        return None, Fault("low_mass", rating.low_mass(held, min_mass, "answers A and B"))
    return ("tie" if a == b else "A" if a > b else "B"), None


def winner(verdicts: Sequence[Verdict]) -> Winner | None:
    """What the verdicts in both orders come to: who wins in each of them, else a tie (MT-Bench, arXiv 2306.05685); None if one is None."""
    found = [verdict.winner for verdict in verdicts]
    if not found or None in found:
        return None
    return found[0] if len(set(found)) == 1 else "tie"


def by_principles(duel: Duel, principles: Mapping[str, Principle], draw: str) -> list[Duel]:
    """One duel a principle, in an order that `draw` draws."""
    return [
        replace(duel, key=f"{duel.key}/{name}", categories={name: principles[name].text}, principle=name)
        for name in in_order(principles, draw)
    ]


def outcome(found: Sequence[Sequence[Verdict]], weights: Mapping[str, float]) -> float | None:
    """The share of the policy's win by principles: the weighted mean over them of 1 (it wins), 0.5 (a tie) and 0; None if one that counts
    has no answer. `found` has the verdicts of each principle in both orders.

    >>> outcome([[Verdict(id=f"{p}{f}", history="h", judge="j", first=f, verdict=v, principle=p) for f, v in said]
    ...          for p, said in {"kind": [("policy", "A"), ("base", "B")], "true": [("policy", "A"), ("base", "A")]}.items()],
    ...         {"kind": 1, "true": 3})  # kind is won, true is a tie: (1 * 1 + 3 * 0.5) / 4
    0.625
    """
    won = {verdicts[0].principle or "": winner(verdicts) for verdicts in found if verdicts}
    said = {name: OUTCOMES[who] if who is not None else None for name, who in won.items()}
    return mean_rating(said, weights)


def duel_flow(
    who: str, expert: ExpertChat, duel: Duel, count: CountTokens | None = None, min_mass: float = 0.0
) -> Flow[list[Verdict]]:
    """Ask the backend `who` in both orders. With `count`, a prompt that does not fit the judge's context is a verdict None.

    So is one whose answers hold less than `min_mass` of the probability, and one over a blank reply.
    """
    requests = [request(expert, duel, first) for first in ORDERS]
    problems = [_nothing_said(duel) or _no_words(expert, duel) or _too_long(expert, asked, count) for asked in requests]
    if (fault := next(filter(None, problems), None)) is not None:
        given = [problem or Fault(fault.kind, "not asked") for problem in problems]
        return [_verdict(who, duel, first, None, problem, min_mass) for first, problem in zip(ORDERS, given, strict=True)]
    results = yield [Ask(who, asked, label="judge") for asked in requests]
    return [_verdict(who, duel, first, result, None, min_mass) for first, result in zip(ORDERS, results, strict=True)]


def _nothing_said(duel: Duel) -> Fault | None:
    silent = [whose for whose, text in (("the base's", duel.base), ("the policy's", duel.policy)) if blank(text)]
    return Fault("blank", f"{' and '.join(silent)} reply is blank") if silent else None


def _no_words(expert: ExpertChat, duel: Duel) -> Fault | None:
    prompts, name = expert.settings.prompts, "compare" if duel.principle is None else "compare_principle"
    lacking = [f"have no `{name}`"] if not getattr(prompts, name) else []
    lacking += lacks(prompts, reference=duel.reference is not None)
    return Fault("wording", f"the judge's wordings {'; '.join(lacking)}") if lacking else None


def _too_long(expert: ExpertChat, asked: ScoreRequest, count: CountTokens | None) -> Fault | None:
    if count is None:
        return None
    needed = count([*asked.messages, Message("assistant", asked.prefix)])
    if needed + ANSWER_TOKENS <= expert.context_length:
        return None
    return Fault("too_long", f"the judge's prompt takes {needed} tokens, but the context holds {expert.context_length}")


def _verdict(judge: str, duel: Duel, first: Order, result: Result | None, fault: Fault | None, min_mass: float) -> Verdict:
    said, raw, held = None, "", None
    if isinstance(result, Scores):
        (said, fault), held = read(result.logprobs, min_mass), rating.mass(result.logprobs)
        fault = Fault(UNANSWERED, result.problem) if result.problem else fault
        raw = one_line(" ".join(f"{option.strip()} {math.exp(p):.4f}" for option, p in zip(OPTIONS, result.logprobs, strict=False)))
    name = f"{duel.key}/{first}-first"
    return Verdict(
        id=name,
        history=duel.history,
        judge=judge,
        first=first,
        verdict=said,
        principle=duel.principle,
        mass=held,
        raw=raw,
        problem=None if fault is None else fault.problem,
        fault=None if fault is None else fault.kind,
    )
