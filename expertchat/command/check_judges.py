"""What judges of the lab need: wordings for what they are asked, and reward models that are here."""

from __future__ import annotations

from expertchat.backends.folders import find_here
from expertchat.backends.reward_folders import classifier_problem, problem_for
from expertchat.command.checks import Problems, told
from expertchat.config import RewardModelConfig
from expertchat.judging.fits import lacks
from expertchat.lab.config import LabConfig


def classifier_problems(config: RewardModelConfig) -> Problems:
    """What is wrong with the folder of a classifier of types."""
    yield from told(find_here, config.path, config.revision, classifier_problem, config.models_dir)


def reward_models(config: LabConfig, here: bool) -> Problems:
    """Reward models that are none, or not here."""
    for name, judge in config.judges.items():
        if here and (valuer := judge.reward_model) is not None:
            looked = told(find_here, valuer.path, valuer.revision, problem_for(valuer.label), valuer.models_dir)
            yield from (f"judges.{name}.reward_model.path={valuer.path}: {problem}" for problem in looked)


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
        remedy = f"take form=expected, prompts@judges.{name}.model.prompts=standard, or another model"
        if judge.model.family == "world":
            remedy = "the embedded models were trained to rate categories and nothing else: take form=expected, or another model"
        yield from (f"judges.{name}: the wordings of its model (family {judge.model.family}) {one}; {remedy}" for one in lacking)
