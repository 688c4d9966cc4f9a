"""Models, embedders and devices of a config, before any weight is read: from paths, headers and what the machine has."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from expertchat.backends.folders import embedder_problem, find_here, settings_of, tensor_shapes
from expertchat.backends.gguf import is_gguf, lacks_package
from expertchat.backends.layouts import context_of, experts_of, fused_experts
from expertchat.backends.learnt import find_learnt, misfit
from expertchat.backends.loading import embedder_path, other_embedder
from expertchat.backends.reward_folders import problem_for
from expertchat.backends.served.address import ADDRESS, is_folder, places_of
from expertchat.command.checks import told
from expertchat.config import NOT_SEATS, ConfigError, EmbedderConfig, ModelConfig, RewardModelConfig
from expertchat.text.redaction import is_secret_name

Found = Mapping[str, Path]
"""By seat: the folder of each model that is here."""


def server_problems(key: str, config: ModelConfig | EmbedderConfig | RewardModelConfig) -> Iterator[str]:
    """What is lacking to ask a server, as far as it is known without asking it."""
    if config.backend != "server" and config.url is None:
        return
    urls = places_of(config.url)
    if not urls:
        yield f"{key}.url: is not set, but {key}.backend=server needs it; name its address, as http://HOST:8000/v1"
    wrong = [url for url in urls if not ADDRESS.fullmatch(url) and not is_folder(url)]
    yield from (f"{key}.url={url}: is no address; write http://HOST:PORT/v1, or the folder of expertchat serve" for url in wrong)
    if not config.model:
        yield f"{key}.model: is not set, but {key}.backend=server needs it; say what the server calls the model"
    if importlib.util.find_spec("openai") is None:
        yield f"{key}.backend=server: needs the package openai: pip install 'expertchat[server]'"
    if config.key_from is not None and not is_secret_name(config.key_from):
        yield (
            f"{key}.key_from={config.key_from}: names the environment variable that holds the key, and one that is called like a secret, "
            "so that its value is hidden wherever it may turn up: ..._API_KEY"
        )
    elif config.key_from is not None and not os.environ.get(config.key_from):
        yield f"{key}.key_from={config.key_from}: the environment variable is not set; export it in the shell"


def reward_model_problems(key: str, config: RewardModelConfig, pairs: bool = True) -> Iterator[str]:
    """What is wrong with a reward model. `pairs`: whether it may be one that compares two texts."""
    if config.backend == "server":
        yield from server_problems(key, config)
        given = config.model_dump(include={*config.only_here}, exclude_none=True)
        named = [f"{key}.{name}={value}" for name, value in given.items()]
        yield from (f"{one}: is not to be had of a server; leave it out, or take the model's folder (path=)" for one in named)
        return
    looked = told(find_here, config.path, config.revision, problem_for(config.label, pairs), config.models_dir)
    yield from (f"{key}.path={config.path}: {problem}" for problem in looked)


def apart_problems(key: str, config: ModelConfig) -> Iterator[str]:
    """What cannot be had of a model that computes apart: decodings that no server has."""
    if config.backend not in ("server", "llamacpp") and config.url is None:
        return
    yield from server_problems(key, config)
    if config.family == "world" and config.backend == "server":
        yield f"{key}.family=world: has wordings for the embedded models alone; begin with model@{key}=server"
    if config.backend == "llamacpp" and importlib.util.find_spec("xllamacpp") is None:
        yield f"{key}.backend=llamacpp: needs the package xllamacpp: pip install 'expertchat[llamacpp]'"
    stages = (config.decoding.topic, config.decoding.reply, config.decoding.judge)
    if wrong := {stage.method for stage in stages if stage.method not in ("sampling", "greedy")}:
        yield (
            f"{key}.decoding: {' and '.join(sorted(wrong))} search is not to be had of a server; take decoding@{key}.decoding=sampling"
        )
    if any(stage.no_repeat_ngram for stage in stages):
        yield f"{key}.decoding: no_repeat_ngram is not to be had of a server; set it to 0"


def find_seats(seats: Mapping[str, ModelConfig], problems: list[str]) -> dict[str, Path]:
    """The folders of the models that are here. A hub id that can be fetched is neither here nor a problem."""
    found: dict[str, Path] = {}
    said: dict[tuple[str, str | None, str | None], tuple[list[str], str]] = {}
    for seat, model in seats.items():
        if model.backend not in ("local", "llamacpp"):
            continue
        same = (model.path, model.revision, model.models_dir)
        try:
            folder = find_here(model.path, model.revision, models_dir=model.models_dir)
        except ConfigError as error:
            said.setdefault(same, ([], error.problems[0]))[0].append(f"{key_of(seat)}.path={model.path}")
            continue
        if folder is not None and model.backend == "local" and is_gguf(folder) and (lacking := lacks_package()):
            said.setdefault(same, ([], lacking))[0].append(f"{key_of(seat)}.path={model.path}")
        elif folder is not None:
            found[seat] = folder
    problems += [f"{', '.join(keys)}: {short(problem, path)}" for (path, _, _), (keys, problem) in said.items()]
    return found


def trained_problems(key: str, model: ModelConfig, folder: Path | None) -> Iterator[str]:
    """Why what a run has trained does not go onto a model: no such run, nothing in it, of another base, broken."""
    if model.trained is None:
        return
    said = f"{key}.trained={model.trained}"
    if model.backend != "local":
        yield f"{said}: backend={model.backend} has no weights; leave it away"
        return
    if problems := list(unfit(said, model.trained, model.path, folder, model.models_dir)):
        yield from problems
        return
    learnt = find_learnt(model.trained)
    if not learnt.shares and model.quantization in ("nf4", "int8"):
        what = "an adapter on top of another training" if learnt.adapter else "trained weights"
        yield (
            f"{said}: is {what}, which {model.quantization} weights cannot take; set {key}.quantization=none, or merge it once "
            f"(expertchat merge adapter={model.trained} out=FOLDER) and name that folder"
        )


def learning_on_problems(key: str, model: ModelConfig) -> Iterator[str]:
    """Why a model cannot learn on from what a run has trained: it is worked into its weights."""
    if model.trained and model.quantization in ("nf4", "int8"):
        yield (
            f"{key}.trained={model.trained}: a model that learns on has it worked into its weights, which cannot be done in "
            f"{model.quantization}: merge it once (expertchat merge adapter={model.trained} out=FOLDER), and name FOLDER as {key}.path"
        )


def unfit(said: str, word: str, path: str, folder: Path | None, models_dir: str | None) -> Iterator[str]:
    """Why a word means no trained weights, or those of another model than `path`."""
    try:
        if problem := misfit(find_learnt(word), path, folder, models_dir):
            yield f"{said}: {problem}"
    except ConfigError as error:
        yield from (f"{said}: {problem}" for problem in error.problems)


BASE = "base"  # what a model is held against, which no dialogue has a seat for


def key_of(seat: str) -> str:
    """The place of a seat's model in the config: a seat that is none of a dialogue is called by it."""
    return seat if seat in NOT_SEATS or seat == BASE or "." in seat else f"experts.{seat}"


