"""`expertchat judge SOURCE [SOURCE ...]`: judges on what exists."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from expertchat.doors.entry import announce, composed
from expertchat.sources.words import as_overrides

if TYPE_CHECKING:
    from expertchat.command.checks import Problems
    from expertchat.command.launch import Job
    from expertchat.lab.config import LabConfig

_JUDGE = re.compile(r"judge(?:@([\w-]+))?=(\[[\w, -]*\]|[\w-]+)")
_WHOLE = re.compile(r"\+judge@judges\.([\w-]+)=([\w-]+)")
_MODEL = re.compile(r"model(?:@([\w-]+))?=(\w+)")


def run(arguments: Sequence[str]) -> int:
    """One run, or a sweep."""
    return composed("judge", list(named_judges(as_overrides(arguments))), _one)


def _one(job: Job) -> int:
    announce(job)
    from expertchat.lab.run import run_judge
    from expertchat.views.open import open_judging

    config: LabConfig = job.config
    return run_judge(config, ["expertchat", "judge", *job.overrides], open_judging(config.view))


def named_judges(arguments: Sequence[str]) -> Iterator[str]:
    """The short forms of judges and their models as Hydra's; everything else as it is.

    >>> list(named_judges(["judge=[length,expected]", "judge@mine=written", "model=smollm", "model@mine=auto"]))
    ... # doctest: +NORMALIZE_WHITESPACE
    ['+judge@judges.length=length', '+judge@judges.expected=expected', '+judge@judges.mine=written',
     'model@judges.expected.model=smollm', 'model@judges.mine.model=auto']
    """
    judges: dict[str, str] = {}  # name -> option
    models, rest = dict[str, str](), list[str]()
    for word in arguments:
        if found := _JUDGE.fullmatch(word):
            options = [option.strip() for option in found[2].strip("[]").split(",") if option.strip()]
            judges |= {found[1] or option: option for option in options}
        elif found := _WHOLE.fullmatch(word):
            judges[found[1]] = found[2]
        elif found := _MODEL.fullmatch(word):
            models[found[1] or ""] = found[2]
        else:
            rest.append(word)
    yield from (f"+judge@judges.{name}={option}" for name, option in judges.items())
    asking = [name for name, option in judges.items() if _has_model(option)]
    for name in dict.fromkeys([*asking, *filter(None, models)]):
        if model := models.get(name, models.get("")):
            yield f"model@judges.{name}.model={model}"
    if "" in models and not asking:
        rest.append(f"model={models['']}")  # nobody's: let it be refused
    yield from rest


def _has_model(option: str) -> bool:
    """Whether the judge of a file of conf/judge is a model."""
    from expertchat.config import conf_dir

    file = conf_dir() / "judge" / f"{option}.yaml"
    text = file.read_text("utf-8") if file.is_file() else ""
    based = re.search(r"^  - (\w+)$", text.replace("  - _self_\n", ""), re.MULTILINE)
    return "/model@model:" in text or (based is not None and based[1] != option and _has_model(based[1]))


def named(config: LabConfig) -> list[tuple[str, str | None]]:
    """(path, models_dir) of each model that it may have to fetch, and each data set of the hub."""
    from expertchat.sources.rows import HUB

    models = [(model.path, model.models_dir) for _, model in config.experts.items() if model.backend == "local"]
    models += [(judge.reward_model.path, judge.reward_model.models_dir) for _, judge in config.judges.items() if judge.reward_model]
    return models + [(path.removeprefix(HUB).partition(":")[0], None) for path in config.source.path if path.startswith(HUB)]


def check(config: LabConfig, here: bool) -> Problems:
    """What keeps it from being run."""
    from expertchat.backends.folders import find_here
    from expertchat.backends.reward_folders import problem_for
    from expertchat.command import check_runs as runs
    from expertchat.command.checks import told
    from expertchat.sources.read import source_problems

    yield from source_problems(config.source)
    if not config.judges.root:
        yield "judges: nobody judges; name one, as judge=expected or judge=[length,random], or +judge@judges.NAME=expected"
    yield from _wordings(config)
    for name, judge in config.judges.items():
        if here and (valuer := judge.reward_model) is not None:
            looked = told(find_here, valuer.path, valuer.revision, problem_for(valuer.label), valuer.models_dir)
            yield from (f"judges.{name}.reward_model.path={valuer.path}: {problem}" for problem in looked)
    yield from runs.texts(config)
    yield from runs.cast(config, "judge", here)


def _wordings(config: LabConfig) -> Problems:
    """Judges whose wordings have no words for what they are to be asked."""
    from expertchat.judging.fits import lacks

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
