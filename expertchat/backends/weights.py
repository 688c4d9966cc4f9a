"""From a checked model folder (or GGUF file) to a model and its tokenizer on their device."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from expertchat.backends.architecture import architecture
from expertchat.backends.folders import settings_of, tensor_shapes
from expertchat.backends.gguf import is_gguf, rounded_twice
from expertchat.backends.hardware import choose_attention, choose_device, choose_dtype, gpus_of, parameters_of
from expertchat.backends.layouts import BLOCK, FUSED, Experts, experts_of, fused_experts, has_linear_experts
from expertchat.backends.quantization import bits_config, choose_quantization, find_card, footprint_note, saved_kind, settle
from expertchat.backends.unloadable import tokenizer_failure, weights_failure
from expertchat.backends.unpacking import unpacked
from expertchat.config import ConfigError


class Loaded(NamedTuple):
    """A model in evaluation form, its tokenizer, and the automatic choices with their reasons."""

    model: Any
    tokenizer: Any
    notes: tuple[str, ...]


def load_weights(
    folder: Path,
    name: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    attention: str = "auto",
    quantization: str = "none",
    device_map: dict[str, int | str] | None = None,
    linear_experts: bool | None = None,
    accept: Callable[[Any], object] = lambda tokenizer: None,
) -> Loaded:
    """Load a checked model folder, or a GGUF file. Raises ConfigError with one message.

    `device_map`: which part goes where, overriding `device`'s own spread; `linear_experts`: those of a mixture as linear layers (None:
    where they are quantised). `accept` is given the tokenizer, before the weights are read; it may raise ConfigError.
    """
    where, device_note = choose_device(device)
    parameters = parameters_of(folder)
    gpus = gpus_of(where, device_map)
    number, dtype_note = choose_dtype(dtype, where, parameters, gpus)
    file, file_note = folder, None
    if is_gguf(file):
        folder, file_note = unpacked(file, number, name)
    try:
        built = architecture(folder, name)
        kind, attention_note = choose_attention(attention, where, number, built, gpus)
    except ConfigError as error:
        raise ConfigError([_named(name, problem) for problem in error.problems]) from None
    settings = settings_of(folder)
    saved = saved_kind(settings)
    try:
        bits, bits_note = choose_quantization(quantization, find_card(where, gpus), parameters * number.itemsize, saved)
    except ConfigError as error:
        raise ConfigError([_named(name, problem) for problem in error.problems]) from None
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of a kernel package that nobody needs
    arguments: dict[str, Any] = {
        "dtype": number,
        "device_map": device_map or _map(where, bits != "none"),
        "attn_implementation": kind,
        "use_safetensors": True,
        "trust_remote_code": False,
        "local_files_only": True,
        "output_loading_info": True,
    }
    if bits != "none" and saved is None:
        arguments["quantization_config"] = bits_config(bits, number)
    linear = bits != "none" if linear_experts is None else linear_experts
    if experts := experts_of(settings.get("model_type")):
        _check_experts(built.config, experts, set(tensor_shapes(folder)), name, folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # whatever a broken folder makes the loaders raise, the user gets one message
        raise ConfigError(f"model {name} ({folder}): {tokenizer_failure(error)}") from None
    accept(tokenizer)
    try:
        rebuilt = experts is not None and linear and not has_linear_experts(built.config.model_type)
        model, report = _rebuilt(folder, arguments) if rebuilt else _any(folder, arguments)
    except Exception as error:
        options = {"dtype": dtype, "device": device, "attention": kind, "quantization": quantization}
        raise ConfigError(f"model {name} ({folder}): {weights_failure(error, folder, where, options)}") from None
    _check(report, name, folder)
    if bits != "none":
        settle(model, bits, name)
    if arguments["device_map"] is None:
        model.to(where)
    else:
        lean_hooks(model)
    size_note = footprint_note(model) if bits != "none" else None
    twice = rounded_twice(file, bits) if is_gguf(file) else None
    notes = (file_note, device_note, dtype_note, bits_note, twice, attention_note, size_note, _unused(report))
    return Loaded(model.eval(), tokenizer, tuple(note for note in notes if note))


def _named(name: str, problem: str) -> str:
    return problem if problem.startswith("model ") else f"model {name}: {problem}"


def _map(where: str, quantised: bool) -> Any:
    """Straight to where they belong, not through main memory."""
    if where == "balanced":
        return where
    return {"": where} if quantised or where.startswith("cuda") else None


def _any(folder: Path, arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    both: Any = AutoModelForCausalLM.from_pretrained(folder, **arguments)
    return both


def _rebuilt(folder: Path, arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A mixture whose experts become linear layers, from the published layout or from the fused one."""
    from expertchat.backends.linear_experts import linear_class, linear_config, unfused

    own = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    experts, config = experts_of(own.model_type), linear_config(own)
    if experts is None or not any(fused_experts(name) for name in tensor_shapes(folder)):
        return _any(folder, arguments | {"config": config})
    without = ("local_files_only", "use_safetensors")
    rest = {key: value for key, value in arguments.items() if key not in without}
    tensors = unfused(_tensors(folder), experts)
    both: Any = linear_class(own.model_type).from_pretrained(None, config=config, state_dict=tensors, **rest)
    both[0].config.name_or_path = str(folder)
    if (folder / "generation_config.json").is_file():
        both[0].generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return both


