"""From judgements to the scores that pairs are made of: controls, the whole dialogue's part, what is taken off for length and repeats."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from expertchat.backends.base import Embedder, EmbedRequest
from expertchat.config import Combine
from expertchat.judging import wim
from expertchat.preferences.candidates import Bundle, mean, shown_as
from expertchat.preferences.config import RewardConfig, Rules
from expertchat.preferences.ensemble import of_dialogue
from expertchat.preferences.functions import Worth, worths
from expertchat.records import Candidate, Reward, Score, Wim
from expertchat.text.likeness import blank, weight, words
from expertchat.text.measures import PROGRAMS
from expertchat.text.sentences import asks, sentences

LEAST_WORDS = 5  # of a sentence that can be a repeat; shorter ones are courtesies


def scored(bundles: Sequence[Bundle], rules: Rules, embedder: Embedder | None) -> list[Score]:
    """The score of every candidate of a round with what it comes from; its value is None where there is no number.

    The same bundles give the same scores, whoever computes them. `embedder` is needed for reward.wim=shuffled and for
    reward.repeat_penalty.
    """
    settings = rules.reward
    shuffled = _shuffled(bundles, rules, embedder) if settings.wim == "shuffled" and embedder is not None else {}
    extra = _dialogue_parts(bundles, rules.judging.combine) if settings.dialogue_weight else {}
    again = repeats(bundles, embedder, settings.repeat_cosine) if settings.repeat_penalty and embedder is not None else {}
    found, how = [], rules.judging.combine
    groups = [one for bundle in bundles for one in bundle.sampled]
    together = {c.id: value for one in groups for c, value in zip(one.candidates, one.values(how), strict=True)}
    histories = [shown_as(one, bundle.transcript.topic, rules) for bundle in bundles for one in bundle.sampled]
    worth = worths(histories, rules) if settings.functions else {}
    for candidate, judged in ((c, one.judged(c)) for one in groups for c in one.candidates):
        about = {"id": candidate.id, "transcript": candidate.transcript, "turn": candidate.turn, "speaker": candidate.speaker}
        score = Score(**about, source=settings.kind, sign=settings.sign)  # type: ignore[arg-type]
        if settings.kind == "random":
            found.append(_drawn(score, candidate, rules.seed))
            continue
        if settings.functions:
            score = _by_functions(score, worth[candidate.id])
        else:
            score = _rewarded(score, candidate, _by_judges(score, judged, together[candidate.id], how), settings, shuffled)
        part = settings.dialogue_weight * extra.get((candidate.transcript, candidate.speaker), 0.0) if candidate.continued else 0.0
        long, repeated = settings.length_penalty * candidate.tokens / 100, settings.repeat_penalty * again.get(candidate.id, 0)
        value = None if score.reward is None else settings.sign * (score.reward + part - (long + repeated))
        found.append(score.model_copy(update={"value": value, "dialogue": part, "length_penalty": long, "repeat_penalty": repeated}))
    return found


def _drawn(score: Score, candidate: Candidate, seed: int) -> Score:
    """The control reward.source=random: the draw alone."""
    if blank(candidate.text):
        return score.model_copy(update={"problem": "the reply is blank"})
    drawn = random.Random(f"{seed} {candidate.id}").uniform(-1, 1)
    return score.model_copy(update={"reward": drawn, "value": drawn, "sign": 1})


def _by_functions(score: Score, worth: Worth) -> Score:
    """A score with the reward that the functions come to together, or why there is none."""
    none = [name for name, value in worth.parts.items() if value is None]
    problem = None if worth.value is not None else f"no number from {', '.join(none)}" if none else "the reply is blank"
    return score.model_copy(update={"reward": worth.value, "parts": dict(worth.parts), "problem": problem})


def _by_judges(score: Score, judged: Sequence[Reward], together: float | None, how: Combine) -> Score:
    """A score with the reward that its judges' come to together, or why there is none."""
    problems = dict.fromkeys(one.problem for one in judged if one.problem)
    none = "no other candidate has rewards to be held against" if how == "majority" and len(judged) > 1 else "was not judged"
    problem = None if together is not None else "; ".join(problems) or (None if judged and len(judged) == 1 else none)
    several: dict[str, Any] = {}
    if len(judged) > 1:
        several = {"judges": {one.judge: one.value for one in judged}, "combined": how}
    return score.model_copy(update={"reward": together, "problem": problem, **several})


def _rewarded(score: Score, candidate: Candidate, by_judges: Score, settings: RewardConfig, shuffled: Mapping[str, float | None]) -> Score:
    """A score with its reward: by the program, of the control reward.wim=shuffled, or by its judges; or why there is none."""
    if settings.source != "judge":
        score = measured(score, candidate.text)
    elif settings.wim == "shuffled":
        reward = shuffled.get(candidate.id)
        problem = None if reward is not None else "no WIM score of another history, or no rating"
        score = score.model_copy(update={"reward": reward, "problem": problem})
    else:
        score = by_judges
    if score.reward is not None and not math.isfinite(score.reward):
        return score.model_copy(update={"reward": None, "measured": None, "problem": "the reward is not a number"})
    return score


def measured(score: Score, text: str) -> Score:
    """A score with what the program that it names measures in a reply."""
    program = PROGRAMS[score.source]
    number = program.measure(text)
    if number is None:
        return score.model_copy(update={"problem": "the reply has no words"})
    return score.model_copy(update={"measured": number, "reward": program.reward(number)})


