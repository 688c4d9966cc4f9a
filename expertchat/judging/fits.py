"""Whether those who judge in a run can be asked so: known from the config alone, all problems at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from expertchat.config import ConfigError, JudgeName, JudgingConfig
from expertchat.judging.roles import Casting, judges_of
from expertchat.records import Speaker
from expertchat.text.wordings import Prompts
from expertchat.text.written import Principle

_SHOWN = 10  # topics that a message names


def lacks(
    prompts: Prompts, principles: Mapping[str, Principle] | None = None, reference: bool = False, examples: bool = False
) -> list[str]:
    """For what a judge's wordings have no words."""
    found = []
    bare = [name for name, one in (principles or {}).items() if one.category is None]
    if principles and not prompts.principle and bare:
        found.append(f"have no `principle`, and {', '.join(bare)} name no `category` to ask about in its place")
    if reference and not prompts.reference:
        found.append("have no `reference`")
    if examples and not prompts.examples:
        found.append("have no `examples`")
    return found


def judging_problems(judging: JudgingConfig, config: Casting, asked: Sequence[JudgeName], subjects: Sequence[Speaker]) -> list[str]:
    """What is wrong with who is `asked` to judge `subjects`: a model that is not there, or one without words for what it is to be asked."""
    experts, third = config.experts, config.third
    problems, own = [], [name for name in asked if name in judging.judges]
    if "third" in own and third is None:
        problems.append("judging.judge=third needs a third model: add +model@third=NAME")
    if "reward_model" in own and config.reward_model is None:
        problems.append("judging.judge=reward_model needs one: add +reward_model=default reward_model.path=FOLDER_OR_HUB_ID")
    if set(asked) == {"reward_model"}:
        given = [key for key in ("principles", "references", "examples") if getattr(judging, key) is not None]
        problems += [f"judging.{key}: a reward model is asked nothing, it has no use for them; leave them out" for key in given]
    models = dict(experts.items()) | ({"third": third} if third is not None else {})
    seats = [role.seat for seat in subjects for role in judges_of(asked, seat, experts.seats, judging.partners)]
    for seat in dict.fromkeys(seat for seat in seats if seat in models):
        model = models[seat]
        if model.backend == "human":  # who is asked in other words
            continue
        place = seat if seat == "third" else f"experts.{seat}"
        remedy = f"take prompts@{place}.prompts=standard, or write it"
        if model.family == "world":
            remedy = "the embedded models were trained for categories alone: judging.principles=embedded asks about those"
        problems += [
            f"judging: the wordings of {place} (family {model.family}) {lacking}; {remedy}"
            for lacking in lacks(model.prompts, judging.principles, judging.references is not None, judging.examples is not None)
        ]
    return problems


def check_references(judging: JudgingConfig, topics: Iterable[str]) -> None:
    """Raise ConfigError where topics have no reference though judging.references is set."""
    if judging.references is None:
        return
    missing = [topic for topic in dict.fromkeys(topics) if judging.reference(topic) is None]
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise ConfigError(
            f"judging.references: has no reference for {', '.join(missing[:_SHOWN])}{more}; write them, or leave these topics out (it has "
            f"{len(judging.references)})"
        )


_OF_PROBABILITIES = ("expected", "pairwise", "principles")  # forms of a judge that have nothing else


def unscored(config: Any, scores: Mapping[str, bool]) -> list[str]:
    """Who is asked for probabilities alone and tells none; `scores`: by seat, whether its model does. With judging.form=both what is
    sampled remains."""
    without = {seat for seat, told in scores.items() if not told}
    problems, judging, experts = list[str](), getattr(config, "judging", None), config.experts
    asked = {role.seat for subject in experts.seats for role in judges_of(sorted(config.judge_names), subject, experts.seats)}
    if judging is not None and (judging.form == "expected" or judging.principles is not None):
        how = "judging.principles" if judging.principles is not None else "judging.form=expected"
        problems += [f"{how}: the model of {_place(seat)} tells no probabilities; {_REMEDY}" for seat in sorted(asked & without)]
    if "moderator" in without:
        problems.append("conversation.order=moderator: the moderator's model tells no probabilities; take another, or another order")
    for name, judge in dict(getattr(config, "judges", {}).items()).items():
        if judge.kind == "model" and judge.form in _OF_PROBABILITIES and f"judges.{name}.model" in without:
            problems.append(f"judges.{name}.form={judge.form}: its model tells no probabilities; take form=written, or another model")
    return problems


def _place(seat: str) -> str:
    return seat if seat == "third" else f"experts.{seat}"


_REMEDY = "take judging.form=sampled, or a judge that does"
