"""Who was the human? What everybody says of the others when a dialogue is over, and the table of it (Turing 1950: the imitation game).

Nobody is told before that a person may be there. A model says why in a sentence, and then the probabilities of two answers are read, as
principles.py does it; a person types.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from expertchat.backends.asking import Ask, Flow, together
from expertchat.backends.base import Completion, GenerateRequest, ScoreRequest, Scores
from expertchat.experts.base import CountTokens, ExpertChat
from expertchat.folder.reader import RunReader
from expertchat.judging import rating
from expertchat.judging.faults import Fault
from expertchat.judging.shares import wilson
from expertchat.records import ExpertRef, Guess, Message, Speaker, Transcript
from expertchat.text.sentences import Safe, one_line, quote
from expertchat.text.wordings import fill

HUMAN = "human"  # the family of a seat in which a person sits
WHY_TOKENS = 80  # of a model's reason
Asked = Callable[[Speaker, Speaker], tuple[bool | None, str]]
"""(guesser, subject) -> what a person says of the subject (None: does not know), and why."""


def people_of(experts: Mapping[Speaker, ExpertRef]) -> set[Speaker]:
    """The seats in which a person sits."""
    return {seat for seat, ref in experts.items() if ref.family == HUMAN}


def guesses_wanted(seats: Sequence[Speaker], speakers: Iterable[Speaker]) -> list[tuple[Speaker, Speaker]]:
    """(guesser, subject): everybody who sits there says something of all others who have spoken."""
    spoken = set(speakers)
    return [(guesser, subject) for guesser in seats for subject in seats if subject != guesser and subject in spoken]


def guess_all(
    transcript: Transcript,
    experts: Mapping[Speaker, ExpertChat],
    tokens: Mapping[Speaker, CountTokens],
    ask: Asked,
    done: Mapping[str, Any],
    announce: Callable[[Guess], None],
    min_mass: float,
) -> Flow[list[Guess]]:
    """All guesses on a dialogue, those of models side by side, then a person's; each is announced as soon as it is there. Those that are
    `done`, by id, are not made again."""
    people = people_of(transcript.experts)
    wanted = guesses_wanted(tuple(transcript.experts), (turn.speaker for turn in transcript.turns))

    def made(guesser: Speaker, subject: Speaker) -> Flow[Guess]:
        empty = Guess(id=f"{transcript.id}/{guesser}-of-{subject}/guess", transcript=transcript.id, guesser=guesser, subject=subject,
                      is_human=subject in people)  # fmt: skip
        kept = done.get(empty.id)
        if isinstance(kept, Guess):
            found = kept
        elif guesser in people:
            said, why = ask(guesser, subject)
            problem = None if said is not None else "does not know"
            found = empty.model_copy(update={"human": said, "reason": one_line(why), "problem": problem, "fault": problem and "unsure"})
        else:
            found = yield from by_model(transcript, empty, experts[guesser], tokens.get(guesser), min_mass)
        announce(found)
        return found

    first = yield from together([made(*one) for one in wanted if one[0] not in people])
    return first + (yield from together([made(*one) for one in wanted if one[0] in people]))


def by_model(transcript: Transcript, guess: Guess, expert: ExpertChat, count: CountTokens | None, min_mass: float) -> Flow[Guess]:
    """What a model says, or why it says nothing."""
    prompts = expert.settings.prompts
    if not prompts.guess:
        return guess.model_copy(update=_null(Fault("wording", "its wordings have no `guess`: it was not trained to tell who is human")))
    messages = _messages(transcript, guess, expert, count)
    begins = fill(prompts.guess_prefix, expert.special_tokens, subject=guess.subject.upper())
    decoding = replace(expert.settings.judge, max_new_tokens=WHY_TOKENS)
    (answer,) = yield [Ask(guess.guesser, GenerateRequest(f"{guess.id}/why", messages, decoding, stop=("\n", begins)), label="judge")]
    assert isinstance(answer, Completion)
    why = expert.read_answer(answer.text).text.strip()
    prefix = f"{why}\n{begins}" if why else begins
    (scored,) = yield [Ask(guess.guesser, ScoreRequest(guess.id, messages, tuple(prompts.guess_answers), prefix=prefix), label="judge")]
    assert isinstance(scored, Scores)
    found = read(scored.logprobs, min_mass)
    if not why and found["human"] is not None:  # it has answered at once: why, is asked afterwards
        said = begins + prompts.guess_answers[0 if found["human"] else 1].rstrip(". ") + prompts.guess_because
        request = GenerateRequest(f"{guess.id}/because", messages, decoding, said, stop=("\n",))
        (answer,) = yield [Ask(guess.guesser, request, label="judge")]
        assert isinstance(answer, Completion)
        why = f"{prompts.guess_because.strip()} {expert.read_answer(answer.text).text.strip()}"
    return guess.model_copy(update={"reason": one_line(why), **found})


def read(logprobs: Sequence[float], min_mass: float) -> dict[str, Any]:
    """What the log probabilities of (a human, an AI) say.

    >>> read([math.log(0.6), math.log(0.2)], 0.5)  # .6 / .8 = .75
    {'human': True, 'chance': 0.75, 'mass': 0.8}
    """
    held = rating.mass(logprobs)
    if held is None or len(logprobs) != 2:
        return _null(Fault("not_finite", "the probability of an answer is not a number"))
    if max(logprobs) == -math.inf or held < min_mass:
        return {"mass": held, **_null(Fault("low_mass", rating.low_mass(held, min_mass, "two answers")))}
    human, machine = (math.exp(p) for p in logprobs)
    chance = round(human / (human + machine), 6)
    found = {"human": human > machine, "chance": chance, "mass": round(held, 6)}
    return found | (_null(Fault("tie", "both answers are as likely")) if human == machine else {})


def _null(fault: Fault) -> dict[str, Any]:
    return {"human": None, "problem": fault.problem, "fault": fault.kind}


def _messages(transcript: Transcript, guess: Guess, expert: ExpertChat, count: CountTokens | None) -> tuple[Message, ...]:
    """The question with the dialogue, the oldest turns left out until it fits."""
    prompts, tokens, turns = expert.settings.prompts, expert.special_tokens, transcript.turns
    room = expert.context_length - WHY_TOKENS - rating.SAMPLED_TOKENS
    for start in range(len(turns)):
        lines = [f"({start} oldest turns left out)"] if start else []
        lines += [f"{turn.speaker.upper()}: {quote(turn.text, tokens)}" for turn in turns[start:]]
        asked = fill(
            prompts.guess, tokens, name=guess.guesser.upper(), subject=guess.subject.upper(), topic=transcript.topic,
            transcript=Safe("\n".join(lines)),
        )  # fmt: skip
        messages = expert.chat("", [Message("user", asked)])
        if count is None or count(messages) <= room:
            break
    return messages


# -- the table ------------------------------------------------------------------------------------------------------------


def turing_table(guesses: Iterable[Guess]) -> dict[str, dict[str, Any]]:
    """By subject: whether it is a human, how often it was taken for one, with Wilson's interval over all guesses, and what is null."""
    found: dict[str, dict[str, Any]] = {}
    for guess in guesses:
        row = found.setdefault(guess.subject, {"is_human": guess.is_human, "said_human": 0, "n": 0, "null": 0})
        row["null"] += guess.human is None
        row["n"] += guess.human is not None
        row["said_human"] += bool(guess.human)
    return {subject: row | dict(_interval(row["said_human"], row["n"])) for subject, row in sorted(found.items())}


def turing_of(run: RunReader) -> dict[str, dict[str, dict[str, Any]]]:
    """The table of a run as its summary has it, under "turing"; nothing where nobody guessed."""
    table = turing_table(run.guesses())
    return {"turing": table} if table else {}


def _interval(said: int, n: int) -> Iterator[tuple[str, float | None]]:
    low, high = wilson(said, n) if n else (None, None)
    yield from (("rate", said / n if n else None), ("rate_low", low), ("rate_high", high))
