"""`expertchat judge SOURCE [SOURCE ...]`: judges on what exists."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from expertchat.command.named_models import model_overrides
from expertchat.command.work import Work
from expertchat.doors.entry import announce, composed
from expertchat.sources.words import as_overrides

if TYPE_CHECKING:
    from expertchat.command.checks import Problems
    from expertchat.command.launch import Job
    from expertchat.folder.reader import RunReader
    from expertchat.lab.config import LabConfig

_JUDGE = re.compile(r"judge(?:@([\w-]+))?=(\[[\w, -]*\]|[\w-]+)")
_WHOLE = re.compile(r"\+judge@judges\.([\w-]+)=([\w-]+)")
_MODEL = re.compile(r"model(?:@([\w-]+))?=([^,]+)")


def run(arguments: Sequence[str]) -> int:
    """One run, or a sweep."""
    return composed("judge", meant(arguments), _one)


def meant(arguments: Sequence[str]) -> list[str]:
    """The arguments as overrides: what is judged, and the judges by their short names."""
    return list(named_judges(as_overrides(arguments)))


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
            yield from model_overrides(model, f"judges.{name}.model")
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
    from expertchat.command.check_judges import reward_models_here
    from expertchat.sources.rows import HUB

    models = [(model.path, model.models_dir) for _, model in config.experts.items() if model.backend == "local"]
    models += reward_models_here(config.judges.root)
    return models + [(path.removeprefix(HUB).partition(":")[0], None) for path in config.source.path if path.startswith(HUB)]


def check(config: LabConfig, here: bool) -> Problems:
    """What keeps it from being run."""
    from expertchat.command import check_runs as runs
    from expertchat.command.check_judges import reward_models, wordings
    from expertchat.command.checks import told
    from expertchat.sources.read import source_problems
    from expertchat.trackers.tracking import check_trackers

    yield from source_problems(config.source)
    if not config.judges.root:
        yield "judges: nobody judges; name one, as judge=expected or judge=[length,random], or +judge@judges.NAME=expected"
    yield from wordings(config)
    yield from reward_models(config, here)
    yield from told(check_trackers, config.report_to)
    yield from runs.texts(config)
    yield from runs.cast(config, "judge", here)


def _wanted(config: LabConfig) -> int:
    """The opinions that are owed on the items that there are now."""
    from expertchat.lab.judge import Bench
    from expertchat.lab.kinds import judges_of
    from expertchat.sources.read import read_items

    items = read_items(config.source, lambda text: None)
    judges = judges_of(Bench(config, {}, {}), items)
    return sum(len(judge.owes(item, n)) for judge in judges for item in items if judge.takes(item) for n in range(config.repeats))


def _done(run: RunReader) -> int:
    return sum(1 for _ in run.lines("opinions"))


WORK = Work("an opinion", _wanted, _done)