def repeats(bundles: Sequence[Bundle], embedder: Embedder, cosine: float) -> dict[str, int]:
    """How many sentences of each candidate say again what was said before, in its dialogue or in itself.

    Two sentences say the same from `cosine` on, whatever their words. Questions and sentences of fewer than LEAST_WORDS words do not count.
    """
    found: dict[str, int] = {}
    for bundle in bundles:
        for one in bundle.sampled:
            before = [s for turn in bundle.transcript.turns[: one.candidates[0].turn] for s in _claims(turn.text)]
            replies = [_claims(candidate.text) for candidate in one.candidates]
            texts = [*before, *(sentence for reply in replies for sentence in reply)]
            vectors = {text: e.vector for text, e in zip(texts, embedder.embed([EmbedRequest("", t) for t in texts]), strict=True)}
            for candidate, reply in zip(one.candidates, replies, strict=True):
                said = [vectors[text] for text in before]
                found[candidate.id] = 0
                for sentence in reply:
                    found[candidate.id] += any(_same(vectors[sentence], other, cosine) for other in said)
                    said.append(vectors[sentence])
    return found


def _same(one: Sequence[float], other: Sequence[float], cosine: float) -> bool:
    """Whether two sentences say the same; nobody knows of one without a direction."""
    found = wim.cosine(one, other)
    return found is not None and found >= cosine


def _claims(text: str) -> list[str]:
    return [s for s in sentences(text) if not asks(s) and weight(words(s)) >= LEAST_WORDS]


def _shuffled(bundles: Sequence[Bundle], rules: Rules, embedder: Embedder) -> dict[str, float | None]:
    """Each reply scored with the WIM response to a reply of another topic: whatever it says, it does not speak of this one. Where all are
    of one topic it is another dialogue's, where there is one dialogue another history's.

    The responses move on by at least one whole history, by a number of places that the round and the seed draw. A reply has no score where
    there is no other history; of several judges' scores it has the mean.
    """
    groups = [one for bundle in bundles for one in bundle.sampled]
    texts = [(g, c, w) for g, one in enumerate(groups) for c in one.candidates for w in one.wims if w.candidate == c.id]
    most = max((len(one.wims) for one in groups), default=1)
    first = texts[0][1].transcript if texts else ""
    step = random.Random(f"{rules.seed} shuffle {first.partition('/')[0]}").randint(most, max(most, len(texts) - most))
    topics = [bundle.transcript.topic for bundle in bundles for _ in bundle.sampled]
    moved = [_another(texts, topics, i, step) for i in range(len(texts))]
    pairs = [(c.text or " ", w.text or " ") for (_, c, _), w in zip(texts, moved, strict=True) if w is not None]
    embedded = iter(embedder.embed([EmbedRequest("", text) for pair in pairs for text in pair]))
    ratings = {(r.candidate, r.judge): r.rating for one in groups for r in one.rewards}
    found: dict[str, list[float | None]] = {}
    for (_, candidate, own), other in zip(texts, moved, strict=True):
        cosine = None if other is None else _cosine(own, other, next(embedded).vector, next(embedded).vector, rules)
        rating = ratings.get((candidate.id, own.judge))
        reward = None if cosine is None else wim.reward(rating, cosine, rules.judging.z, rules.judging.rating_scale)
        found.setdefault(candidate.id, []).append(reward)
    return {name: mean(values) for name, values in found.items()}


def _another(texts: Sequence[tuple[int, Candidate, Wim]], topics: Sequence[str], at: int, step: int) -> Wim | None:
    """The WIM response `step` places on, or the next one after it that is of another topic, else of another dialogue, else of another
    history; None where there is no other history. `topics`: of each history."""
    group, own, _ = texts[at]
    apart: tuple[Callable[[int, Candidate], bool], ...] = (
        lambda other, one: topics[other] != topics[group],
        lambda other, one: one.transcript != own.transcript,
        lambda other, one: other != group,
    )
    for is_apart in apart:
        for more in range(len(texts)):
            other, one, response = texts[(at + step + more) % len(texts)]
            if is_apart(other, one):
                return response
    return None


def _cosine(own: Wim, other: Wim, reply: Sequence[float], text: Sequence[float], rules: Rules) -> float | None:
    """The WIM score of a reply with another one's response; None where either has no score of its own."""
    if own.cosine is None or other.cosine is None:
        return None
    return rules.judging.wim.empty_score if other.empty else wim.cosine(reply, text)


def _dialogue_parts(bundles: Sequence[Bundle], how: Combine) -> dict[tuple[str, str], float]:
    """(dialogue, speaker) -> its whole reward, its judges' put together, less the mean of that speaker's in this round."""
    every: dict[tuple[str, str], dict[str, float | None]] = {}
    for bundle in bundles:
        for reward in bundle.whole:
            finite = reward.value is not None and math.isfinite(reward.value)
            every.setdefault((bundle.id, reward.subject), {})[reward.judge] = reward.value if finite else None
    values = {key: value for key, given in every.items() if (value := of_dialogue(given, how)) is not None}
    means = {speaker: fmean(v for (_, s), v in values.items() if s == speaker) for speaker in {s for _, s in values}}
    return {key: value - means[key[1]] for key, value in values.items()}