def short(problem: str, path: str) -> str:
    """A problem with a path that is named already."""
    for start in (f"model path {path}: ", f"model folder {path}: ", f"model {path}: "):
        problem = problem.removeprefix(start)
    return problem.replace(f" (looked in {path})", "")


def model_problems(key: str, config: ModelConfig) -> Iterator[str]:
    """Why the one model of a command, at `key` of its config, cannot be loaded."""
    if config.backend != "local":
        return
    try:
        folder = find_here(config.path, config.revision, models_dir=config.models_dir)
    except ConfigError as error:
        yield f"{key}.path={config.path}: {short(error.problems[0], config.path)}"
        return
    if folder is not None and is_gguf(folder) and (lacking := lacks_package()):
        yield f"{key}.path={config.path}: {lacking}"
    yield from trained_problems(key, config, folder)
    yield from device_problems({f"{key}.device": config.device})


def embedder_problems(config: EmbedderConfig, model_paths: Sequence[str]) -> Iterator[str]:
    """Why there is no embedder."""
    if config.backend == "server":
        yield from server_problems("embedder", config)
        return
    path, _ = embedder_path(config, model_paths)
    try:
        find_here(path, check=embedder_problem, models_dir=config.models_dir)
    except ConfigError as error:
        why = "" if config.path == path else f" (embedder.path={config.path} means this one)"
        yield f"embedder.path={path.partition('#')[0]}{why}: {short(error.problems[0], path)}{other_embedder(path)}"


