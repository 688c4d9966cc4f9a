"""From judgements to the scores that pairs are made of: controls, the whole dialogue's part, what is taken off for length and repeats."""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import fmean

from expertchat.backends.base import Embedder, EmbedRequest
from expertchat.judging import wim
from expertchat.records import Candidate, Reward, Wim
from expertchat.text import sentences
from expertchat.training.config import OnlineDpoConfig
from expertchat.training.rollout import Bundle

LEAST_WORDS = 5  # of a sentence that can be a repeat; shorter ones are courtesies


def scores(bundles: Sequence[Bundle], config: OnlineDpoConfig, embedder: Embedder | None) -> dict[str, float | None]:
    """The score of every candidate of a round by its id; None where a judgement has no number.

    The same bundles give the same scores, whoever computes them. `embedder` is needed for reward.wim=shuffled and for
    reward.repeat_penalty.
    """
    settings, judged = config.reward, [(c, r) for b in bundles for one in b.sampled for c, r in _judged(one.candidates, one.rewards)]
    if settings.source == "random":
        return {c.id: random.Random(f"{config.run.seed} {c.id}").uniform(-1, 1) for c, _ in judged}
    if settings.wim == "shuffled":
        assert embedder is not None
        found = _shuffled(bundles, config, embedder)
    else:
        found = {c.id: r.value if r is not None else None for c, r in judged}
    extra = _dialogue_parts(bundles) if settings.dialogue_weight else {}
    again = repeats(bundles, embedder, settings.repeat_cosine) if settings.repeat_penalty and embedder is not None else {}
    for candidate, _ in judged:
        value = found[candidate.id]
        if value is not None:
            part = settings.dialogue_weight * extra.get((candidate.transcript, candidate.speaker), 0.0) if candidate.continued else 0.0
            penalty = settings.length_penalty * candidate.tokens / 100 + settings.repeat_penalty * again.get(candidate.id, 0)
            found[candidate.id] = settings.sign * (value + part - penalty)
    return found


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
                    found[candidate.id] += any(wim.cosine(vectors[sentence], other) >= cosine for other in said)
                    said.append(vectors[sentence])
    return found


def _claims(text: str) -> list[str]:
    return [s for s in sentences(text) if not s.rstrip().endswith("?") and len(s.split()) >= LEAST_WORDS]


def _judged(candidates: Sequence[Candidate], rewards: Sequence[Reward]) -> list[tuple[Candidate, Reward | None]]:
    by_id = {reward.candidate: reward for reward in rewards}
    return [(c, by_id.get(c.id)) for c in candidates]


def _shuffled(bundles: Sequence[Bundle], config: OnlineDpoConfig, embedder: Embedder) -> dict[str, float | None]:
    """Each reply scored with the WIM response to a reply of another history: whatever it says, it does not speak of this one.

    The responses move on by at least one whole history, by a number of places that the round and the seed draw.
    """
    groups = [one for bundle in bundles for one in bundle.sampled]
    texts = [(c, w) for one in groups for c, w in zip(one.candidates, one.wims, strict=True)]
    most = max((len(one.candidates) for one in groups), default=1)
    first = texts[0][0].transcript if texts else ""
    step = random.Random(f"{config.run.seed} shuffle {first.partition('/')[0]}").randint(most, max(most, len(texts) - most))
    moved = [texts[(i + step) % len(texts)][1] for i in range(len(texts))]
    pairs = [(c.text or " ", w.text or " ") for (c, _), w in zip(texts, moved, strict=True)]
    vectors = embedder.embed([EmbedRequest("", text) for pair in pairs for text in pair])
    ratings = {r.candidate: r.rating for one in groups for r in one.rewards}
    found: dict[str, float | None] = {}
    for i, ((candidate, own), other) in enumerate(zip(texts, moved, strict=True)):
        cosine = _cosine(own, other, vectors[2 * i].vector, vectors[2 * i + 1].vector, config)
        found[candidate.id] = wim.reward(ratings.get(candidate.id), cosine, config.judging.z)
    return found


def _cosine(own: Wim, other: Wim, reply: Sequence[float], text: Sequence[float], config: OnlineDpoConfig) -> float | None:
    """The WIM score of a reply with another one's response; None where either has no score of its own."""
    if own.cosine is None or other.cosine is None:
        return None
    return config.judging.wim.empty_score if other.empty else wim.cosine(reply, text)


def _dialogue_parts(bundles: Sequence[Bundle]) -> dict[tuple[str, str], float]:
    """(dialogue, speaker) -> its whole reward less the mean of that speaker's in this round."""
    values = {(b.id, r.subject): r.value for b in bundles for r in b.whole if r.value is not None}
    means = {speaker: fmean(v for (_, s), v in values.items() if s == speaker) for speaker in {s for _, s in values}}
    return {key: value - means[key[1]] for key, value in values.items()}
