"""What judges of the lab need: wordings for what they are asked, and reward models that are here."""

from __future__ import annotations

from collections.abc import Mapping

from expertchat.backends.folders import find_here
from expertchat.backends.reward_folders import classifier_problem
from expertchat.command import check_models as models
from expertchat.command.checks import Problems, told
from expertchat.config import RewardModelConfig
from expertchat.judging.fits import lacks
from expertchat.lab.config import JudgeConfig, LabConfig


def classifier_problems(config: RewardModelConfig) -> Problems:
    """What is wrong with the folder of a classifier of types."""
    if config.backend == "server":
        yield "a server does not say of which type a text is; name the classifier's folder"
        return
    yield from told(find_here, config.path, config.revision, classifier_problem, config.models_dir)


def reward_models(config: LabConfig, here: bool) -> Problems:
    """Reward models that are none, or not here."""
    for name, judge in config.judges.items():
        if here and (valuer := judge.reward_model) is not None:
            yield from models.reward_model_problems(f"judges.{name}.reward_model", valuer)


def reward_models_here(judges: Mapping[str, JudgeConfig]) -> list[tuple[str, str | None]]:
    """(path, models_dir) of each reward model that this process loads."""
    found = [judge.reward_model for judge in judges.values() if judge.reward_model is not None]
    return [(valuer.path, valuer.models_dir) for valuer in found if valuer.backend == "local"]


def wordings(config: LabConfig) -> Problems:
    """Judges whose wordings have no words for what they are to be asked."""
    for name, judge in config.judges.items():
        if judge.model is None:
            continue
        prompts, principles = judge.model.prompts, config.principles_of(judge)
        if judge.form == "pairwise":
            wanted = "compare_principle" if principles else "compare"
            lacking = [] if getattr(prompts, wanted) else [f"have no `{wanted}`"]
            lacking += lacks(prompts, None, judge.reference or config.judging.references is not None)
        else:
            shown = judge.examples or config.judging.examples
            lacking = lacks(prompts, principles, judge.reference or config.judging.references is not None, bool(shown))
        remedy = f"take judges.{name}.form=expected, prompts@judges.{name}.model.prompts=standard, or another model"
        if judge.model.family == "world":
            knows = "the embedded models were trained to rate categories and nothing else"
            remedy = f"{knows}: take judges.{name}.form=expected, or another model"
        yield from (f"judges.{name}: the wordings of its model (family {judge.model.family}) {one}; {remedy}" for one in lacking)
