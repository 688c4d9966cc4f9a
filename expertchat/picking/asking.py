"""Who picks: a model, by the probabilities of the letters of the texts; or a rule whose defect is known."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from typing import Any

from expertchat.backends.asking import Ask, Flow
from expertchat.backends.base import ScoreRequest, Scores
from expertchat.experts.base import CountTokens, ExpertChat
from expertchat.judging import rating
from expertchat.picking.config import JUDGE, LETTERS, PickConfig
from expertchat.records import Message, Pick, PickRow
from expertchat.text.likeness import weight, words
from expertchat.text.sentences import Safe, listed, one_line, quote
from expertchat.text.wordings import fill

ANSWER_TOKENS = 4  # room for a letter
# What stands before a text in the prompt may not stand in a text: it would look like another one.
_HEAD = re.compile(r"\b(text\s*[a-d]|the best text)\s*[:：]|\b(the best text is)\b", re.IGNORECASE)


def pick_id(row: str, order: Sequence[str]) -> str:
    """The id of what was picked.

    >>> pick_id("p0001", ("base", "rule"))
    'p0001/base,rule'
    """
    return f"{row}/{','.join(order)}"


def request(config: PickConfig, expert: ExpertChat, row: PickRow, order: Sequence[str]) -> ScoreRequest:
    """Ask which of the texts of a row is the best, shown in this order."""
    special, letters = expert.special_tokens, LETTERS[: len(order)]

    def shown(text: str) -> str:
        return _HEAD.sub(lambda match: f"{{{match[1] or match[2]}}}", quote(text, special))

    texts = Safe("\n".join(f"Text {letter}: {shown(row.texts[name])}" for letter, name in zip(letters, order, strict=True)))
    said = Safe("\n".join(shown(text) for text in row.said))
    lines = Safe("\n".join(f"{config.answer} {letter}." for letter in letters))
    more = {"question": Safe(config.question), "letters": Safe(listed(list(letters)))}
    asked = fill(config.prompt, special, texts=texts, said=said, lines=lines, **more)
    messages = expert.chat(config.system, [Message("user", asked)])
    return ScoreRequest(pick_id(row.id, order), messages, tuple(f" {letter}" for letter in letters), prefix=config.answer)


def by_model(config: PickConfig, expert: ExpertChat, count: CountTokens | None, row: PickRow) -> Flow[list[Pick]]:
    """What a model picks of a row, in all orders."""
    asked = [request(config, expert, row, order) for order in config.all_orders]
    longest = max((count([*one.messages, Message("assistant", one.prefix)]) for one in asked), default=0) if count is not None else 0
    if longest + ANSWER_TOKENS > expert.context_length:
        problem = f"the prompt takes {longest} tokens, but the context holds {expert.context_length}"
        return [_nothing(row, order, problem, "too_long") for order in config.all_orders]
    results = yield [Ask(JUDGE, one, label="judge") for one in asked]
    return [read(config, row, order, result) for order, result in zip(config.all_orders, results, strict=True)]


def read(config: PickConfig, row: PickRow, order: Sequence[str], result: object) -> Pick:
    """The likeliest letter as the text that stood there; None where the letters hold too little, or two are equally likely."""
    assert isinstance(result, Scores)
    logprobs = result.logprobs
    if len(logprobs) != len(order) or not rating.finite(logprobs) or max(logprobs) == -math.inf:
        return _nothing(row, order, f"{len(order)} probabilities were wanted", "not_finite")
    held = rating.mass(logprobs)
    raw = one_line(" ".join(f"{letter} {math.exp(p):.4f}" for letter, p in zip(LETTERS, logprobs, strict=False)))
    about: dict[str, Any] = {"id": pick_id(row.id, order), "row": row.id, "order": list(order), "mass": held, "raw": raw}
    if held is not None and held < config.min_mass:
        what = f"answers {listed(list(LETTERS[: len(order)]))}"
        return Pick(**about, problem=rating.low_mass(held, config.min_mass, what), fault="low_mass")
    best = [name for name, p in zip(order, logprobs, strict=True) if p == max(logprobs)]
    if len(best) > 1:
        return Pick(**about, problem="two letters are equally likely", fault="tie")
    return Pick(**about, choice=best[0])


def by_rule(config: PickConfig, row: PickRow) -> list[Pick]:
    """What a rule picks of a row, in all orders."""
    found = []
    for order in config.all_orders:
        length = {name: weight(words(row.texts[name])) for name in order}
        choice = {
            "first": order[0], "last": order[-1], "longest": max(order, key=lambda name: length[name]),
            "shortest": min(order, key=lambda name: length[name]),
            "random": random.Random(f"{config.run.seed} {pick_id(row.id, order)}").choice(order),
        }[config.rule or ""]  # fmt: skip
        found.append(Pick(id=pick_id(row.id, order), row=row.id, order=list(order), choice=choice))
    return found


def _nothing(row: PickRow, order: Sequence[str], problem: str, fault: str) -> Pick:
    return Pick(id=pick_id(row.id, order), row=row.id, order=list(order), problem=problem, fault=fault)
