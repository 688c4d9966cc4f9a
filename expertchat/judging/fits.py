"""Whether those who judge in a run can be asked so: known from the config alone, all problems at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from expertchat.config import ConfigError, ExpertsConfig, JudgingConfig, ModelConfig
from expertchat.judging.roles import judges_of
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


def judging_problems(judging: JudgingConfig, experts: ExpertsConfig, third: ModelConfig | None, reward_model: object) -> list[str]:
    """What is wrong with who judges: a model that is not there, or one that knows no words for what it is to be asked."""
    problems = []
    if "third" in judging.judges and third is None:
        problems.append("judging.judge=third needs a third model: add +model@third=NAME")
    if "reward_model" in judging.judges and reward_model is None:
        problems.append("judging.judge=reward_model needs one: add +reward_model=default reward_model.path=FOLDER_OR_HUB_ID")
    if judging.judges == ("reward_model",):
        given = [key for key in ("principles", "references", "examples") if getattr(judging, key) is not None]
        problems += [f"judging.{key}: a reward model is asked nothing, it has no use for them; leave them out" for key in given]
    models = dict(experts.items()) | ({"third": third} if third is not None else {})
    seats = [role.seat for seat in experts.seats for role in judges_of(judging.judges, seat, experts.seats, judging.partners)]
    for seat in dict.fromkeys(seat for seat in seats if seat in models):
        model = models[seat]
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