def _tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, mapped from their files rather than read."""
    from safetensors.torch import load_file

    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def _check_experts(config: Any, experts: Experts, names: set[str], model: str, folder: Path) -> None:
    """Raise ConfigError unless the folder holds every weight of every expert, and no others.

    transformers, when it fuses the experts, takes what there is in the order of the names: one of a wrong name only changes places.
    """
    block = BLOCK if any(f".{BLOCK}.experts." in name for name in names) else experts.block
    places = [f"model.layers.{i}.{block}.experts" for i in range(config.num_hidden_layers)]
    if any(fused_experts(name) for name in names):
        wanted = {f"{place}.{leaf}" for place in places for leaf in FUSED}
    else:
        count = getattr(config, experts.count)
        wanted = {f"{place}.{e}.{leaf}.weight" for place in places for e in range(count) for leaf in experts.names}
    ends = (".weight", ".bias", *(f".{leaf}" for leaf in FUSED))  # not the parts of a saved quantisation state
    there = {name for name in names if ".experts." in name and name.endswith(ends)}
    problems = []
    for which, odd in (("lack", sorted(wanted - there)), ("hold", sorted(there - wanted))):
        if odd:
            more = "" if which == "lack" else ", which its config.json has no place for"
            problems.append(f"{which} {len(odd)} tensors of experts ({odd[0]}{', ...' if len(odd) > 1 else ''}){more}")
    if problems:
        raise ConfigError(f"model {model} ({folder}): its weights {' and '.join(problems)}: download it again")


def _check(report: dict[str, Any], name: str, folder: Path) -> None:
    """Raise ConfigError unless every weight of the model was in the folder."""
    missing = sorted(report.get("missing_keys", ()))
    if missing:
        raise ConfigError(
            f"model {name} ({folder}): its weights lack {len(missing)} tensors ({missing[0]}, ...); "
            "they do not belong to its config.json: download it again"
        )


def _unused(report: dict[str, Any]) -> str | None:
    """A note on tensors of the folder that the model has no place for."""
    names = sorted(name for name in report.get("unexpected_keys", ()) if not name.endswith("inv_freq"))
    more = ", ..." if len(names) > 1 else ""
    return f"{len(names)} tensors of its folder are not used, config.json has no place for them ({names[0]}{more})" if names else None


def lean_hooks(model: Any) -> None:
    """On several devices, keep the hooks that carry the state from one part to the next, and drop those of every layer within a part.

    What the inner ones look after is in its place already, and each costs time at every token.
    """
    from accelerate.hooks import remove_hook_from_module

    places = set(getattr(model, "hf_device_map", None) or {}) | {""}
    for path, module in model.named_modules():
        if hasattr(module, "_hf_hook") and path not in places:
            remove_hook_from_module(module)
