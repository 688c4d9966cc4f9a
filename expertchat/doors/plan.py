"""`expertchat plan`: will it fit, and what goes on which GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from expertchat.doors.entry import composed

if TYPE_CHECKING:
    from expertchat.command.checks import Problems
    from expertchat.command.launch import Job
    from expertchat.plan.config import PlanConfig


def run(arguments: Sequence[str]) -> int:
    """The plan as a table; measured too, where that is asked for."""
    return composed("plan", arguments, _one)


def _one(job: Job) -> int:
    from expertchat.plan.run import run_plan
    from expertchat.views.plan import print_measured, print_plan

    return run_plan(job.config, print_plan, print_measured)


def check(config: PlanConfig, here: bool) -> Problems:
    """What keeps it from being run."""
    from expertchat.command.check_models import short
    from expertchat.command.check_places import new_file_problem
    from expertchat.command.checks import told
    from expertchat.plan.job import embedder_of, model_of, parse_gpus

    if config.out and (problem := new_file_problem("out", config.out)):
        yield problem
    wrong = told(parse_gpus, config.gpus) if config.gpus != "auto" else []
    yield from wrong
    for seat, model in config.experts.items():
        key = f"experts.{seat}"
        for problem in told(model_of, model, seat, key):
            yield f"{key}.path={model.path}: {short(problem.removeprefix(f'{key}.path={model.path}: '), model.path)}"
    paths = [model.path if model.backend != "scripted" else "scripted" for _, model in config.experts.items()]
    for problem in told(embedder_of, config.embedder, paths):
        path = config.embedder.path
        yield problem if problem.startswith("embedder.") else f"embedder.path={path}: {short(problem, path)}"
    if wrong or config.gpus == "auto":
        return
    count = len(parse_gpus(config.gpus))
    if config.server.seat != "none":
        if config.server.gpus > count:
            yield f"server.gpus={config.server.gpus}: there are {count} GPUs (gpus={config.gpus}); the last ones are the server's"
        count = max(0, count - config.server.gpus)
    numbers = [(f"experts.{seat}", model.device) for seat, model in config.here.items()]
    for key, device in [*numbers, ("embedder", config.embedder.device)]:
        if device.startswith("cuda:") and int(device[5:]) >= count:
            yield f"{key}.device={device}: there are {count} GPUs (gpus={config.gpus}); set {key}.device=auto"
