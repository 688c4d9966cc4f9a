"""What vLLM is started with: its command line, its variables and its GPUs, and what it cannot serve."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from expertchat.backends.folders import resolve_path, settings_of
from expertchat.backends.gguf import is_gguf
from expertchat.config import ConfigError, ModelConfig
from expertchat.plan.vllm import SLOTS
from expertchat.serving.config import RANKS, ServeConfig, VllmConfig
from expertchat.text.redaction import is_secret_name

DTYPES = {"auto": "auto", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
# No network, no word home. Whoever sets these keeps their value.
QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")  # of this environment, not of vLLM's
SEEN = 100  # likeliest tokens that it tells the probabilities of: expected ratings are then off by none of their options
EVERYWHERE, HERE = "0.0.0.0", "127.0.0.1"
FOUR_BITS = "vLLM takes 4 bits from a folder that holds them already: name one (AWQ, GPTQ), or set model.quantization=none"


# -- what it cannot ---------------------------------------------------------------------------------------------------------


def model_problems(config: ModelConfig) -> Iterator[str]:
    """Why vLLM is not started for a model."""
    if config.backend != "local":
        yield f"model.backend={config.backend}: what is served is loaded from a folder; leave backend away"
    if config.trained is not None:
        yield (
            f"model.trained={config.trained}: vLLM serves whole models; make one first (expertchat merge adapter={config.trained} "
            "out=FOLDER) and serve that"
        )
    if config.quantization in ("nf4", "int8"):
        yield f"model.quantization={config.quantization}: is bitsandbytes' form, made while a model is loaded; {FOUR_BITS}"
    with suppress(ConfigError):  # a folder that is not there is told of where it is looked for
        place = resolve_path(config.path, config.models_dir)
        if isinstance(place, Path) and is_gguf(place):
            yield f"model.path={config.path}: a GGUF file runs on llama.cpp, in the run's own process: model.backend=llamacpp there"


def server_problems(config: VllmConfig, here: bool) -> Iterator[str]:
    """What keeps vLLM from being started; `here`: on this machine."""
    if config.container is not None:
        try:
            words = shlex.split(config.container)
        except ValueError as error:
            words = []
            yield f"server.container: is no command line ({error}); write it as for a shell: apptainer exec --nv FILE.sif"
        if here and words and shutil.which(words[0]) is None:
            yield f"server.container: there is no {words[0]} here; load its module, or start vLLM from an environment: server.python"
    elif here and shutil.which(os.path.expanduser(config.python or sys.executable)) is None:
        yield f"server.python={config.python}: is no program; name the python of an environment with vLLM (or export EXPERTCHAT_VLLM)"
    if config.key_from is not None and not is_secret_name(config.key_from):
        yield f"server.key_from={config.key_from}: names a variable, called like a secret so that it is hidden everywhere: ..._API_KEY"
    elif here and config.key_from is not None and not os.environ.get(config.key_from):
        yield f"server.key_from={config.key_from}: the environment variable is not set; export it in the shell"
    if isinstance(config.gpus, list) and len(config.gpus) != len(set(config.gpus)):
        yield f"server.gpus={config.gpus}: names a GPU twice"


def require_vllm(config: VllmConfig) -> None:
    """Raise ConfigError where the environment has no vLLM. That of a container shows when it starts."""
    if config.container is not None:
        return
    python = os.path.expanduser(config.python or sys.executable)
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    try:
        done = subprocess.run([python, "-c", look], env=variables(config, None, os.environ), capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"server.python={python}: does not start ({error})") from None
    if done.returncode:
        raise ConfigError(
            f"server.python={python}: has no vLLM; make it an environment of its own (python -m venv vllm; vllm/bin/pip install vllm) and "
            "name that: server.python=vllm/bin/python, or export EXPERTCHAT_VLLM"
        )


# -- how it is started ------------------------------------------------------------------------------------------------------


def command(config: ServeConfig, folder: Path, port: int, host: str, gpus: int) -> list[str]:
    """The command line. `folder`: the model's, whole; `gpus`: how many it has, 0 on a CPU."""
    server, model = config.server, config.model
    python = os.path.expanduser(server.python or ("python3" if server.container else sys.executable))
    found = [*shlex.split(server.container or ""), python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    found += ["--served-model-name", config.name, "--host", host, "--port", str(port), "--seed", str(config.run.seed % 2**32)]
    found += ["--dtype", DTYPES[model.dtype], "--max-num-seqs", str(server.requests)]
    if model.context_length is not None:
        found += ["--max-model-len", str(model.context_length)]
    if gpus:
        found += ["--gpu-memory-utilization", f"{server.memory:g}"]
    if gpus > 1:
        found += ["--tensor-parallel-size", str(gpus)]
    found += ["--max-logprobs", str(SEEN)]
    if server.adapters:
        rank = next(rank for rank in RANKS if rank >= server.adapters)
        found += ["--enable-lora", "--max-lora-rank", str(rank), "--max-loras", str(SLOTS)]
    return [*found, *server.options]


def variables(config: VllmConfig, gpus: Sequence[str] | None, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment that it gets. `gpus`: those that it sees; None: as they are."""
    found = QUIET | {name: value for name, value in environment.items() if name not in OURS}
    if config.adapters:
        found["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "true"
    if gpus is not None:
        found["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    if config.key_from is not None:
        found["VLLM_API_KEY"] = found.get(config.key_from, "")  # not on the command line, where everybody on the machine could read it
    given = dict(word.partition("=")[::2] for word in config.environment if "=" in word)
    taken = {word for word in config.environment if "=" not in word}
    return {name: value for name, value in (found | given).items() if name not in taken}


# -- its GPUs ---------------------------------------------------------------------------------------------------------------


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """What CUDA_VISIBLE_DEVICES would call the GPUs that this process may use. Nothing heavy is asked."""
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [one.strip() for one in named.split(",") if one.strip() not in ("", "-1", "NoDevFiles")]
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = [line for line in done.stdout.splitlines() if line.startswith("GPU ")] if not done.returncode else []
    return [str(i) for i in range(len(lines))]


def shared_out(wanted: int | list[int] | None, there: Sequence[str], beside: bool) -> tuple[list[str], list[str]]:
    """The server's GPUs, and those that are left. Raises ConfigError.

    >>> shared_out(2, ["0", "1", "2", "3"], True), shared_out([0], ["4", "5"], True), shared_out(None, ["0", "1"], False)
    ((['2', '3'], ['0', '1']), (['4'], ['5']), (['0', '1'], []))
    """
    if wanted is None:
        if beside and there:
            raise ConfigError(
                f"server.gpus: is not set, and a command runs beside the server; say how many of the {len(there)} GPUs are the server's "
                "(0: it computes on the CPU)"
            )
        return list(there), []
    chosen = wanted if isinstance(wanted, list) else [len(there) - wanted + i for i in range(wanted)]
    if len(chosen) > len(there):
        chosen = list(range(len(chosen)))
    if lacking := [number for number in chosen if number >= len(there)]:
        raise ConfigError(f"server.gpus={wanted}: there {'is' if len(there) == 1 else 'are'} {len(there)} here (GPU {lacking[0]} is not)")
    return [there[number] for number in chosen], [one for i, one in enumerate(there) if i not in chosen]


def four_bits_of(folder: Path) -> str | None:
    """How a folder's weights are quantised: awq, gptq, ...; None: they are not."""
    saved = settings_of(folder).get("quantization_config")
    return str(saved.get("quant_method", "")) or None if isinstance(saved, dict) else None
