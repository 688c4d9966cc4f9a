"""What can be known of a command before any weight is loaded and anything is written: all of it, at once.

The config itself is checked where it is composed (expertchat.config); here it meets the files, the machine and the models' headers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from expertchat.backends.folders import find_here
from expertchat.command import check_models as models
from expertchat.command import check_places as places
from expertchat.config import ConfigError, ModelConfig
from expertchat.experts.registry import family_class, persona_brief
from expertchat.folder.run import run_folder
from expertchat.judging.roles import model_paths, seats_of
from expertchat.talk.cast import what_is_loaded
from expertchat.talk.topics import given_topics

Problems = Iterator[str]


def problems_of(command: str, config: Any, here: bool = True) -> list[str]:
    """Everything that keeps a checked config from being run. `here` False: it runs on another machine, with models of its own."""
    homeless = list(places.home_problems(config.model_dump()))
    if command in ("converse", "online_dpo") and not homeless and (run_folder(config.run.dir, command) / "summary.json").is_file():
        return []  # it is done: nothing of it is needed any more
    return homeless or list(dict.fromkeys(CHECKS[command](config, here)))


def _told(make: Callable[..., object], *given: Any) -> list[str]:
    """The problems that `make` raises."""
    try:
        make(*given)
    except ConfigError as error:
        return error.problems
    return []


# -- runs -------------------------------------------------------------------------------------------------------------------


def _converse(config: Any, here: bool) -> Problems:
    yield from _texts(config)
    if _has_topics(config):
        yield from _told(given_topics, config.topics, config.conversation.count, config.run.seed)
    yield from _cast(config, "converse", here)


def _online_dpo(config: Any, here: bool) -> Problems:
    from expertchat.evaluation.evaluator import check
    from expertchat.training.held_out import check_given
    from expertchat.training.tracking import check_trackers

    if config.train.sharding != "pipeline":
        from expertchat.training.ranks import own_gpu

        own_gpu()  # of several processes each has one, and torch must not have been asked before it is chosen
    yield from _texts(config)
    if _has_topics(config):
        yield from _told(check_given, config)
    yield from _told(check, config)
    yield from _told(check_trackers, config.report_to)
    yield from _cast(config, "online_dpo", here)


def _has_topics(config: Any) -> bool:
    """Whether there are topics that can be looked at now."""
    topics = config.topics
    return topics.source == "list" or (topics.source == "file" and places.can_be_read_twice(topics.file))


def _texts(config: Any) -> Problems:
    """Families, personas and scripts of every seat."""
    for seat, model in seats_of(config).items():
        key = models.key_of(seat)
        yield from (f"{key}.{problem}" for problem in _told(family_class, model.family))
        if model.persona.file and places.can_be_read_twice(model.persona.file):
            yield from (f"{key}.persona.file: {problem}" for problem in _told(persona_brief, model.persona))
        if model.backend == "scripted":
            yield from _script(key, model.script)


def _script(key: str, script: str | None) -> Problems:
    from expertchat.backends.scripted import read_script

    if not script:
        yield f"{key}.script: is not set, but {key}.backend=scripted needs it; name a JSONL file of replies"
    elif places.can_be_read_twice(script):
        yield from (f"{key}.script: {problem}" for problem in _told(read_script, Path(script)))


def _cast(config: Any, command: str, here: bool) -> Problems:
    """The run's folder, its models and its devices."""
    folder = run_folder(config.run.dir, command)
    if problem := places.new_folder_problem("run.dir", folder):
        yield problem
    seats, problems = seats_of(config), list[str]()
    found = models.find_seats(seats, problems)
    yield from problems if here else ()
    lost = list[str]()
    if here:
        if config.embeds:
            yield from models.embedder_problems(config.embedder, model_paths(config))
        devices = {f"{models.key_of(seat)}.device": model.device for seat, model in seats.items() if model.backend == "local"}
        lost = list(models.device_problems(devices | {"embedder.device": config.embedder.device}))
        yield from lost
    for seat, model in seats.items():
        yield from models.context_problems(seat, model, found.get(seat))
        if here and model.backend == "local" and not any(text.startswith(f"{models.key_of(seat)}.device=") for text in lost):
            yield from models.loading_problems(seat, model, found.get(seat))
    if command == "online_dpo":
        yield from _learners(config, found, here)


# -- training ---------------------------------------------------------------------------------------------------------------


