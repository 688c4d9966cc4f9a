"""Who judges whom, said once; and what a run needs loaded for it, from its config alone.

Judging, the candidates' rewards, the evaluations, the loading and the memory plan all ask here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from expertchat.config import ExpertsConfig, JudgeName, ModelConfig, RewardModelConfig
from expertchat.records import Speaker

Partners = Literal["each", "ring"]


@dataclass(frozen=True)
class Role:
    """Who judges a subject. `judge`: what records call it; `backend`: who is asked; `seat`: whose expert builds the requests (a reward
    model has none)."""

    judge: str
    backend: str
    seat: str


NOBODY = Role("", "", "")
REWARD_MODEL = Role("reward_model", "reward_model", "reward_model")


def judges_of(
    how: JudgeName | Sequence[JudgeName], subject: Speaker, seats: Sequence[Speaker], partners: Partners = "each"
) -> tuple[Role, ...]:
    """The judges of `subject` in a dialogue of `seats`; several where it has several partners, or of an ensemble, each of them once.

    `partners` each: all others, in the order of the seats; ring: the one whose turn is after the subject's alone. A base is the model
    as it was before any training.

    >>> [role.judge for role in judges_of("partner", "a", ("a", "b", "c"))]
    ['b', 'c']
    >>> judges_of("partner_reference", "c", ("a", "b", "c"), "ring")
    (Role(judge='base_a', backend='base_a', seat='a'),)
    >>> [role.judge for role in judges_of(["partner", "self", "third"], "a", ("a", "b"))]
    ['b', 'a', 'third']
    """
    if not isinstance(how, str):
        return tuple(dict.fromkeys(role for one in how for role in judges_of(one, subject, seats, partners)))
    match how:
        case "partner" | "partner_reference":
            others = [seat for seat in seats if seat != subject]
            if partners == "ring":
                others = [seats[(seats.index(subject) + 1) % len(seats)]]
            return tuple(_role(seat, how == "partner_reference") for seat in others)
        case "self" | "moving":
            return (_role(subject),)
        case "reference":
            return (_role(subject, base=True),)
        case "third":
            return (_role("third"),)
        case "reward_model":
            return (REWARD_MODEL,)


def _role(seat: str, base: bool = False) -> Role:
    name = f"base_{seat}" if base else seat
    return Role(name, name, seat)


class Casting(Protocol):
    """What a run's config says of who takes part in it."""

    @property
    def experts(self) -> ExpertsConfig: ...

    @property
    def third(self) -> ModelConfig | None: ...

    @property
    def moderator(self) -> ModelConfig | None: ...

    @property
    def reward_model(self) -> RewardModelConfig | None: ...

    @property
    def judge_names(self) -> Collection[JudgeName]:
        """Who judges in it: for its rewards, unless they ask nobody, and in its evaluations."""
        ...

    @property
    def embeds(self) -> bool:
        """Whether anything is embedded: WIM texts, topics that models propose, the sentences that a penalty for repeats compares."""
        ...


def seats_of(config: Casting) -> dict[str, ModelConfig]:
    """The models that a run needs, by seat; of a command with one model alone that is "model"."""
    if (alone := getattr(config, "model", None)) is not None and not hasattr(config, "experts"):
        return {"model": alone}
    seats = dict(config.experts.items())
    if config.third is not None and "third" in config.judge_names:
        seats["third"] = config.third
    if config.moderator is not None:
        seats["moderator"] = config.moderator
    return seats


def model_paths(config: Casting) -> list[str]:
    """The models' paths, by which the embedder is chosen; a merged model of the embedded world counts as embedded."""
    return ["embedded:" if model.family == "world" else model.path for model in seats_of(config).values()]
