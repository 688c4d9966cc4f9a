"""What a judge is asked: each request is a function of the expert that judges and of the judgement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from expertchat.backends.base import GenerateRequest, ScoreRequest
from expertchat.experts.base import ExpertChat
from expertchat.judging import rating, wim
from expertchat.judging.view import Judgement
from expertchat.records import Message
from expertchat.text.wordings import WimWording, fill


def analysis_request(expert: ExpertChat, key: str, judgement: Judgement) -> GenerateRequest:
    """Ask the judge to explain (or, for the embedded experts, to label every numbered sentence) before it rates."""
    prompts = expert.settings.prompts
    ratings_begin = tuple(rating.label(prompts, category) for category in judgement.categories)
    messages = judge_chat(expert, judgement)
    return GenerateRequest(f"{key}/analysis", messages, expert.settings.judge, prefix=prompts.analysis_prefix, stop=ratings_begin)


def rating_request(expert: ExpertChat, key: str, judgement: Judgement, analysis: str, category: str) -> GenerateRequest:
    """Ask for one category as text."""
    decoding = replace(expert.settings.judge, max_new_tokens=rating.SAMPLED_TOKENS)
    prefix = rating.prefix(expert.settings.prompts, analysis, category)
    return GenerateRequest(f"{key}/{category}", judge_chat(expert, judgement), decoding, prefix=prefix, stop=("\n",))


def score_request(expert: ExpertChat, key: str, judgement: Judgement, analysis: str, category: str) -> ScoreRequest:
    """Ask for the probabilities of the ten option strings of one category."""
    prompts = expert.settings.prompts
    prefix = rating.prefix(prompts, analysis, category)
    return ScoreRequest(f"{key}/{category}", judge_chat(expert, judgement), rating.options(prompts), prefix=prefix)


def wim_request(
    expert: ExpertChat, key: str, judgement: Judgement, analysis: str, ratings: Mapping[str, int | None], wording: WimWording
) -> GenerateRequest:
    """Ask what is missing, as a second turn after the judge's analysis and ratings."""
    prompts = expert.settings.prompts
    asked = wim.question(prompts, wording, judgement, expert.special_tokens)
    answered = Message("assistant", rating.answer(prompts, analysis, ratings))
    messages = judge_chat(expert, judgement, answered, Message("user", asked))
    prefix = fill(prompts.wim_prefix, expert.special_tokens, subject=judgement.subject.upper(), topic=judgement.topic)
    return GenerateRequest(f"{key}/wim", messages, expert.settings.judge, prefix=prefix)


def judge_chat(expert: ExpertChat, judgement: Judgement, *more: Message) -> tuple[Message, ...]:
    """The judge's prompt as the expert's family takes it, with the messages that follow it."""
    prompts = expert.settings.prompts
    system = fill(prompts.judge_system, expert.special_tokens, topic=judgement.topic)
    text = rating.judge_prompt(prompts, judgement, expert.special_tokens, expert.family.max_sentences)
    return expert.chat(system, [Message("user", text), *more])
