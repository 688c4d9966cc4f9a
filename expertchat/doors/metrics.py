"""`expertchat metrics SOURCE`: what can be measured in texts without a judge."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from expertchat.doors.entry import announce, composed, say

if TYPE_CHECKING:
    from expertchat.command.checks import Problems
    from expertchat.command.launch import Job
    from expertchat.metrics.config import MetricsConfig

TYPE = "type"  # what a classifier is called that is named without a name
_CLASSIFIER = re.compile(r"classifier(?:@(\w+))?")
SHORT = {"reference": "source.columns.reference"}  # keys of the source that are often wanted


def run(arguments: Sequence[str]) -> int:
    """The figures of a source, or of each of a sweep."""
    from expertchat.command.named_models import with_models
    from expertchat.sources.words import as_overrides

    return composed("metrics", with_models(as_overrides([one for word in arguments for one in _whole(word)])), _one)


def _whole(word: str) -> list[str]:
    """An argument whose key is written in short.

    >>> _whole("reference=gold"), _whole("classifier=runs/one")
    (['source.columns.reference=gold'], ['+reward_model@classifiers.type=default', "classifiers.type.path='runs/one'"])
    """
    key, equals, value = word.partition("=")
    if (found := _CLASSIFIER.fullmatch(key)) is not None and value:
        name, quoted = found[1] or TYPE, value.replace("'", "\\'")
        return [f"+reward_model@classifiers.{name}=default", f"classifiers.{name}.path='{quoted}'"]
    return [f"{SHORT.get(key, key)}{equals}{value}"]


def _one(job: Job) -> int:
    announce(job)
    from expertchat.metrics.run import run_metrics
    from expertchat.sources.read import read_items
    from expertchat.views.metrics import markdown, print_metrics

    config: MetricsConfig = job.config
    return run_metrics(config, read_items(config.source, say), print_metrics, markdown, say)


def named(config: MetricsConfig) -> list[tuple[str, str | None]]:
    """The models that may have to be fetched: what is named, and no embedder that is found by itself."""
    from expertchat.sources.rows import HUB

    found: list[tuple[str, str | None]] = [(path.removeprefix(HUB), None) for path in config.source.path if path.startswith(HUB)]
    if config.model is not None and config.model.backend == "local":
        found.append((config.model.path, config.model.models_dir))
    found += [(one.path, one.models_dir) for one in config.classifiers.root.values()]
    if config.embedder.path not in ("auto", "mpnet_or_minilm"):
        found.append((config.embedder.path, config.embedder.models_dir))
    return found


def check(config: MetricsConfig, here: bool) -> Problems:
    """What keeps it from being run."""
    from expertchat.command import check_models as models
    from expertchat.command.check_judges import classifier_problems
    from expertchat.command.check_places import new_file_problem
    from expertchat.sources.read import source_problems

    yield from source_problems(config.source)
    for key, path in (("rows", config.rows), ("out", config.out)):
        if path and (problem := new_file_problem(key, path)):
            yield problem
    if config.model is not None:
        yield from models.model_problems("model", config.model)
    for name, one in config.classifiers.root.items() if here else ():
        yield from (f"classifiers.{name}.path={one.path}: {problem}" for problem in classifier_problems(one))
    if config.embedder.backend == "server" and "similarity" in config.measures:
        yield "embedder.backend=server: similarities are those of an embedder that is loaded here; name a folder, embedder.path=FOLDER"
    elif config.embedder.path != "auto" and "similarity" in config.measures:
        yield from models.embedder_problems(config.embedder, [])
    yield from models.device_problems({"embedder.device": config.embedder.device})
