"""How far the policy has gone from its base: the KL divergence, sampled on the replies that the policy itself has given in a round.

KL(policy || base) = E[log policy(y|x) - log base(y|x)] over y that the policy draws, and the candidates of a round are such y: their mean
is an unbiased estimate (k1 of Schulman 2020, http://joschu.net/blog/kl-approx.html), which may lie a little below 0. The base is always the
untouched model, whatever the reference of the loss is. Of a reply that the token limit cut the tokens that are there count.

Log probabilities are those of the plain softmax. Where candidates are drawn otherwise (a temperature, top-p), the mean is over what
is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from expertchat.backends.likelihood import likelihoods
from expertchat.preferences.candidates import Sampled
from expertchat.records import Figure
from expertchat.training.learner import Learner


class Moved(NamedTuple):
    """Of one reply, by its candidate's id: log policy - log base and the sum of the policy's entropies, in nats; and its tokens."""

    id: str
    log_ratio: float
    entropy: float
    tokens: int


def moved(learner: Learner, groups: Sequence[Sampled]) -> list[list[Moved]]:
    """For each history, every reply that the learner's present policy has given there and whose tokens are known.

    Those that thought before they spoke are left out: they are not trained on, and most of their tokens are thoughts.
    """
    chosen = [
        [(c.id, tuple(c.ids)) for c in one.candidates if c.ids and c.policy_version == learner.version and c.altered != "thinking"]
        for one in groups
        if one.prompt_ids
    ]
    prompts = [tuple(one.prompt_ids) for one in groups if one.prompt_ids]
    known = [(prompt, [ids for _, ids in replies]) for prompt, replies in zip(prompts, chosen, strict=True)]
    policy, base = likelihoods(learner.policy, known), likelihoods(learner.base, known)
    return [
        [
            Moved(name, mine.logp - its.logp, mine.entropy, len(ids))
            for mine, its, (name, ids) in zip(of_policy, of_base, replies, strict=True)
        ]
        for of_policy, of_base, replies in zip(policy, base, chosen, strict=True)
    ]


def drift(found: Sequence[Sequence[Moved]]) -> dict[str, Figure]:
    """`kl`, nats a reply; `kl_token` and `entropy`, nats a token. None where nothing is known, or a number is not finite."""
    replies = [one for of_history in found for one in of_history]
    tokens = sum(one.tokens for one in replies)
    total, entropy = sum(one.log_ratio for one in replies), sum(one.entropy for one in replies)
    if not tokens or not math.isfinite(total) or not math.isfinite(entropy):
        return {"kl": None, "kl_token": None, "entropy": None}
    return {"kl": total / len(replies), "kl_token": total / tokens, "entropy": entropy / tokens}
