"""From a judge's answers to the records that are kept of them. What cannot be read is None, with its problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from expertchat.backends.base import Completion, Result, Scores
from expertchat.config import JudgingConfig
from expertchat.judging import principles, rating, wim
from expertchat.judging.faults import PARROT, UNANSWERED, Fault
from expertchat.judging.view import Judgement
from expertchat.records import Rating, Reward, Wim
from expertchat.text.thinking import split


def about(judgement: Judgement, name: str) -> dict[str, Any]:
    """What all records of a judgement say of it."""
    return {
        "id": f"{judgement.key}/{name}",
        "transcript": judgement.transcript,
        "turn": judgement.turn,
        "candidate": judgement.candidate,
        "judge": judgement.role.judge,
        "subject": judgement.subject,
    }


# -- ratings -------------------------------------------------------------------------------------------------------------


def read_rating(
    judgement: Judgement,
    category: str,
    text: Result | None,
    scores: Result | None,
    opened: str = "",
    min_mass: float = 0.0,
    title: str | None = None,
) -> Rating:
    """A rating from what the judge answered: its text, the probabilities of the options, or both.

    `opened`: the markup with which the prompt has begun the text for the judge; `title`: what it calls the category, if something else.
    """
    value, expected, mass, raw, problems = None, None, None, "", list[Fault]()
    if isinstance(text, Completion) and text.problem:
        problems.append(Fault(UNANSWERED, text.problem))
    elif isinstance(text, Completion):
        # The judge goes on in brackets that it did not open, and may not close; or it was asked in words and opens them itself.
        told = split(text.text).said.lstrip()
        written = opened + told if "]" in told and opened.strip() not in told else text.text
        parsed = rating.parse_rating(written, title or category, text.finish, judgement.subject, judgement.seats)
        value, raw = parsed.value, text.text
        problems += [Fault(parsed.fault, parsed.problem)] if parsed.fault and parsed.problem else []
    if isinstance(scores, Scores) and scores.problem:
        problems.append(Fault(UNANSWERED, scores.problem))
    elif isinstance(scores, Scores):
        expected, mass = rating.expected_value(scores.logprobs), rating.mass(scores.logprobs)
        raw = raw or " ".join(f"{p:.4f}" for p in scores.logprobs)
        if expected is None or mass is None:
            problems.append(_no_mean(scores))
        elif mass < min_mass:
            expected = None
            problems.append(Fault("low_mass", rating.low_mass(mass, min_mass)))
    if expected is not None:
        expected = min(10.0, max(1.0, expected))  # a sum of floats may end a hair outside
    return Rating(
        **about(judgement, category),
        category=category,
        value=value,
        expected=expected,
        mass=mass,
        raw=raw,
        problem="; ".join(fault.problem for fault in problems) or None,
        fault=problems[0].kind if problems else None,
    )


def read_verdict(judgement: Judgement, name: str, scores: Result, words: Sequence[str], min_mass: float = 0.0) -> Rating:
    """A judge's verdict on a principle as a rating: 1 where it is surely broken, 10 where it is surely kept (see principles.read)."""
    assert isinstance(scores, Scores)
    expected, held, fault = principles.read(scores.logprobs, words, min_mass)
    if scores.problem:
        fault = Fault(UNANSWERED, scores.problem)
    return Rating(
        **about(judgement, name),
        category=name,
        expected=expected,
        mass=held,
        raw=principles.raw(scores.logprobs, words),
        problem=fault.problem if fault else None,
        fault=fault.kind if fault else None,
    )


def no_rating(judgement: Judgement, category: str, fault: Fault) -> Rating:
    """The rating of a judge that was not asked."""
    return Rating(**about(judgement, category), category=category, problem=fault.problem, fault=fault.kind)


def _no_mean(scores: Scores) -> Fault:
    """Why the options' probabilities have no mean."""
    if rating.finite(scores.logprobs):
        return Fault("low_mass", "no option has a probability")
    return Fault("not_finite", "the probability of an option is not a number")


# -- what is missing, and the reward --------------------------------------------------------------------------------------


def scored_wim(judgement: Judgement, text: str, analysis: str, cosine: float, empty: bool = False) -> Wim:
    """A WIM response with its score."""
    return Wim(**about(judgement, "wim"), text=text, analysis=analysis, cosine=cosine, empty=empty)


def no_wim(judgement: Judgement, text: str, analysis: str, fault: Fault) -> Wim:
    """A WIM response at fault, or one that was not asked for: it has no score."""
    return Wim(**about(judgement, "wim"), text=text, analysis=analysis, problem=fault.problem, fault=fault.kind)


def parrot_rate(responses: Sequence[Wim]) -> float | None:
    """The share of WIM responses that parrot the reply. None without any, and where one failed and its record, of an older version, does
    not name the kind: what it may have been is not guessed from its message.
    """
    if not responses or any(response.problem and response.fault is None for response in responses):
        return None
    return sum(response.fault == PARROT for response in responses) / len(responses)


def reward(judgement: Judgement, config: JudgingConfig, ratings: Mapping[str, Rating], response: Wim | None) -> Reward:
    """(1 - z) R + z WIM, or None with what is lacking."""
    mean = wim.mean_rating({c: r.number for c, r in ratings.items()}, config.shares)
    score = response.cosine if response is not None else None
    value = wim.reward(mean, score, config.z, config.rating_scale)
    lacking = [c for c, r in ratings.items() if r.number is None and config.shares.get(c, 0) > 0] if config.z < 1 else []
    lacking += ["WIM score"] if config.z > 0 and score is None else []
    problem = None if value is not None else f"no number for {', '.join(lacking)}"
    return Reward(**about(judgement, "reward"), rating=mean, wim=score, value=value, problem=problem)
