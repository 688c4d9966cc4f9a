"""What every run needs: texts and scripts, topics, its folder, models and devices that are there."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

from expertchat.command import check_models as models
from expertchat.command import check_places as places
from expertchat.command.checks import Problems, told
from expertchat.config import ModelConfig
from expertchat.experts.registry import family_class, persona_brief
from expertchat.folder.run import run_folder
from expertchat.judging.roles import REWARD_MODEL, model_paths, seats_of


def has_topics(config: Any) -> bool:
    """Whether there are topics, or prompts in their place, that can be looked at now."""
    topics, prompts = config.topics, getattr(config, "prompts", None)
    if prompts is not None and prompts.file is not None:
        return places.can_be_read_twice(prompts.file)
    return topics.source == "list" or (topics.source == "file" and places.can_be_read_twice(topics.file))


def texts(config: Any) -> Problems:
    """Families, personas and scripts of every seat."""
    for seat, model in seats_of(config).items():
        key = models.key_of(seat)
        yield from (f"{key}.{problem}" for problem in told(family_class, model.family))
        if model.persona.file and places.can_be_read_twice(model.persona.file):
            yield from (f"{key}.persona.file: {problem}" for problem in told(persona_brief, model.persona))
        if model.backend == "scripted":
            yield from _script(key, model.script)
        yield from models.apart_problems(key, model)
        if model.url is not None and model.backend == "local" and seat not in getattr(config, "trained", ()):
            yield f"{key}.url={model.url}: nobody asks there, for {key}.backend=local; set it to server (or leave the address out)"


def _script(key: str, script: str | None) -> Problems:
    from expertchat.backends.scripted import read_script

    if not script:
        yield f"{key}.script: is not set, but {key}.backend=scripted needs it; name a JSONL file of replies"
    elif places.can_be_read_twice(script):
        yield from (f"{key}.script: {problem}" for problem in told(read_script, Path(script)))


def cast(config: Any, command: str, here: bool) -> Generator[str, None, models.Found]:
    """The run's folder, its models and its devices. Returns the folders of the models that are here."""
    if problem := places.new_folder_problem("run.dir", run_folder(config.run.dir, command)):
        yield problem
    seats, problems, lost = seats_of(config), list[str](), list[str]()
    if not hasattr(config, "people"):
        people = [seat for seat, model in seats.items() if model.backend == "human"]
        yield from (f"{models.key_of(seat)}.backend=human: a person sits at the table of expertchat converse alone" for seat in people)
    found = models.find_seats(seats, problems)
    if REWARD_MODEL.judge in config.judge_names and (wanted := config.reward_model) is not None:
        problems += models.reward_model_problems("reward_model", wanted, pairs=False)
    for seat, model in seats.items():
        yield from models.trained_problems(models.key_of(seat), model, found.get(seat))
    if here:
        yield from problems
        if config.embeds:
            yield from models.embedder_problems(config.embedder, model_paths(config))
        devices = {f"{models.key_of(seat)}.device": model.device for seat, model in seats.items() if model.backend == "local"}
        lost = list(models.device_problems(devices | {"embedder.device": config.embedder.device}))
        yield from lost
    for seat, model in seats.items():
        yield from models.context_problems(seat, model, found.get(seat))
        if here and model.backend == "local" and not any(text.startswith(f"{models.key_of(seat)}.device=") for text in lost):
            yield from models.loading_problems(seat, model, found.get(seat))
    return found


def named(config: Any) -> list[tuple[str, str | None]]:
    """(path, models_dir) of each model that a run may have to fetch, its embedder among them."""
    others = [value for _, value in config if isinstance(value, ModelConfig)]  # the third
    found = [(m.path, m.models_dir) for m in (*dict(config.experts.items()).values(), *others) if m.backend == "local"]
    embedder, valuer = config.embedder, getattr(config, REWARD_MODEL.backend, None)
    more = [(valuer.path, valuer.models_dir)] if valuer is not None and valuer.backend == "local" else []
    if embedder.backend == "server":
        return [*found, *more]
    if embedder.path == "mpnet_or_minilm":
        return [*found, *more]  # it takes what is here
    if embedder.path != "auto":
        return [*found, *more, (embedder.path, embedder.models_dir)]
    if any(not path.startswith("embedded:") for path, _ in found):
        more.append(("sentence-transformers/all-mpnet-base-v2", embedder.models_dir))  # what auto means then
    return [*found, *more]
