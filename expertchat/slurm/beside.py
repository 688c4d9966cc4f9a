"""A server in the same job as the run that asks it: `expertchat submit COMMAND ... --serve "MODEL server.gpus=2"`.

The job starts `expertchat serve` with the run as the command beside it: the server has GPUs of its own, is waited for, and ends with it.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from expertchat.backends.folders import resolve_path
from expertchat.backends.served.address import is_folder, places_of
from expertchat.command.launch import load_whole
from expertchat.command.named_models import quoted
from expertchat.command.table import COMMANDS, find
from expertchat.config import ConfigError, ModelConfig
from expertchat.plan.job import Gpu, find_shape
from expertchat.plan.memory import GIB, Shape, shape_of
from expertchat.plan.shapes import PUBLISHED
from expertchat.plan.vllm import Serving
from expertchat.serving.config import NAME, ServeConfig
from expertchat.serving.vllm import four_bits_of, server_problems, shared_out
from expertchat.slurm.checks import Checked, find_models, weights_of
from expertchat.slurm.config import ClusterConfig
from expertchat.slurm.loads import embedder_of, models_of, reward_models_of

# What vLLM's kernels for a form of 4 bits need, and what GPUs have: compute capability.
NEEDS = {"awq": 7.5, "gptq": 6.0}
HAVE = {"p100": 6.0, "v100": 7.0, "t4": 7.5}
FORMS = {"awq": 4, "gptq": 4, "fp8": 8}


def served_by(text: str, folder: Path) -> ServeConfig:
    """What --serve asks for; its folder stands beside the run's unless it names one. Raises ConfigError."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"--serve {text}: is no line of words ({error}); write them as 'MODEL server.gpus=2'") from None
    place = COMMANDS[NAME].overrides
    theirs = find(place)(words) if place is not None else words
    if not any(word.startswith("run.dir=") for word in theirs):
        theirs = [*theirs, f"run.dir={quoted(str(folder.with_name(f'{folder.name}-server')))}"]
    try:
        return load_whole(NAME, [*theirs, "view=plain"], here=False)
    except ConfigError as error:
        raise ConfigError([f"--serve: {problem}" for problem in error.problems]) from None


def of_the_run(cluster: ClusterConfig, served: ServeConfig | None) -> ClusterConfig:
    """The cluster as the run finds it: without the server's GPUs. Raises ConfigError."""
    return cluster if served is None else cluster.model_copy(update={"gpus": cluster.gpus - _count(served, cluster, beside=True)})


def beside_problems(config: Any, served: ServeConfig, ranks: int, array: object) -> list[str]:
    """What keeps a run and its server out of one job."""
    found = list[str]()
    if array is not None:
        found.append("--serve: the tasks of an array would have a server each; submit one as a job of its own, which all of them ask")
    if ranks > 1:
        found.append("--serve: a run of several processes is started by srun; submit the server as a job of its own")
    place = Path(str(served.run.dir)).resolve()
    urls = [model.url for model in models_of(config).values()] + [valuer.url for valuer in reward_models_of(config).values()]
    urls += [embedder.url] if (embedder := embedder_of(config)) is not None else []
    folders = [word for url in urls for word in places_of(url) if is_folder(word)]
    if not any(Path(url).expanduser().resolve() == place for url in folders):
        found.append(
            f"--serve: nobody asks this server; give the model of an expert its folder: experts.b.url={served.run.dir} "
            f"experts.b.model={served.name} (with model@experts.b=server)"
        )
    return found


def check_server(served: ServeConfig, cluster: ClusterConfig, beside: bool) -> Checked:
    """Its model, its environment, and whether it fits on its GPUs."""
    checked, server = Checked(), served.server
    find_models(served, cluster, checked)
    if server.container is None and server.python is None:
        checked.doubts.append(
            "server.python: is not set, and vLLM stands in an environment of its own; name its python, which the nodes can see (or export "
            "EXPERTCHAT_VLLM), or server.container"
        )
    elif server.container is None:
        checked.problems += [problem for problem in server_problems(server, here=True) if problem.startswith("server.python")]
    try:
        count = _count(served, cluster, beside)
    except ConfigError as error:
        checked.problems += error.problems
        return checked
    _fits(served, cluster, count, checked)
    return checked


def _fits(served: ServeConfig, cluster: ClusterConfig, count: int, checked: Checked) -> None:
    model = served.model
    if not count or cluster.gpu_gib is None:
        checked.notes.append(f"server: no GPU is asked for, so vLLM computes {served.name} on the CPU")
        return
    try:
        form, shape = _form_and_shape(model)
    except ConfigError:
        return  # told as a model that is not there
    kind = next((name for name in HAVE if (cluster.gpu_type or "").lower().startswith(name)), "")
    if form in NEEDS and kind and HAVE[kind] < NEEDS[form]:
        why = f"vLLM's kernels for {form} need a GPU of compute capability {NEEDS[form]}, a {kind} has {HAVE[kind]}"
        checked.doubts.append(f"server: {why}; take a folder in GPTQ")
    if kind and model.dtype != "fp16":
        checked.notes.append(f"server: a {kind} has no bf16, which many folders say; model.dtype=fp16 is sure")
    serving = Serving(
        served.name, shape, (Gpu(int(cluster.gpu_gib * GIB)),) * count, FORMS.get(form or "", 16), "fp16",  # type: ignore[arg-type]
        served.server.memory, model.context_length or shape.context or 4096, served.server.requests, served.server.adapters,
        sum(weights_of(served)) or None,
    )  # fmt: skip
    if model.context_length is None and not serving.fits and serving.held:
        lower = f"server: its longest request is {serving.tokens} tokens, as the model has it; set model.context_length"
        checked.doubts.append(f"{lower}={max(256, serving.held // 256 * 256)} or less")
        return
    checked.doubts += [f"server: {problem}" for problem in serving.problems()]
    if serving.fits:
        checked.notes.append(f"server: fits, {serving.told()} (an estimate: vLLM measures when it starts)")


def _form_and_shape(model: ModelConfig) -> tuple[str | None, Shape]:
    """How its weights are quantised, and its shape: by its folder, else by its name, "...-GPTQ" of one that is published."""
    place = resolve_path(model.path, model.models_dir)
    if isinstance(place, Path):
        return four_bits_of(place), find_shape(model)
    name, _, form = place.rpartition("/")[2].rpartition("-")
    if form.lower() in NEEDS and (whole := next((one for one in PUBLISHED if one.endswith(f"/{name}")), None)):
        return form.lower(), shape_of(PUBLISHED[whole])
    return None, find_shape(model)


def _count(served: ServeConfig, cluster: ClusterConfig, beside: bool) -> int:
    """How many of a node's GPUs are the server's. Raises ConfigError."""
    return len(shared_out(served.server.gpus, [str(number) for number in range(cluster.gpus)], beside)[0])