def _learners(config: Any, found: models.Found, here: bool) -> Problems:
    """Who cannot be trained so, and layers that a model has not."""
    from expertchat.backends.loading import Wanted
    from expertchat.training.config import learner_problems

    train, experts = config.train, dict(config.experts.items())
    loaded = {seat: what_is_loaded(Wanted(model)) for seat, model in experts.items()}
    scripted = [seat for seat in config.trained if experts[seat].backend == "scripted"]
    yield from learner_problems(config, scripted, loaded)
    for seat in config.trained:
        model = experts[seat]
        if seat in scripted:
            continue
        if train.method == "lora":
            if seat in found:
                yield from _targets(seat, train.targets, model, found[seat])
            continue
        kind = f"train.method={train.method}: the model of expert {seat} must be plain fp32 weights, for in others small steps get lost"
        if model.quantization in ("nf4", "int8"):
            yield f"{kind}; set experts.{seat}.quantization=none (not {model.quantization}), or train=lora"
        if model.dtype in ("bf16", "fp16"):
            yield f"{kind}; set experts.{seat}.dtype=fp32 (not {model.dtype}), or train=lora"


def _targets(seat: str, wanted: list[str], model: ModelConfig, folder: Path) -> Problems:
    there = models.linear_names(folder, model.quantization)
    if there is None or _told(family_class, model.family):
        return
    names = wanted or list(family_class(model.family).family.lora_targets)
    lacking = [name for name in names if name not in there]
    if (wanted and lacking) or len(lacking) == len(names):
        known = ", ".join(sorted(there))
        yield f"train.targets: the model of expert {seat} has no linear layers named {', '.join(lacking)}; there are {known}"


# -- other commands ---------------------------------------------------------------------------------------------------------


def _bench(config: Any, here: bool) -> Problems:
    settings = config.bench
    if settings.out and (problem := places.new_file_problem("bench.out", settings.out)):
        yield problem
    if not settings.model.startswith("random:"):
        problems = _told(lambda: find_here(settings.model, models_dir=settings.models_dir))
        yield from (f"bench.model={settings.model}: {models.short(problem, settings.model)}" for problem in problems)
    yield from models.device_problems({"bench.device": settings.device})
    if config.persona.file:
        yield from (f"persona.file: {problem}" for problem in _told(persona_brief, config.persona))


def _merge(config: Any, here: bool) -> Problems:
    from expertchat.training.source import find_source

    yield from models.device_problems({"device": config.device})
    if problem := places.new_folder_problem("out", config.out, begun=False):
        yield problem
    yield from _told(find_source, config)
    if config.base:
        problems = _told(lambda: find_here(config.base, models_dir=config.models_dir))
        yield from (f"base={config.base}: {models.short(problem, config.base)}" for problem in problems)


def _plan(config: Any, here: bool) -> Problems:
    from expertchat.plan.job import embedder_of, model_of, parse_gpus

    if config.out and (problem := places.new_file_problem("out", config.out)):
        yield problem
    wrong = _told(parse_gpus, config.gpus) if config.gpus != "auto" else []
    yield from wrong
    for seat, model in config.experts.items():
        key = f"experts.{seat}"
        for problem in _told(model_of, model, seat, key):
            yield f"{key}.path={model.path}: {models.short(problem.removeprefix(f'{key}.path={model.path}: '), model.path)}"
    paths = [model.path if model.backend == "local" else "scripted" for _, model in config.experts.items()]
    for problem in _told(embedder_of, config.embedder, paths):
        path = config.embedder.path
        yield problem if problem.startswith("embedder.") else f"embedder.path={path}: {models.short(problem, path)}"
    numbers = [(f"experts.{seat}", model.device) for seat, model in config.experts.items()]
    for key, device in [*numbers, ("embedder", config.embedder.device)] if not wrong and config.gpus != "auto" else ():
        count = len(parse_gpus(config.gpus))
        if device.startswith("cuda:") and int(device[5:]) >= count:
            yield f"{key}.device={device}: there are {count} GPUs (gpus={config.gpus}); set {key}.device=auto"


def _models(config: Any, here: bool) -> Problems:
    if config.models_dir and not Path(config.models_dir).expanduser().is_dir():
        yield f"models_dir={config.models_dir}: no such folder; create it, or correct EXPERTCHAT_MODELS or models_dir"
    if config.out and (problem := places.new_file_problem("out", config.out)):
        yield problem


def _world(config: Any, here: bool) -> Problems:
    if config.out and (problem := places.new_folder_problem("out", config.out)):
        yield problem


CHECKS: dict[str, Callable[[Any, bool], Problems]] = {
    "converse": _converse,
    "online_dpo": _online_dpo,
    "bench": _bench,
    "merge": _merge,
    "plan": _plan,
    "models": _models,
    "world": _world,
}
