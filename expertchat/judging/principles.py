"""Written principles (Constitutional AI, arXiv 2212.08073): whether a reply keeps to each of them, one verdict a principle.

The verdict is read from the probabilities of two answers, as in pairwise.py: no text in the prompt can write it, and one pass is enough
(the soft labels of RLAIF, arXiv 2309.00267). The principles are shown in an order that is drawn for each judgement.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence

from expertchat.backends.base import ScoreRequest
from expertchat.experts.base import ExpertChat
from expertchat.judging import rating
from expertchat.judging.faults import Fault
from expertchat.judging.view import Judgement
from expertchat.records import Message
from expertchat.text.sentences import Safe, in_line, listed, one_line
from expertchat.text.wordings import Prompts, fill


def in_order(names: Iterable[str], draw: str) -> list[str]:
    """Names shuffled by `draw`: the same draw gives the same order, and all candidates of a history have one."""
    shuffled = list(names)
    random.Random(f"{draw} principles").shuffle(shuffled)
    return shuffled


def request(expert: ExpertChat, key: str, judgement: Judgement, name: str) -> ScoreRequest:
    """Ask whether the subject keeps to the principle `name` of the judgement's, which stand in its categories."""
    prompts, tokens = expert.settings.prompts, expert.special_tokens
    said = judgement.categories
    asked = fill(
        prompts.principle,
        tokens,
        subject=judgement.subject.upper(),
        names=listed([seat.upper() for seat in judgement.seats]),
        topic=judgement.topic,
        transcript=Safe(judgement.render(tokens, expert.family.max_sentences)),
        principle=in_line(said[name], tokens),
        principles=lines(prompts, {one: said[one] for one in in_order(said, judgement.draw)}, tokens),
    )
    system = fill(prompts.judge_system, tokens, topic=judgement.topic)
    messages = expert.chat(system, [Message("user", rating.before(prompts, judgement, tokens) + asked)])
    prefix = fill(prompts.principle_prefix, tokens, name=rating.title(name))
    return ScoreRequest(f"{key}/{name}", messages, tuple(prompts.principle_answers), prefix=prefix)


def lines(prompts: Prompts, principles: Mapping[str, str], special_tokens: Sequence[str] = ()) -> Safe:
    """Principles as a prompt lists them, a line each."""
    said = {name: in_line(text, special_tokens) for name, text in principles.items()}
    return Safe("\n".join(fill(prompts.principle_line, name=rating.title(name), text=text) for name, text in said.items()))


def read(logprobs: Sequence[float], answers: Sequence[str], min_mass: float = 0.0) -> tuple[float | None, float | None, Fault | None]:
    """1 + 9 p, with p the share of the first answer in both; the mass of both; and why there is no number, where there is none.

    >>> read([math.log(0.6), math.log(0.2)], ["Yes", "No"])  # p = .6 / .8 = .75
    (7.75, 0.8, None)
    """
    held = rating.mass(logprobs)
    if len(logprobs) != len(answers) or held is None:
        return None, None, Fault("not_finite", "the probability of an answer is not a number")
    shown = " and ".join(answer.strip() for answer in answers)
    if max(logprobs) == -math.inf:
        return None, held, Fault("low_mass", "no answer has a probability")
    if held < min_mass:
        return None, held, Fault("low_mass", rating.low_mass(held, min_mass, f"answers {shown}"))
    yes, no = (math.exp(p - max(logprobs)) for p in logprobs)
    return 1 + 9 * yes / (yes + no), held, None


def raw(logprobs: Sequence[float], answers: Sequence[str]) -> str:
    """The probabilities as a record keeps them: "Yes 0.8121 No 0.1502"."""
    return one_line(" ".join(f"{answer.strip()} {math.exp(p):.4f}" for answer, p in zip(answers, logprobs, strict=False)))
