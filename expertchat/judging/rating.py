"""Ratings 1-10: the judge's prompt and the two forms of an answer: sampled text (read in judging/reading.py) and expected value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from expertchat.judging.reading import Parsed, parse_rating
from expertchat.judging.view import Judgement
from expertchat.text import one_line

if TYPE_CHECKING:
    from expertchat.experts.prompts import Prompts

OPTIONS = tuple(f" {n}" for n in range(1, 11))
__all__ = ["OPTIONS", "SAMPLED_TOKENS", "Parsed", "answer", "expected_value", "finite", "judge_prompt", "parse_rating", "prefix", "title"]
SAMPLED_TOKENS = 12  # room for " 10/10", "8 out of 10"


def judge_prompt(
    prompts: Prompts, judgement: Judgement, special_tokens: Sequence[str] = (), max_sentences: int | None = None
) -> str:
    """The judge's first user message."""
    lines = [prompts.category.format(category=title(c), description=d) for c, d in judgement.categories.items()]
    return prompts.judge.format(
        subject=judgement.subject.upper(),
        topic=one_line(judgement.topic),
        transcript=judgement.render(special_tokens, max_sentences),
        categories="\n".join(line for line in lines if line),
        explain=prompts.explain,
    )


def title(category: str) -> str:
    """A category's name as it stands in a prompt: "humanness" -> "Humanness"."""
    return category.replace("_", " ").capitalize()


def prefix(prompts: Prompts, analysis: str, category: str) -> str:
    """The beginning of the judge's answer that ends just before the number."""
    return f"{analysis.rstrip()}{prompts.rating.format(category=title(category))}".lstrip("\n")


def answer(prompts: Prompts, analysis: str, ratings: Mapping[str, int | None]) -> str:
    """The judge's whole first answer, as context of the WIM question: analysis, then a line for each category."""
    lines = [
        prompts.rating.format(category=title(category)) + f" {'none' if value is None else value}"
        for category, value in ratings.items()
    ]
    return f"{analysis.rstrip()}{''.join(lines)}".lstrip("\n")


def expected_value(logprobs: Sequence[float]) -> float | None:
    """sum(i * P(i)) / sum(P(i)) over the ten options (RLAIF, arXiv 2309.00267; G-Eval, arXiv 2303.16634).

    `logprobs` are natural logs for the options 1..10. None where no option has a probability, and where one of them is no number or
    +inf: a mean over the rest would be another judgement's.
    """
    if len(logprobs) != len(OPTIONS) or not finite(logprobs):
        return None
    best = max(logprobs)
    if best == -math.inf:
        return None
    weights = [math.exp(p - best) for p in logprobs]
    return sum(i * w for i, w in enumerate(weights, 1)) / sum(weights)


def finite(logprobs: Sequence[float]) -> bool:
    """Whether all are log probabilities: -inf is one (nothing), not-a-number and +inf are none."""
    return all(p < math.inf for p in logprobs)  # a comparison with not-a-number is false
