"""Ratings 1-10: the judge's prompt and the two forms of an answer: sampled text (read in judging/reading.py) and expected value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from expertchat.judging.reading import Parsed, parse_rating
from expertchat.judging.view import Judgement, Shown
from expertchat.text.sentences import Safe, in_line, listed
from expertchat.text.wordings import fill

if TYPE_CHECKING:
    from expertchat.text.wordings import Prompts

NUMBERS = tuple(str(n) for n in range(1, 11))
__all__ = [
    "NUMBERS", "SAMPLED_TOKENS", "Parsed", "answer", "before", "category_lines", "expected_value", "finite", "judge_prompt", "label",
    "low_mass", "mass", "opened", "options", "parse_rating", "prefix", "reference_lines", "title",
]  # fmt: skip
SAMPLED_TOKENS = 12  # room for " 10/10", "8 out of 10"


def judge_prompt(
    prompts: Prompts, judgement: Judgement, special_tokens: Sequence[str] = (), max_sentences: int | None = None
) -> str:
    """The judge's first user message; that on one of several experts names them all, where there is a wording for it."""
    several = len(judgement.seats) > 2 and prompts.judge_several
    return before(prompts, judgement, special_tokens) + fill(
        several or prompts.judge,
        special_tokens,
        names=listed([seat.upper() for seat in judgement.seats]),
        subject=judgement.subject.upper(),
        topic=judgement.topic,
        transcript=Safe(judgement.render(special_tokens, max_sentences)),
        categories=category_lines(prompts, judgement.categories, special_tokens),
        explain=Safe(prompts.explain),
    )


def before(prompts: Prompts, judgement: Judgement, special_tokens: Sequence[str] = ()) -> Safe:
    """What a judge is shown before it is asked: examples, and the reference answer; nothing where there is neither."""
    examples = [_example(prompts, shown, special_tokens) for shown in judgement.examples]
    parts = [fill(prompts.examples, examples=Safe("\n".join(examples)))] if examples else []
    return Safe("".join(f"{part}\n" for part in [*parts, *reference_lines(prompts, judgement.topic, judgement.reference, special_tokens)]))


def reference_lines(prompts: Prompts, topic: str, reference: str | None, special_tokens: Sequence[str] = ()) -> list[Safe]:
    """The reference answer as a prompt shows it, fenced; or nothing."""
    return [] if reference is None else [fill(prompts.reference, special_tokens, topic=topic, reference=reference)]


def _example(prompts: Prompts, shown: Shown, special_tokens: Sequence[str]) -> Safe:
    ratings = Safe(answer(prompts, "", shown.ratings))
    return fill(prompts.example, special_tokens, topic=shown.topic, text=shown.text, ratings=ratings)


def category_lines(prompts: Prompts, categories: Mapping[str, str], special_tokens: Sequence[str] = ()) -> Safe:
    """The categories as a prompt lists them, a line each; nothing for wordings without such a line. Numbers in them are the scale's."""
    lines = [fill(prompts.category, category=title(c), description=in_line(d, special_tokens)) for c, d in categories.items()]
    return Safe("\n".join(line for line in lines if line))


def title(category: str) -> Safe:
    """A category's name as it stands in a prompt: "humanness" -> "Humanness"."""
    return in_line(category.replace("_", " ").capitalize())


def prefix(prompts: Prompts, analysis: str, category: str) -> str:
    """The beginning of the judge's answer that ends just before the number."""
    return f"{analysis.rstrip()}{fill(prompts.rating, category=title(category))}".lstrip("\n")


def options(prompts: Prompts) -> tuple[str, ...]:
    """The ten answers as they follow the prefix: " 1" after a colon, "1" after an opening bracket."""
    return tuple(_space(prompts) + n for n in NUMBERS)


def opened(prompts: Prompts) -> str:
    """The markup of the prefix that the judge's answer goes on with: "[[", or nothing."""
    return prompts.rating.rpartition("}")[2].lstrip(": ")


def label(prompts: Prompts, category: str) -> str:
    """What a line of this category begins with, its markup left out: where the judge writes it by itself, its ratings begin."""
    return fill(prompts.rating, category=title(category)).removesuffix(opened(prompts)).rstrip(" ")


def _space(prompts: Prompts) -> str:
    return " " if prompts.rating.endswith(":") else ""


def answer(prompts: Prompts, analysis: str, ratings: Mapping[str, int | None]) -> str:
    """The judge's whole first answer, as context of the WIM question: analysis, then a line for each category."""
    lines = [
        fill(prompts.rating, category=title(category)) + f"{_space(prompts)}{'none' if value is None else value}{prompts.rating_end}"
        for category, value in ratings.items()
    ]
    return f"{analysis.rstrip()}{''.join(lines)}".lstrip("\n")


def mass(logprobs: Sequence[float]) -> float | None:
    """How much of the probability the options hold together; a mean over a small share of it says nothing. None where that is no number."""
    if not finite(logprobs):
        return None
    return min(1.0, sum(math.exp(p) for p in logprobs))


def low_mass(mass: float, least: float, options: str = "ten options") -> str:
    """Why there is no expected rating, with the numbers."""
    return f"the {options} hold {100 * mass:.0f} % of the probability, less than judging.min_mass={least:g}"


def expected_value(logprobs: Sequence[float]) -> float | None:
    """sum(i * P(i)) / sum(P(i)) over the ten options (RLAIF, arXiv 2309.00267; G-Eval, arXiv 2303.16634).

    `logprobs` are natural logs for the options 1..10. None where no option has a probability, and where one of them is no number or
    +inf: a mean over the rest would be another judgement's.
    """
    if len(logprobs) != len(NUMBERS) or not finite(logprobs):
        return None
    best = max(logprobs)
    if best == -math.inf:
        return None
    weights = [math.exp(p - best) for p in logprobs]
    return sum(i * w for i, w in enumerate(weights, 1)) / sum(weights)


def finite(logprobs: Sequence[float]) -> bool:
    """Whether all are log probabilities: -inf is one (nothing), not-a-number and +inf are none."""
    return all(p < math.inf for p in logprobs)  # a comparison with not-a-number is false
