"""`expertchat bench`: how fast a model runs here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from expertchat.doors.entry import composed

if TYPE_CHECKING:
    from expertchat.bench.config import BenchConfig
    from expertchat.command.checks import Problems
    from expertchat.command.launch import Job


def run(arguments: Sequence[str]) -> int:
    """The measurements, each shown when it is there."""
    return composed("bench", arguments, _one)


def _one(job: Job) -> int:
    from expertchat.bench.run import run_bench
    from expertchat.views.bench import BenchView

    view = BenchView()
    try:
        return run_bench(job.config, ["expertchat", "bench", *job.overrides], view)
    finally:
        view.close()


def named(config: BenchConfig) -> list[tuple[str, str | None]]:
    """The model that may have to be fetched."""
    settings = config.bench
    return [] if settings.model.startswith("random:") else [(settings.model, settings.models_dir)]


def check(config: BenchConfig, here: bool) -> Problems:
    """What keeps it from being run."""
    from expertchat.backends.folders import find_here
    from expertchat.command import check_models as models
    from expertchat.command.check_places import new_file_problem
    from expertchat.command.checks import told
    from expertchat.config import EmbedderConfig
    from expertchat.experts.registry import persona_brief

    settings = config.bench
    if settings.out and (problem := new_file_problem("bench.out", settings.out)):
        yield problem
    for path, models_dir in named(config):
        problems = told(lambda path=path, folder=models_dir: find_here(path, models_dir=folder))
        yield from (f"bench.model={path}: {models.short(problem, path)}" for problem in problems)
    if settings.trained is not None:
        yield from models.unfit(f"bench.trained={settings.trained}", settings.trained, settings.model, None, settings.models_dir)
    if "embedding" in settings.parts:
        embedder = EmbedderConfig(path=settings.embedder, models_dir=settings.models_dir)
        yield from (problem.replace("embedder.path=", "bench.embedder=", 1) for problem in models.embedder_problems(embedder, []))
    yield from models.device_problems({"bench.device": settings.device})
    if config.persona.file:
        yield from (f"persona.file: {problem}" for problem in told(persona_brief, config.persona))