# -- the machine ------------------------------------------------------------------------------------------------------------


def device_problems(devices: Mapping[str, str]) -> Iterator[str]:
    """Devices that this machine has not; by their keys. torch is asked for those alone that it must be asked for."""
    for key, wanted in devices.items():
        if wanted not in ("auto", "cpu"):
            from expertchat.backends.hardware import choose_device

            try:
                choose_device(wanted)
            except ConfigError as error:
                yield f"{key}={wanted}: {error.problems[0].removeprefix(f'device={wanted}').lstrip(', ').removeprefix('but ')}"


def loading_problems(seat: str, config: ModelConfig, folder: Path | None) -> Iterator[str]:
    """What a seat's model cannot be loaded as, on a device that is there: attention and quantisation."""
    saved = settings_of(folder).get("quantization_config") if folder is not None else None
    if config.attention == "flash_attention_2":
        from expertchat.backends.hardware import choose_attention, choose_device, choose_dtype

        where = choose_device(config.device)[0]
        try:
            choose_attention(config.attention, where, choose_dtype(config.dtype, where)[0])
        except ConfigError as error:
            yield from (f"{key_of(seat)}.attention: {problem}" for problem in error.problems)
    if config.quantization == "nf4" and not saved:  # runs everywhere, so torch need not be asked
        if importlib.util.find_spec("bitsandbytes") is None:
            yield f"{key_of(seat)}.quantization=nf4: needs the package bitsandbytes: pip install bitsandbytes, or set it to none"
    elif config.quantization == "int8" or saved:
        from expertchat.backends.hardware import choose_device
        from expertchat.backends.quantization import choose_quantization, find_card, saved_kind

        try:
            kind = saved_kind(settings_of(folder)) if folder is not None else None
            choose_quantization(config.quantization, find_card(choose_device(config.device)[0]), 0, kind)
        except ConfigError as error:
            yield from (f"{key_of(seat)}.quantization: {problem}" for problem in error.problems)


def context_problems(seat: str, config: ModelConfig, folder: Path | None) -> Iterator[str]:
    """Replies that fill the whole context, so that no prompt has room beside them."""
    known = context_of(settings_of(folder)) if folder is not None else 4096 if config.backend == "scripted" else None
    context = config.context_length or known
    if context is None:
        return
    name = "context_length" if config.context_length else "its model"
    most = config.decoding.reply.max_new_tokens
    if most >= context:
        yield (
            f"{key_of(seat)}.decoding.reply.max_new_tokens={most}: leaves no room for a prompt, for the context holds {context} tokens "
            f"({name}); lower it"
        )


# -- what is trained --------------------------------------------------------------------------------------------------------


def linear_names(folder: Path, quantization: str = "auto") -> set[str] | None:
    """The names of a model's linear layers, by the headers of its weights; None where these do not tell (GGUF has names of its own).

    The experts of a mixture are linear layers where they are quantised alone, its router never is one.
    """
    if is_gguf(folder):
        return None
    shapes = tensor_shapes(folder)
    flat = [name for name, shape in shapes.items() if name.endswith(".weight") and len(shape) == 2 and shape[1] > 1]
    found = {name.split(".")[-2] for name in flat if not any(part in name for part in ("embed", "lm_head", "wte", "wpe", "norm"))}
    packed = {name.split(".")[-2] for name in shapes if name.endswith((".weight.absmax", ".SCB")) or ".weight.quant_state" in name}
    if experts := experts_of(settings_of(folder).get("model_type")):
        if any(fused_experts(name) for name in shapes):
            found |= set(experts.names)  # what they become where they are quantised
        found -= {experts.router, *(experts.names if quantization == "none" else ())}
    return found | packed
